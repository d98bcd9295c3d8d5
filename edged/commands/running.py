"""`edged init`, `run` and `check`: a configuration, and the daemon."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from edged.commands.options import ConfigOption, DeviceChoice, complain
from edged.errors import ConfigError
from edged.results import printable


def init(
    out: Annotated[Path, typer.Argument(metavar="FILE", help="The configuration to write.")] = Path("edged.toml"),
    model: Annotated[
        Path | None,
        typer.Option(metavar="BUNDLE", help="A folder that `python -m export` wrote; asked for if not given."),
    ] = None,
    inbox: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The folder to watch, made if need be; asked for if not given.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option(metavar="DIR", help="For journal and results; by default edged-state beside FILE.")
    ] = None,
    name: Annotated[
        str, typer.Option(metavar="NAME", help="What the source is called in results and metrics.")
    ] = "line1",
    port: Annotated[
        int, typer.Option(min=1, max=65535, help="Of the page and the metrics, on this machine alone.")
    ] = 9108,
) -> int:
    """Write a first configuration that `edged check` accepts, for one model and one folder.

    Example: edged init edged.toml --model bundles/parts --inbox /srv/edged/line1
    """
    from edged.config import first
    from edged.models import registry

    model = model or _ask("--model", "The bundle, a folder that `python -m export` wrote")
    scorer = registry.load_one(model, DeviceChoice.AUTO.value, denoiser=None)
    inbox = inbox or _ask("--inbox", "The folder to watch")
    state = state or out.parent / "edged-state"
    model_name = scorer.bundle.manifest.name
    config = first.write(out, model=model, model_name=model_name, inbox=inbox, state=state, name=name, port=port)
    (source,) = config.sources
    typer.echo(printable(f"{out}: watches {source.model_dump()['path']} with the model {model_name}"))
    typer.echo(f"next: edged run -c {out}, drop pictures into the folder, and look at http://127.0.0.1:{port}/")
    return 0


def _ask(option: str, question: str) -> Path:
    """A path from whoever sits there.

    Raises:
        ConfigError: nobody does.
    """
    if not sys.stdin.isatty():
        raise ConfigError([f"{option}: is not given, and there is nobody to ask: {question[0].lower()}{question[1:]}"])
    return Path(typer.prompt(question)).expanduser()


def run(config: ConfigOption) -> int:
    """Run the daemon: watch folders, score what arrives, serve metrics.

    Example: edged run -c /etc/edged/edged.toml
    """
    from edged.service import logs
    from edged.service.daemon import Daemon

    logs.configure()
    return Daemon(config).run()


def check(
    config: ConfigOption,
    as_service: Annotated[
        bool,
        typer.Option("--as-service", help="Check as the systemd unit would run it: as its user, in its sandbox."),
    ] = False,
) -> int:
    """Validate a configuration, its folders and its bundles, and print what is in force.

    Example: edged check -c /etc/edged/edged.toml
    """
    if as_service:
        return _check_as_service(config)
    from edged import reports
    from edged.config import loading as configuration
    from edged.models import registry
    from edged.service import logs
    from edged.sources import SOURCES
    from edged.sources.spool import UNOWNED, unowned

    logs.configure("console")
    loaded, problems = configuration.examine(config)
    if loaded is not None:
        try:
            registry.load(loaded.models, () if problems else loaded.sources)
        except ConfigError as error:
            problems += error.problems
    if problems or loaded is None:
        raise ConfigError(problems)
    owners = [table.name for table in loaded.sources if SOURCES[table.type].is_spooled]
    for folder, count in unowned(loaded.service.state_dir, owners).items():
        complain(f"{folder}: {count} {UNOWNED}")
    typer.echo(reports.toml(loaded.model_dump(mode="json", exclude_none=True)), nl=False)
    return 0


def _check_as_service(config: Path) -> int:
    from edged.service import sandbox

    code = sandbox.check(config)
    if code:
        complain(
            f"this is what {config.stem}.service may see and do, whoever owns the files: it hides /home and writes "
            f"below its ReadWritePaths only; more: systemctl edit {config.stem}"
        )
    return code

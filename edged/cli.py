"""The commands.

Exit codes: 0 done; 1 some items failed; 2 usage, configuration or bundle is wrong; 3 an anomaly; 141 the reader of the
output went away, as of every program in a pipe.
"""

import contextlib
import os
import re
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edged import __version__
from edged.errors import ConfigError, EdgedError, JournalError, RefusedError
from edged.results import printable

if TYPE_CHECKING:
    from edged.config.tables import Config

_BROKEN_PIPE = 128 + 13  # SIGPIPE

app = typer.Typer(
    name="edged",
    help="Anomaly detection at the edge: score pictures with a model of good parts, once or as a daemon.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class DeviceChoice(StrEnum):
    """What runs the model."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


class FormatChoice(StrEnum):
    """How results are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class LabelsAction(StrEnum):
    """What is to be done with labels."""

    EXPORT = "export"


DenoiserOption = Annotated[
    Path | None, typer.Option(metavar="BUNDLE", help="The denoiser that the model was calibrated with, if it was.")
]
BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that `python -m export` wrote.")]
ConfigOption = Annotated[Path, typer.Option("-c", "--config", metavar="FILE", help="The configuration, in TOML.")]
DeviceOption = Annotated[
    DeviceChoice, typer.Option(help="auto takes CUDA where it works; cuda fails where it does not.")
]
RateOption = Annotated[
    float | None, typer.Option(min=1e-6, max=0.999999, help="False-positive rate; by default the bundle's, 0.01.")
]


def main() -> None:
    """The console script."""
    if "" in sys.argv[1:]:  # an unset variable of a script; as a path it would be the current folder
        _complain("an argument is empty; give a name, or leave it out")
        sys.exit(2)
    app()


def _errors_to_exit_codes(command: Callable[..., int]) -> Callable[..., None]:
    @wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            code = command(*args, **kwargs)
            if sys.stdout is not None:  # it may have been closed
                sys.stdout.flush()
        except ConfigError as error:
            for problem in error.problems:
                typer.echo(printable(problem), err=True)
            code = 2
        except JournalError as error:
            _complain(str(error))
            code = 1
        except EdgedError as error:
            _complain(str(error))
            code = 2
        except BrokenPipeError:  # the reader of our output has seen enough
            _silence()
            code = _BROKEN_PIPE
        except OSError as error:
            _silence()
            _complain(f"{error.filename}: {error.strerror}" if error.filename else f"output: {error.strerror or error}")
            code = 1
        except KeyboardInterrupt:
            code = 130
        raise typer.Exit(code)

    return run


def _silence() -> None:
    """Lets what is left in the buffer of standard output go nowhere, lest the interpreter complains at its end."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"edged {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


@app.command()
@_errors_to_exit_codes
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
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the metrics, on this machine alone.")] = 9108,
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
    typer.echo(f"next: edged run -c {out}, drop pictures into the folder, and: edged results -c {out}")
    return 0


def _ask(option: str, question: str) -> Path:
    """A path from whoever sits there.

    Raises:
        ConfigError: nobody does.
    """
    if not sys.stdin.isatty():
        raise ConfigError([f"{option}: is not given, and there is nobody to ask: {question[0].lower()}{question[1:]}"])
    return Path(typer.prompt(question)).expanduser()


@app.command()
@_errors_to_exit_codes
def run(config: ConfigOption) -> int:
    """Run the daemon: watch folders, score what arrives, serve metrics.

    Example: edged run -c /etc/edged/edged.toml
    """
    from edged.service import logs
    from edged.service.daemon import Daemon

    logs.configure()
    return Daemon(config).run()


@app.command()
@_errors_to_exit_codes
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

    logs.configure("console")
    loaded, problems = configuration.examine(config)
    if loaded is not None:
        try:
            registry.load(loaded.models, () if problems else loaded.sources)
        except ConfigError as error:
            problems += error.problems
    if problems or loaded is None:
        raise ConfigError(problems)
    typer.echo(reports.toml(loaded.model_dump(mode="json", exclude_none=True)), nl=False)
    return 0


def _check_as_service(config: Path) -> int:
    from edged.service import sandbox

    code = sandbox.check(config)
    if code:
        _complain(
            f"this is what {config.stem}.service may see and do, whoever owns the files: it hides /home and writes "
            f"below its ReadWritePaths only; more: systemctl edit {config.stem}"
        )
    return code


@app.command()
@_errors_to_exit_codes
def score(
    bundle: BundleArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a picture, and nothing else.")] = False,
    heatmaps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each picture with its heat map into DIR.")
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
    target_fpr: RateOption = None,
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1e30, help="Use this threshold.")] = None,
    denoiser: DenoiserOption = None,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 3 on an anomaly.")] = False,
) -> int:
    """Score pictures and say which are anomalous.

    Example: edged score bundles/solar pictures/ --heatmaps heatmaps/
    """
    from edged import progress, scoring
    from edged.models import registry

    if target_fpr is not None and threshold is not None:
        raise ConfigError(["give --target-fpr or --threshold, not both"])
    scorer = registry.load_one(bundle, device.value, target_fpr=target_fpr, threshold=threshold, denoiser=denoiser)
    if target_fpr is not None and scorer.threshold.shortfall:  # of the bundle's own rate, training and inspect tell
        _complain(scorer.threshold.shortfall)
    pictures = scoring.find(paths, scorer.bundle.manifest.input.patterns)
    if heatmaps is not None:
        scoring.check_outputs(pictures, heatmaps)
    failed = anomalies = fitted = 0
    is_known = scoring.knower(scorer)
    others: list[tuple[Path, str]] = []
    records = scoring.score(scorer, pictures, heatmaps=heatmaps, tell=lambda *other: others.append(other))
    for record in progress.bar(records, len(pictures)):
        failed += record.error is not None
        anomalies += bool(record.is_anomaly)
        known = is_known(record)
        fitted += known
        if as_json:
            typer.echo(record.to_json())
        elif record.error is None:
            verdict, ratio = "ANOMALY" if record.is_anomaly else "ok", record.score_ratio
            typer.echo(
                f"{verdict:8}{record.score:10.4f}  {'' if ratio is None else f'{ratio:.2f}x'}  p={record.p_value:.4f}  "
                f"{printable(record.path)}{'  (fitted)' if known else ''}"
            )
        if record.error is not None:
            _complain(f"{printable(record.path)}: {record.reason}: {record.error}")
    _complain_of_shapes(others, len(pictures))
    if fitted:
        plural = scorer.bundle.manifest.input.plural
        _complain(f"{fitted} of these {plural} were fitted, and score lower than new ones do; they say little")
    if not as_json:
        scored = len(pictures) - failed
        typer.echo(
            f"{scored} scored, {anomalies} anomalous (score above {scorer.threshold.value:.4f}), {failed} failed",
            err=True,
        )
    if fail_on_anomaly and anomalies:
        return 3
    return 1 if failed else 0


@app.command()
@_errors_to_exit_codes
def denoise(
    bundle: BundleArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the cleaned pictures go, as PNG.")],
    device: DeviceOption = DeviceChoice.AUTO,
) -> int:
    """Clean pictures with a denoiser, at the size of its model.

    Example: edged denoise bundles/clean pictures/ --out cleaned/
    """
    from edged import progress, scoring
    from edged.models import registry

    denoiser = registry.load_one(bundle, device.value)
    done = failed = 0
    pictures = scoring.find(paths, denoiser.bundle.manifest.input.patterns)
    for picture, error in progress.bar(scoring.denoise(denoiser, pictures, out), len(pictures)):
        done += error is None
        failed += error is not None
        if error is not None:
            _complain(f"{printable(str(picture.path))}: {error.reason}: {error}")
    typer.echo(f"{done} cleaned into {out}, {failed} failed", err=True)
    return 1 if failed else 0


@app.command()
@_errors_to_exit_codes
def sample(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the grid goes, as PNG.")],
    n: Annotated[int, typer.Option("-n", min=1, max=4096, help="How many pictures.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    around: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw from the posterior of this picture.")
    ] = None,
    interpolate: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Walk from picture A to picture B.")
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
) -> int:
    """Draw new normal pictures from a VAE, as one grid.

    Example: edged sample bundles/cells -n 64 --seed 0 --out grid.png
    """
    from edged import scoring
    from edged.models import registry, sampling

    if around is not None and interpolate is not None:
        raise ConfigError(["give --around or --interpolate, not both"])
    inputs = [path for path in (around, *(interpolate or ())) if path is not None]
    if any(os.path.realpath(path) == os.path.realpath(out) for path in inputs):
        raise ConfigError([f"--out {out} is one of the pictures that are given; choose another name"])
    scorer = registry.load_one(bundle, device.value)
    sampler = sampling.Sampler.load(scorer, device=device.value)
    if around is not None:
        images = sampler.around(scoring.read(scorer, around), n, seed)
    elif interpolate is not None:
        first, second = (scoring.read(scorer, path) for path in interpolate)
        images = sampler.between(first, second, n)
    else:
        images = sampler.prior(n, seed)
    written = scoring.save(sampling.grid(images), out)
    typer.echo(f"{printable(str(written))}: {n} pictures", err=True)
    return 0


@app.command()
@_errors_to_exit_codes
def calibrate(
    bundle: BundleArgument,
    good: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Good pictures that the model was not trained on.")
    ] = None,
    target_fpr: RateOption = None,
    device: DeviceOption = DeviceChoice.AUTO,
    denoiser: DenoiserOption = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Go back to the calibration before this one, which is kept in its place.")
    ] = False,
) -> int:
    """Give a bundle a new calibration, from good pictures of your own line; or go back to the one before.

    Example: edged calibrate bundles/solar --good this-week/
    """
    if (good is None) != restore:
        raise ConfigError(["give --good DIR for a new calibration, or --restore for the previous one"])
    code = _restore(bundle) if good is None else _calibrate(bundle, good, target_fpr, device, denoiser)
    typer.echo(f"{bundle}: calibrated; a running daemon takes it on SIGHUP (systemctl reload edged)", err=True)
    return code


def _restore(bundle: Path) -> int:
    from edged.models import bundle as bundles
    from edged.models.calibration import conformal_threshold

    loaded = bundles.load(bundle)
    before, now = loaded.calibration, bundles.restore_calibration(loaded)
    old, new = (conformal_threshold(one.scores, one.target_fpr) for one in (before, now))
    typer.echo(
        f"threshold {old.value:.4f} -> {new.value:.4f}, from {new.n} {loaded.manifest.input.plural}, calibrated "
        f"{now.created:%Y-%m-%d %H:%M} UTC"
    )
    return 0


def _calibrate(bundle: Path, good: Path, target_fpr: float | None, device: DeviceChoice, denoiser: Path | None) -> int:
    from edged import progress, scoring
    from edged.models import registry

    scorer = registry.load_one(bundle, device.value, target_fpr=target_fpr, denoiser=denoiser)
    plural = scorer.bundle.manifest.input.plural
    pictures = scoring.find([good], scorer.bundle.manifest.input.patterns)
    others: list[tuple[Path, str]] = []
    scored = scoring.score(scorer, pictures, tell=lambda *other: others.append(other))
    records = list(progress.bar(scored, len(pictures)))
    _complain_of_shapes(others, len(pictures))
    failed = [record for record in records if record.error is not None]
    for record in failed:
        _complain(f"{printable(record.path)}: {record.reason}: {record.error}; left out")
    is_known = scoring.knower(scorer)
    new = [record for record in records if not is_known(record)]
    if known := len(records) - len(new):
        fitted = "the model or its denoiser" if denoiser else "the model"
        left_out = f"{fitted} was fitted on {known} of these {plural}, which score lower than new ones do"
        if not any(record.error is None for record in new):
            raise ConfigError([f"--good: {left_out}; none is left, and the calibration is as it was. Give others"])
        _complain(f"{left_out}; left out")
    chosen, repeated = scoring.calibrate(scorer, new, target_fpr)
    if repeated:
        _complain(f"{repeated} {plural} are repetitions of others and were counted once")
    flagged = sum(bool(record.is_anomaly) for record in new)
    if 2 * flagged > chosen.n:
        _complain(f"{flagged} of these {plural} were anomalous until now: are they good parts? If not, calibrate again")
    typer.echo(f"threshold {scorer.threshold.value:.4f} -> {chosen.value:.4f}, from {chosen.n} {plural}")
    if chosen.shortfall:
        _complain(chosen.shortfall)
    if "card.md" in scorer.bundle.manifest.files:
        _complain("card.md and its pictures still describe the calibration of the export, not this one")
    return 1 if failed else 0


@app.command()
@_errors_to_exit_codes
def results(
    config: ConfigOption,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="2026-11-22T14:00:00Z, or 2h, 3d ago.")] = None,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="Only anomalies.")] = False,
    quarantined: Annotated[bool, typer.Option("--quarantined", help="Only what could not be scored.")] = False,
    output: Annotated[FormatChoice, typer.Option("--format", help="How to print.")] = FormatChoice.TABLE,
    dead_letters: Annotated[
        bool, typer.Option("--dead-letters", help="Print the records that a sink refused for good, and why.")
    ] = False,
    requeue: Annotated[bool, typer.Option("--requeue", help="Have the files of these IDs scored again.")] = False,
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID...", help="Results, for --requeue.")] = None,
) -> int:
    """Print results from the journal, oldest first; the daemon may be running.

    Example: edged results -c /etc/edged/edged.toml --since 2h --anomalies
    """
    from edged import reports
    from edged.config import loading as configuration
    from edged.journal.labels import read as read_labels
    from edged.journal.reading import read_dead_letters, read_results

    if requeue != bool(ids):
        raise ConfigError(["--requeue takes the ids of results, and ids are for --requeue"])
    if ids:
        return _requeue(configuration.load(config), ids)
    state_dir = configuration.load_service(config).state_dir
    if dead_letters:
        for line in reports.dead_letters(read_dead_letters(state_dir), output.value):
            typer.echo(line, nl=False)
        return 0
    labels = read_labels(state_dir)
    rows = read_results(
        state_dir, since=None if since is None else parse_time(since), anomalies=anomalies, quarantined=quarantined
    )
    for line in reports.lines(rows, output.value, labels):
        typer.echo(line, nl=False)
    return 0


def _requeue(config: "Config", ids: list[str]) -> int:
    from edged.journal.reading import find_record, opened
    from edged.sources import SOURCES

    tables, state_dir = {table.name: table for table in config.sources}, config.service.state_dir
    failed = False
    for id_ in dict.fromkeys(ids):
        try:
            with opened(state_dir) as db:
                record = find_record(db, state_dir, id_) if db else None
            if record is None:
                raise RefusedError("there is no such result; `edged results` shows those that there are")
            table = tables.get(record.source)
            if table is None:
                raise RefusedError(f"its source {record.source} is not in the configuration")
            ask = SOURCES[table.type].requeue
            if ask is None:
                raise RefusedError(f"a source of type {table.type} keeps nothing that could be scored again")
            path = ask(state_dir, table, id_)
        except (RefusedError, OSError) as error:
            _complain(f"{id_}: {error}")
            failed = True
        else:
            typer.echo(f"{id_}: {printable(path)}: is scored again at the source's next scan", err=True)
    return int(failed)


@app.command()
@_errors_to_exit_codes
def labels(
    config: ConfigOption,
    action: Annotated[LabelsAction, typer.Argument(metavar="ACTION", help="export")],
    out: Annotated[Path, typer.Argument(metavar="DIR", help="A folder that does not exist yet.")],
) -> int:
    """Copy the files of labelled results into a folder for each label, with a table of them; the daemon may be running.

    Example: edged labels -c /etc/edged/edged.toml export labelled/
    """
    from edged.config import loading as configuration
    from edged.service import labelled

    assert action is LabelsAction.EXPORT
    copied = failed = 0
    for record, problem in labelled.export(configuration.load(config), out):
        copied += problem is None
        failed += problem is not None
        if problem is not None:
            _complain(f"{record.id}: {printable(record.path)}: {problem}")
    typer.echo(f"{out}: {copied} files, {failed} could not be copied", err=True)
    return int(failed > 0)


@app.command()
@_errors_to_exit_codes
def inspect(bundle: BundleArgument, device: DeviceOption = DeviceChoice.AUTO) -> int:
    """Print what a bundle holds, whether it is intact, and whether this device computes what torch did.

    Example: edged inspect bundles/solar
    """
    from edged import reports
    from edged.models import registry

    for line in reports.about_bundle(registry.load_one(bundle, device.value)):
        typer.echo(printable(line))
    return 0


def parse_time(text: str, now: datetime | None = None) -> float:
    """`--since`: an RFC 3339 time or `90s`, `30m`, `2h`, `3d`, `1w` ago -> seconds since 1970.

    Raises:
        ConfigError: it is neither.
    """
    if ago := re.fullmatch(r"(\d{1,6})([smhdw])", text):
        unit = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}[ago[2]]
        return (now or datetime.now(UTC)).timestamp() - timedelta(**{unit: int(ago[1])}).total_seconds()
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(
            [f"--since: {text!r} is no time; write 2026-11-22T14:00:00Z, or 2h, 3d for as long ago"]
        ) from None
    return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()


def _complain_of_shapes(others: list[tuple[Path, str]], n: int) -> None:
    if others:
        path, words = min(others)
        _complain(f"{len(others)} of {n} pictures are not as those of training: {printable(str(path))} of {words}")


def _complain(message: str) -> None:
    typer.echo(f"edged: {printable(message)}", err=True)

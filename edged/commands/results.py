"""`edged results` and `labels`: what the journal holds."""

import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edged.commands.options import ConfigOption, FormatChoice, complain
from edged.errors import ConfigError, RefusedError
from edged.results import Record, printable

if TYPE_CHECKING:
    from edged.config.tables import Config


class LabelsAction(StrEnum):
    """What is to be done with labels."""

    EXPORT = "export"


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
    said = read_labels(state_dir)
    rows = read_results(
        state_dir, since=None if since is None else parse_time(since), anomalies=anomalies, quarantined=quarantined
    )
    with _finder(config, state_dir) as where:
        for line in reports.lines(rows, output.value, said, where):
            typer.echo(line, nl=False)
    return 0


@contextlib.contextmanager
def _finder(config: Path, state_dir: Path) -> Iterator[Callable[[Record], str]]:
    """Says in words where the file of a result is now; nothing of one that is where it was."""
    from edged.config import loading as configuration
    from edged.journal import schema
    from edged.journal.reading import opened
    from edged.sources import SOURCES

    tables = configuration.load_sources(config)
    with opened(state_dir) as db:
        known = db is not None and schema.read_version(db, state_dir / schema.FILE) == schema.VERSION

        def where(record: Record) -> str:
            table = tables.get(record.source)
            if db is None or not known or table is None or (find := SOURCES[table.type].find) is None:
                return ""
            path = find(db, table, record)
            return "no longer there" if path is None else "" if str(path) == record.path else f"now {path}"

        yield where


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
            complain(f"{id_}: {error}")
            failed = True
        else:
            typer.echo(f"{id_}: {printable(path)}: is scored again at the source's next scan", err=True)
    return int(failed)


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
            complain(f"{record.id}: {printable(record.path)}: {problem}")
    typer.echo(f"{out}: {copied} copied, {failed} could not be copied", err=True)
    return int(failed > 0)


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

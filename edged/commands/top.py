"""`edged top`: how a running daemon is, in a terminal."""

import sys
import threading
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from edged.commands.options import complain
from edged.errors import ConfigError, UnreachableError
from edged.results import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from edged.web.client import Client

_LATEST: Final = 8
_PIPE_WIDTH: Final = 140  # where no terminal says how wide it is


def top(
    config: Annotated[
        Path | None, typer.Option("-c", "--config", metavar="FILE", help="The configuration of a daemon on this box.")
    ] = None,
    url: Annotated[
        str | None, typer.Option(metavar="URL", help="Or the address of one, such as https://192.0.2.7:9108.")
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Its token; by default that of the configuration.")
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Who signed its certificate; by default that one itself.")
    ] = None,
    cert: Annotated[Path | None, typer.Option(metavar="FILE", help="A certificate to show, where it asks.")] = None,
    key: Annotated[Path | None, typer.Option(metavar="FILE", help="The key of --cert.")] = None,
    every: Annotated[float, typer.Option(min=0.5, max=3600, metavar="SECONDS", help="How often to ask.")] = 2.0,
) -> int:
    """Show how a running daemon is, and go on showing it; without a terminal: once.

    Example: edged top -c /etc/edged/edged.toml
    """
    from edged.config import loading as configuration
    from edged.settings import read_secret
    from edged.web.client import client

    if (config is None) == (url is None):
        raise ConfigError(["give -c FILE for a daemon on this box, or --url URL for one elsewhere"])
    table = None if config is None else configuration.load_http(config)
    token = None if token_file is None else read_secret("--token-file", token_file)
    asked = client(table, url, token=token, ca=ca, cert=cert, key=key)
    if sys.stdout.isatty():
        return _watch(asked, every)
    from rich.console import Console

    console = Console(width=_PIPE_WIDTH, highlight=False)
    try:
        with console.capture() as shown:
            console.print(screen(asked))
    except UnreachableError as error:
        complain(str(error))
        return 1
    for line in shown.get().splitlines():
        typer.echo(line.rstrip())
    return 0


def _watch(asked: "Client", every_s: float) -> int:
    """Shows it until Ctrl-C."""
    from rich.live import Live
    from rich.text import Text

    pause = threading.Event()
    try:
        with Live(Text(f"asking {asked.url}"), screen=True, auto_refresh=False) as live:
            while True:
                try:
                    live.update(screen(asked), refresh=True)
                except UnreachableError as error:
                    live.update(Text(printable(str(error)), "red"), refresh=True)
                pause.wait(every_s)
    except KeyboardInterrupt:
        return 0


def screen(asked: "Client") -> "RenderableType":
    """All of it, as of now.

    Raises:
        UnreachableError: the daemon does not answer.
    """
    from rich.console import Group

    try:
        status = asked.get("/api/v1/status")
        latest = asked.get(f"/api/v1/results?outcome=anomaly&limit={_LATEST}")["results"]
        return Group(*_parts(asked.url, status, latest))
    except (KeyError, TypeError, ValueError) as error:
        raise UnreachableError(f"{asked.url}: answers what no edged of this version would: {error!r}") from error


def _parts(url: str, status: Mapping[str, Any], latest: Iterable[Mapping[str, Any]]) -> Iterable["RenderableType"]:
    from rich.text import Text

    now = datetime.fromisoformat(status["now"])
    warnings = status["warnings"]
    word, colour = ("not healthy", "red") if not status["healthy"] else ("healthy", "yellow" if warnings else "green")
    yield Text.assemble(
        (f" {word} ", f"bold reverse {colour}"),
        printable(f"  edged {status['version']} at {url}, up {_ago(status['started_at'], now)}, {now:%H:%M:%S} UTC"),
    )
    yield from (Text(printable(f"  {line}"), "red") for line in status["problems"])
    yield from (Text(printable(f"  {line}"), "yellow") for line in warnings)
    yield _models(status["models"], now)
    yield _sources(status["sources"], now)
    waiting = [[one["name"], "?" if one["waiting"] is None else one["waiting"]] for one in status["sinks"]]
    if waiting:
        yield _table(["SINK", "WAIT >"], waiting)
    anomalies = [
        [f"{_ago(one['scored_at'], now)} ago", one["source"], f"{one['score_ratio']:.2f}", one["path"]]
        for one in latest
    ]
    if anomalies:
        yield _table(["LATEST ANOMALIES >", "SOURCE", "RATIO >", "PATH"], anomalies)


def _models(models: Iterable[Mapping[str, Any]], now: datetime) -> "RenderableType":
    rows = [
        [
            one["name"],
            one["kind"],
            one["provider"].removesuffix("ExecutionProvider") + (" (fell back)" if one["fell_back"] else ""),
            f"{one['threshold']:.4g}",
            "own" if one["target_fpr"] is None else f"{one['target_fpr']:g}",
            f"{one['calibration_pictures']} pictures, {_ago(one['calibrated_at'], now)} ago",
        ]
        for one in models
    ]
    return _table(["MODEL", "KIND", "RUNS ON", "THRESHOLD >", "RATE >", "CALIBRATED ON"], rows)


def _sources(sources: Iterable[Mapping[str, Any]], now: datetime) -> "RenderableType":
    rows = [
        [
            one["name"] + ("" if one["up"] else " (cannot be read)"),
            one["model"],
            one["last_minute"],
            one["queue_items"],
            _time(one["queue_oldest_age_seconds"]) if one["queue_items"] else "",
            one["ok"],
            one["anomaly"],
            one["quarantined"],
            "none yet" if one["last_result_at"] is None else f"{_ago(one['last_result_at'], now)} ago",
        ]
        for one in sources
    ]
    numbers = ["LAST MINUTE >", "WAIT >", "OLDEST >", "OK >", "ANOMALIES >", "QUARANTINED >", "LAST RESULT >"]
    return _table(["SOURCE", "MODEL", *numbers], rows)


def _table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> "RenderableType":
    """A table below an empty line; of a column whose name ends with ">" the values stand on the right."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        table.add_column(name.rstrip(" >"), justify="right" if name.endswith(">") else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    return Padding(table, (1, 0, 0, 0))


def _ago(then: str, now: datetime) -> str:
    return _time((now - datetime.fromisoformat(then).astimezone(UTC)).total_seconds())


def _time(seconds: float) -> str:
    """A time that people take in: 12 s, 5 min, 3 h, 9 days."""
    for unit, length, most in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172_800)):
        if seconds < most:
            return f"{max(seconds, 0) / length:.0f} {unit}"
    return f"{seconds / 86_400:.0f} days"

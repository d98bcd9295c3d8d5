"""A real daemon as a real process, in folders of its own, seen as a user sees it."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

from edged.journal.reading import read_results
from edged.journal.schema import FILE
from edged.results import Record
from tests.conftest import TINY
from tests.edged.making import until

# Root reads and writes whatever it likes. Without these capabilities it is held to permissions as everybody is, and can
# still reach a Python that is installed in its home.
AS_ORDINARY_USER = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


class Site:
    """Folders, a configuration, and the daemon that runs on it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.inbox, self.state, self.done = root / "in", root / "state", root / "done"
        self.quarantine, self.jsonl, self.overlays = root / "quarantine", root / "results.jsonl", root / "overlays"
        self.config, self.log = root / "edged.toml", root / "daemon.log"
        self.inbox.mkdir()
        self.process: subprocess.Popen[bytes] | None = None
        self.environment: dict[str, str] = {}
        self._log_start = 0
        self.configure()

    def configure(
        self,
        source: str = "",
        *,
        model: str = "",
        listen: str = "127.0.0.1:0",
        http: str = "",
        rest: str = "",
        bundle: Path = TINY,
        jsonl: Path | None = None,
        lines: str = "",
        settle_seconds: float = 0.2,
        retry_seconds: float = 0.3,
    ) -> None:
        """Writes the configuration; the arguments are lines of TOML for its tables."""
        self.config.write_text(
            f"""
[service]
state_dir = "{self.state}"
log_format = "json"
[http]
listen = "{listen}"
{http}
[models.tiny]
path = "{bundle}"
device = "cpu"
{model}
[[sources]]
name = "line1"
type = "folder"
path = "{self.inbox}"
settle_seconds = {settle_seconds}
retry_seconds = {retry_seconds}
model = "tiny"
quarantine_dir = "{self.quarantine}"
done_dir = "{self.done}"
{source}
[[sinks]]
name = "lines"
type = "jsonl"
path = "{jsonl or self.jsonl}"
{lines}
{rest}
"""
        )

    def start(
        self, *, wait: bool = True, prefix: Sequence[str] = (), environment: dict[str, str] | None = None
    ) -> "Site":
        """Starts the daemon, and waits until it says that it is ready; `prefix` is a command that runs a command."""
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "edged", "run", "-c", str(self.config)],
                stdout=log,
                stderr=log,
                cwd=self.root,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **self.environment, **(environment or {})},
            )
        if wait:
            until(lambda: self.said("ready") or self.process.poll() is not None, "the daemon to be ready", 250)  # type: ignore[union-attr]
            assert self.process.poll() is None, self.log.read_text()
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def said(self, event: str) -> list[dict[str, Any]]:
        """What this run of the daemon has logged under one event."""
        lines = self.log.read_bytes()[self._log_start :].splitlines()
        records = [json.loads(line) for line in lines if line.startswith(b"{") and line.endswith(b"}")]
        return [record for record in records if record.get("event") == event]

    @property
    def url(self) -> str:
        return str(self.said("ready")[0]["http"])

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30, **options)

    def metrics(self) -> dict[str, float]:
        """Every sample: `name{label="value",...}` with the labels sorted, histograms' buckets left out."""
        found = {}
        for family in text_string_to_metric_families(self.get("/metrics").text):
            for sample in family.samples:
                labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
                if "le" not in sample.labels:
                    found[sample.name + (f"{{{labels}}}" if labels else "")] = sample.value
        return found

    def rows(self) -> list[Record]:
        return list(read_results(self.state))

    def owed(self) -> int:
        """How many files are still on their way out of an inbox."""
        with contextlib.closing(sqlite3.connect(f"file:{self.state / FILE}?mode=ro", uri=True, timeout=60)) as db:
            return int(db.execute("SELECT count(*) FROM disposals").fetchone()[0])

    def wait_for_rows(self, count: int, seconds: float = 60) -> list[Record]:
        """Waits until the journal has that many rows."""
        until(lambda: len(self.rows()) >= count, f"{count} rows", seconds)
        rows = self.rows()
        assert len(rows) == count, [row.path for row in rows]
        return rows

    def lines(self) -> list[dict[str, Any]]:
        """What the jsonl sink has, line by line, from its oldest backup on; while it is not being rotated."""
        backups = sorted(self.jsonl.parent.glob(f"{self.jsonl.name}.[0-9]*"), key=lambda path: -int(path.suffix[1:]))
        return [json.loads(line) for path in (*backups, self.jsonl) for line in path.read_text("ascii").splitlines()]

    def wait_for_lines(self, count: int) -> list[dict[str, Any]]:
        until(lambda: self.jsonl.exists() and self.jsonl.read_bytes().count(b"\n") >= count, f"{count} lines")
        return self.lines()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stops the daemon; what it exits with."""
        assert self.process is not None
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process = None
        return code

    def kill(self) -> None:
        """kill -9."""
        assert self.stop(signal.SIGKILL) == -signal.SIGKILL

    def clean_up(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

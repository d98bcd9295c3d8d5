"""What a folder of a million kept files costs: memory, and how long a look through it takes when nothing is new.

    python bench/million.py [--count N] [--folder DIR]

Each figure is of a process of its own, with a source and a journal and nothing else; the empty folder is the floor. A
million empty files are made for it and removed again. Every statement that the journal is given is counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from edged.journal.journal import Journal
from edged.media.imaging import ImageInput
from edged.sources.contract import SourceContext
from edged.sources.folder.source import FolderSource
from edged.sources.folder.table import FolderTable

SCANS = 3


class Silent:
    """Takes what a source tells."""

    def skipped(self, source: str, reason: str) -> None:
        """As `edged.sources.contract.Observer`."""

    def overflowed(self, source: str) -> None:
        """As `edged.sources.contract.Observer`."""

    def recovered(self, source: str, count: int) -> None:
        """As `edged.sources.contract.Observer`."""

    def up(self, source: str, is_up: bool) -> None:
        """As `edged.sources.contract.Observer`."""


def main() -> int:
    """Prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path, help="where to work; by default a temporary folder")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        print(json.dumps(measure(arguments.measure)))
        return 0
    with tempfile.TemporaryDirectory(prefix="million-", dir=arguments.folder) as folder:
        floor = in_process(Path(folder) / "empty", 0)
        full = in_process(Path(folder) / "full", arguments.count)
    print(f"files                     {arguments.count}")
    print(f"resident, peak            {full['peak'] / 1e6:.1f} MB; empty folder {floor['peak'] / 1e6:.1f} MB")
    print(f"more, at the peak         {(full['peak'] - floor['peak']) / 1e6:.1f} MB")
    print(f"more, afterwards          {(full['rss'] - floor['rss']) / 1e6:.1f} MB")
    print(f"start and first scan      {full['first_s']:.1f} s")
    print(f"a scan with nothing new   {full['scan_s']:.1f} s; reading the folder alone {full['scandir_s']:.1f} s")
    print(f"statements in {SCANS} scans     {full['statements']}; empty folder {floor['statements']}")
    print(f"forgetting what is gone   {full['forget_s']:.1f} s")
    return 0


def in_process(folder: Path, count: int) -> dict[str, float]:
    """Makes a folder of kept files and measures a source on it, in a process of its own."""
    inbox = folder / "in"
    inbox.mkdir(parents=True)
    marks = []
    for number in range(count):
        path = os.fsencode(inbox / f"part{number:07}.png")
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        marks.append((path, os.lstat(path).st_mtime_ns))
    journal = Journal(folder / "state")
    with journal.transaction() as db:
        db.executemany("INSERT INTO kept VALUES ('line1', ?, 0, ?, NULL, 1)", marks)
    journal.close()
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(folder)], check=True, capture_output=True, text=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(folder: Path) -> dict[str, float]:
    """Runs a source until its first scan is done, then has it scan again."""
    journal = Journal(folder / "state")
    statements: list[str] = []
    table = FolderTable(name="line1", type="folder", path=folder / "in", rescan_seconds=3600, model="none")
    source = FolderSource(table, SourceContext(journal, Silent(), folder / "state", ImageInput(256, 256)))
    stop, rounds = threading.Event(), threading.Semaphore(0)
    began = time.perf_counter()
    thread = threading.Thread(target=source.run, args=(lambda _: False, stop, rounds.release))
    thread.start()
    rounds.acquire()
    first_s = time.perf_counter() - began
    journal._db.set_trace_callback(statements.append)
    began = time.perf_counter()
    for _ in range(SCANS):
        source._scan_due = 0.0
        source.wake.set()
        rounds.acquire()
    scan_s = (time.perf_counter() - began) / SCANS
    journal._db.set_trace_callback(None)
    stop.set()
    source.wake.set()
    thread.join()
    assert source.pending()[0] == 0
    asked = len(statements)
    source._scan("start")
    began = time.perf_counter()
    source.forget_gone()
    forget_s = time.perf_counter() - began
    source._unwatch()
    journal.close()
    began = time.perf_counter()
    with os.scandir(folder / "in") as entries:
        for entry in entries:
            entry.stat(follow_symlinks=False)
    status = Path("/proc/self/status").read_text(encoding="ascii")
    sizes = {line.split()[0]: int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("Vm")}
    return {
        "first_s": first_s,
        "scan_s": scan_s,
        "scandir_s": time.perf_counter() - began,
        "forget_s": forget_s,
        "statements": asked,
        "peak": sizes["VmHWM:"],
        "rss": sizes["VmRSS:"],
    }


if __name__ == "__main__":
    sys.exit(main())

"""Faults of the system: none loses or doubles a picture, each is named once, and the daemon goes on by itself."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edged.models.runtime import worker_count
from tests.edged.killing import Line, other_file_system
from tests.edged.making import drop, good, until

PATIENCE_S = 120.0


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Line]]:
    made, far = [], other_file_system(tmp_path)

    def line(*kinds: str, place: Path | None = None, rescan_seconds: float = 60) -> Line:
        made.append(Line(tmp_path, seed=1, far=far, kinds=kinds, place=place, rescan_seconds=rescan_seconds))
        return made[-1]

    yield line
    for one in made:
        one.clean_up()
    if far is not None:
        shutil.rmtree(far)


@contextlib.contextmanager
def injected(line: Line, calls: str, fault: str, *paths: Path) -> Iterator[None]:
    """While it lasts, system calls of the daemon fail; only those on `paths`, if any are given."""
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed; CI installs it")
        pytest.skip("strace is not installed (Debian: apt install strace)")
    traced = line.site.root / "traced.log"
    where = [part for path in paths for part in ("-P", str(path))]
    command = ["strace", "-f", "-o", str(traced), *where, "-e", f"trace={calls}", "-e", f"inject={calls}:{fault}"]
    with (line.site.root / "strace.log").open("wb+") as log:
        tracer = subprocess.Popen([*command, "-p", str(line.site.pid)], stderr=log)
        try:
            text = Path(log.name)
            until(lambda: b"attached" in text.read_bytes() or tracer.poll() is not None, "strace to be attached")
            if tracer.poll() is not None:
                pytest.skip(f"strace may not attach here: {text.read_text()}")
            yield
        finally:
            tracer.send_signal(signal.SIGINT)
            tracer.wait(timeout=60)
    assert "(INJECTED)" in traced.read_text(errors="replace")


def events(line: Line, event: str, key: str = "event") -> Counter[str]:
    """How often the daemon has logged an event, by what stands under `key`."""
    return Counter(str(said[key]) for said in line.site.said(event))


def all_is_well(line: Line, *, restarts: int = 0) -> None:
    """Everything is accounted for, and the log is not flooded."""
    account = line.finish(restarts=restarts)
    assert account.problems == []
    assert account.rows == account.dropped
    assert "Traceback" not in line.site.log.read_text()


@pytest.mark.parametrize(
    ("calls", "fault", "files"),
    [
        ("fsync,fdatasync", "error=EIO", ()),
        ("pwrite64,write", "error=ENOSPC", ("state/journal.sqlite", "state/journal.sqlite-wal", "results.jsonl")),
    ],
    ids=["EIO on fsync", "ENOSPC on write"],
)
def test_a_disk_that_fails(make: Callable[..., Line], calls: str, fault: str, files: tuple[str, ...]) -> None:
    line = make()
    line.site.start()
    line.fill("before")
    until(lambda: line.rows() == len(line.producer.dropped) and line.at_rest(), "the first ones", PATIENCE_S)
    with injected(line, calls, fault, *(line.site.root / name for name in files)):
        line.fill("during")
        until(lambda: line.site.said("results cannot be made durable"), "the fault to be named", PATIENCE_S)
        assert line.site.get("/readyz").status_code == 503
        assert line.site.get("/healthz").status_code == 200
    until(lambda: line.site.get("/readyz").status_code == 200, "it to go on by itself", PATIENCE_S)
    assert events(line, "results cannot be made durable").total() == 1
    assert events(line, "the sink failed; it is tried again").total() <= 1
    all_is_well(line)


def test_a_sink_on_a_full_disk(make: Callable[..., Line]) -> None:
    line = make("keep", "move")
    line.site.start()
    line.fill("before", 2)
    line.site.wait_for_lines(4)
    with injected(line, "write,fsync", "error=ENOSPC", line.site.jsonl):
        line.fill("during")
        until(lambda: line.site.said("the sink failed; it is tried again"), "the fault to be named", PATIENCE_S)
        until(lambda: line.rows() == 24, "results all the same", PATIENCE_S)
    all_is_well(line)
    assert events(line, "the sink failed; it is tried again").total() == 1


@pytest.mark.parametrize(
    ("fault", "named"),
    [("error=EXDEV:when=2+3", 0), ("error=EXDEV", 1), ("error=EACCES", 1), ("error=EIO:when=1+2", 1)],
)
def test_a_rename_that_is_refused(make: Callable[..., Line], fault: str, named: int) -> None:
    line = make("move")
    line.site.start()
    line.fill("before", 2)
    until(lambda: line.rows() == 2 and line.at_rest(), "the first ones", PATIENCE_S)
    with injected(line, "renameat2", fault):
        line.fill("during", 8)
        until(lambda: line.rows() == 10, "results all the same", PATIENCE_S)
        said = "a scored file cannot leave the inbox; it is tried again"
        until(lambda: line.site.said(said) if named else line.at_rest(), "the fault", PATIENCE_S)
        line.fill("more", 8)
        until(lambda: line.rows() == 18, "results all the same", PATIENCE_S)
        assert events(line, said).total() == named
    assert line.site.stop() == 0  # a restart does at once what is otherwise tried again within 30 s
    all_is_well(line)


def test_no_file_can_be_opened(make: Callable[..., Line]) -> None:
    line = make("keep", "move")
    line.site.start()
    line.fill("before", 2)
    until(lambda: line.rows() == 4 and line.at_rest(), "the first ones", PATIENCE_S)
    with injected(line, "openat", "error=EMFILE"):
        line.fill("during")
        until(lambda: line.site.said("pictures cannot be decoded"), "the fault to be named", PATIENCE_S)
        assert line.site.process is not None
        assert line.site.process.poll() is None
    all_is_well(line)
    # Decoders need descriptors, too; each worker says it once.
    assert events(line, "pictures cannot be decoded").total() <= worker_count()
    assert max(events(line, "the folder cannot be read", "source").values(), default=1) == 1


# Disks that are full, read-only, or not there.


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Mounts as `mount` does; everything is unmounted at the end."""
    mounted: list[str] = []

    def command(*arguments: str | Path, check: bool = True) -> None:
        done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")
        mounted.append(str(arguments[-1]))

    yield command
    for place in reversed(mounted):
        subprocess.run(["umount", "-l", place], capture_output=True, check=False)


def ballast(place: Path, leave: int) -> Path:
    """A file that leaves so many bytes of a file system free."""
    file = place / "ballast"
    with file.open("wb") as target:
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        target.write(b"\0" * max(0, free - leave))
    return file


def on_a_full_disk(make: Callable[..., Line], mount: Callable[..., None]) -> tuple[Line, Path]:
    """A daemon whose `state_dir` of 4 MiB becomes full after the first results, and what fills it."""
    line = make("keep", "move")
    line.site.state.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "none", line.site.state)
    line.site.start()
    line.fill("before", 2)
    until(lambda: line.rows() == 4 and line.at_rest(), "the first ones", PATIENCE_S)
    return line, ballast(line.site.state, 16_384)


def test_a_small_disk_that_is_full(make: Callable[..., Line], mount: Callable[..., None]) -> None:
    line, full = on_a_full_disk(make, mount)
    for number in range(40):
        line.fill(f"during-{number}", 5)
    until(lambda: line.site.said("results cannot be made durable"), "the fault to be named", PATIENCE_S)
    assert line.site.get("/readyz").status_code == 503
    assert line.rows() < len(line.producer.dropped)
    full.unlink()
    until(lambda: line.site.get("/readyz").status_code == 200, "it to go on by itself", PATIENCE_S)
    all_is_well(line)
    assert events(line, "results cannot be made durable").total() == 1


def test_kills_on_a_small_disk_that_is_full(make: Callable[..., Line], mount: Callable[..., None]) -> None:
    line, full = on_a_full_disk(make, mount)
    line.fill("during", 100)
    until(lambda: line.site.said("results cannot be made durable"), "the fault to be named", PATIENCE_S)
    line.site.kill()
    full.unlink()
    all_is_well(line)


def test_a_disk_for_done_files_that_is_full(make: Callable[..., Line], mount: Callable[..., None]) -> None:
    line = make("move")
    line.inboxes[0].done.mkdir()
    mount("-t", "tmpfs", "-o", "size=4m", "none", line.inboxes[0].done)
    full = ballast(line.inboxes[0].done, 0)
    line.site.start()
    line.fill("during")
    said = "a scored file cannot leave the inbox; it is tried again"
    until(lambda: line.rows() == 10 and line.site.said(said), "the fault to be named", PATIENCE_S)
    line.fill("more")
    until(lambda: line.rows() == 20, "results all the same", PATIENCE_S)
    assert events(line, said).total() == 1
    assert line.site.stop() == 0
    full.unlink()
    all_is_well(line)


def test_a_disk_that_becomes_read_only(make: Callable[..., Line], mount: Callable[..., None], tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount("-t", "tmpfs", "-o", "size=16m", "none", disk)
    line = make("move", "keep", "delete", place=disk)
    line.site.start()
    line.fill("before", 2)
    until(lambda: line.rows() == 6 and line.at_rest(), "the first ones", PATIENCE_S)
    os.kill(line.site.pid, signal.SIGSTOP)
    line.fill("during")
    done = subprocess.run(["mount", "-o", "remount,ro", disk], capture_output=True, text=True, check=False)
    os.kill(line.site.pid, signal.SIGCONT)
    if done.returncode:
        pytest.skip(f"the kernel lets nobody remount it: {done.stderr.strip()}")
    until(lambda: line.rows() == 36, "results all the same", PATIENCE_S)
    said = "a scored file cannot leave the inbox; it is tried again"
    until(lambda: len(events(line, said, "source")) == 2, "the fault to be named", PATIENCE_S)
    assert set(events(line, said, "source").values()) == {1}
    subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    assert line.site.stop() == 0
    all_is_well(line)


def test_a_disk_that_is_unmounted_and_comes_back(
    make: Callable[..., Line], mount: Callable[..., None], tmp_path: Path
) -> None:
    disk, view = tmp_path / "disk", tmp_path / "view"
    disk.mkdir()
    view.mkdir()
    mount("--bind", disk, view)
    line = make("move", "keep", "delete", place=view, rescan_seconds=1)
    line.site.start()
    line.fill("before", 5)
    until(lambda: line.rows() >= 5, "work in flight", PATIENCE_S)
    subprocess.run(["umount", "-l", view], check=True)
    until(lambda: len(events(line, "the folder cannot be read", "source")) == 3, "the fault to be named", PATIENCE_S)
    for inbox in line.inboxes:  # while nobody sees it, a producer on another machine goes on
        drop(disk / inbox.folder.name / "meanwhile.png", good(1_000_000 + len(inbox.source)))
    assert [line.site.metrics()[f'edged_source_up{{source="{one.source}"}}'] for one in line.inboxes] == [0, 0, 0]
    mount("--bind", disk, view)
    for inbox in line.inboxes:
        data = good(1_000_000 + len(inbox.source))
        line.producer.note(inbox, os.fsencode(inbox.folder / "meanwhile.png"), data, is_good=True)
    all_is_well(line, restarts=1)
    assert set(events(line, "the folder cannot be read", "source").values()) <= {1}


def test_a_folder_that_stands_where_the_disk_is_not_mounted(
    make: Callable[..., Line], mount: Callable[..., None], tmp_path: Path
) -> None:
    disk, view = tmp_path / "disk", tmp_path / "view"
    disk.mkdir()
    view.mkdir()
    mount("--bind", disk, view)
    line = make("move", "keep", "delete", place=view, rescan_seconds=1)
    line.fill("before", 5)
    line.site.start(wait=False, environment={"EDGED_FAILPOINT": "disposing"})
    assert line.site.process is not None
    assert line.site.process.wait(timeout=PATIENCE_S) == -signal.SIGKILL
    subprocess.run(["umount", "-l", view], check=True)
    for inbox in line.inboxes:
        inbox.folder.mkdir()
    line.site.start()
    out_of_sight = "scored files are out of sight, for another folder stands where their inbox was; they leave it when "
    until(lambda: events(line, out_of_sight + "it is back", "source"), "them to be missed", PATIENCE_S)
    mount("--bind", disk, view)
    all_is_well(line, restarts=1)


# Events that are lost.


def _is_stopped(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] == "T" for thread in threads)


def test_more_files_than_the_kernel_tells_of(make: Callable[..., Line]) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"takes more than {most} events")
    line = make("move")
    line.site.start()
    line.fill("before", 1)
    until(lambda: line.rows() == 1, "the first one, which tells that the folder is watched", PATIENCE_S)
    os.kill(line.site.pid, signal.SIGSTOP)
    until(lambda: _is_stopped(line.site.pid), "the daemon to be stopped")
    descriptor = os.open(line.inboxes[0].folder, os.O_RDONLY)
    for _ in range(most // 2 + 4000):
        os.close(os.open("noise", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
        os.unlink("noise", dir_fd=descriptor)
    os.close(descriptor)
    line.fill("lost", 500)
    os.kill(line.site.pid, signal.SIGCONT)
    until(lambda: line.rows() == 501, "every row", PATIENCE_S)
    metrics = line.site.metrics()
    assert metrics['edged_watch_overflows_total{source="move"}'] >= 1
    assert metrics['edged_rescan_recovered_total{source="move"}'] == 500
    assert events(line, "inotify lost events; the folder is scanned").total() >= 1
    all_is_well(line)

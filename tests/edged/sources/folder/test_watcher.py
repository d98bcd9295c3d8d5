import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.sources.folder.watcher import Watcher
from tests.edged.making import until


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.fixture
def watcher(inbox: Path) -> Iterator[Watcher]:
    one = Watcher(lambda: None)
    one.watch(os.fsencode(inbox))
    yield one
    one.close()


def collect(watcher: Watcher, count: int) -> dict[bytes, bool]:
    found: dict[bytes, bool] = {}

    def enough() -> bool:
        found.update(watcher.events())
        return len(found) >= count

    until(enough, f"{count} paths with events")
    return found


def test_a_rename_into_place_is_whole_and_a_write_is_not(watcher: Watcher, inbox: Path) -> None:
    (inbox.parent / "outside").write_text("x")
    os.rename(inbox.parent / "outside", inbox / "moved.png")
    (inbox / "written.png").write_text("x")
    name = b"line\nfeed\xff.png"
    os.rename(inbox / "written.png", os.path.join(os.fsencode(inbox), name))
    found = collect(watcher, 3)
    assert found[os.fsencode(inbox / "moved.png")] is True
    assert found[os.fsencode(inbox / "written.png")] is False
    assert found[os.path.join(os.fsencode(inbox), name)] is True
    assert not watcher.stale


def test_our_own_reads_raise_no_events(watcher: Watcher, inbox: Path) -> None:
    for name in ("a.png", "b.png"):
        (inbox.parent / name).write_text("x")
    os.rename(inbox.parent / "a.png", inbox / "a.png")
    assert set(collect(watcher, 1)) == {os.fsencode(inbox / "a.png")}
    (inbox / "a.png").read_text()
    os.listdir(inbox)
    os.rename(inbox.parent / "b.png", inbox / "b.png")  # whatever the reads raised came before this
    assert set(collect(watcher, 1)) == {os.fsencode(inbox / "b.png")}


def test_a_new_folder_asks_for_a_scan(watcher: Watcher, inbox: Path) -> None:
    assert not watcher.folder_came()
    (inbox / "sub").mkdir()
    until(watcher.folder_came, "news of the folder")
    assert not watcher.folder_came()
    watcher.watch(os.fsencode(inbox / "sub"))
    watcher.watch(os.fsencode(inbox / "sub"))  # twice is once
    (inbox / "sub" / "a.png").write_text("x")
    assert set(collect(watcher, 1)) == {os.fsencode(inbox / "sub" / "a.png")}


@pytest.mark.parametrize("change", ["move", "remove", "move root"])
def test_a_folder_that_goes_makes_it_stale(watcher: Watcher, inbox: Path, change: str) -> None:
    (inbox / "sub").mkdir()
    watcher.watch(os.fsencode(inbox / "sub"))
    assert not watcher.stale
    if change == "move":
        (inbox / "sub").rename(inbox.parent / "away")
    elif change == "remove":
        (inbox / "sub").rmdir()
    else:
        inbox.rename(inbox.parent / "away")
    until(lambda: watcher.stale, "staleness")


def test_a_folder_that_is_not_there_or_not_one_is_refused(watcher: Watcher, inbox: Path) -> None:
    (inbox / "file").write_text("")
    (inbox / "target").mkdir()
    os.symlink(inbox / "target", inbox / "link")
    for name in ("absent", "file", "link"):
        with pytest.raises(OSError, match=r"No such|Not a directory"):
            watcher.watch(os.fsencode(inbox / name))


def test_an_overflow_of_the_kernels_queue_is_told(inbox: Path) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"takes more than {most} events")
    gate, blocked = threading.Event(), threading.Event()

    def wake() -> None:
        blocked.set()
        gate.wait()

    watcher = Watcher(wake)
    try:
        watcher.watch(os.fsencode(inbox))
        (inbox / "first").write_text("")
        assert blocked.wait(30)  # the thread is busy with the first event: the kernel queues the rest, and then drops
        descriptor = os.open(inbox, os.O_RDONLY)
        for _ in range(most // 2 + 2000):  # a file's creation and its end of writing are two events
            os.close(os.open("a", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
            os.unlink("a", dir_fd=descriptor)
        os.close(descriptor)
        gate.set()
        assert until(watcher.overflows, "news of the overflow") >= 1
        assert watcher.overflows() == 0
        (inbox / "after.png").write_text("")
        until(lambda: os.fsencode(inbox / "after.png") in dict(watcher.events()), "events after the overflow")
    finally:
        gate.set()
        watcher.close()


def test_every_event_wakes(inbox: Path) -> None:
    woken = threading.Event()
    watcher = Watcher(woken.set)
    try:
        watcher.watch(os.fsencode(inbox))
        for name in ("a.png", "b.png"):
            woken.clear()
            (inbox / name).write_text("x")
            assert woken.wait(30)
    finally:
        watcher.close()

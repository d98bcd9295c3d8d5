import contextlib
import errno
import hashlib
import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from edged.errors import PictureError
from edged.journal.journal import Entry, Journal
from edged.media.imaging import ImageInput
from edged.results import Record
from edged.sources.contract import Delivery, Settlement, SourceContext
from edged.sources.folder.delivery import FileDelivery
from edged.sources.folder.files import Fingerprint
from edged.sources.folder.ledger import Ledger
from edged.sources.folder.pending_actions import RETRY_SECONDS
from edged.sources.folder.source import MAX_CANDIDATES, FolderSource
from edged.sources.folder.table import FolderTable
from tests.edged.making import drop, quarantined, record, until

LONGEST_PATH = 4095
NEVER = 3000.0
"""Seconds: for what must not be the reason that something happens."""


class Seen:
    """What a source reports (`edged.sources.contract.Observer`), for the test to read."""

    def __init__(self) -> None:
        self.skips: list[str] = []
        self.overflows = self.recoveries = self.drops = 0
        self.states: list[str] = []
        self.ups: list[bool] = []

    def skipped(self, source: str, reason: str) -> None:
        self.skips.append(reason)

    def overflowed(self, source: str) -> None:
        self.overflows += 1

    def recovered(self, source: str, count: int) -> None:
        self.recoveries += count

    def state(self, source: str, state: str, why: str = "") -> None:
        self.states.append(state)

    def dropped(self, source: str, count: int) -> None:
        self.drops += count

    def up(self, source: str, is_up: bool) -> None:
        if self.ups[-1:] != [is_up]:
            self.ups.append(is_up)


class CountingEvent(threading.Event):
    """Counts how often its owner went to sleep, and can hold up those who wake it."""

    def __init__(self) -> None:
        super().__init__()
        self.waits = 0
        self.gate = threading.Event()
        self.gate.set()
        self.held = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        self.waits += 1
        return super().wait(timeout)

    def set(self) -> None:
        super().set()
        if not self.gate.is_set():
            self.held.set()
            self.gate.wait()


class Line:
    """A folder source that runs, and the workers that it is used to."""

    def __init__(self, root: Path) -> None:
        self.root, self.inbox = root, root / "in"
        self.inbox.mkdir(exist_ok=True)
        self.seen, self.arrivals = Seen(), list[FileDelivery]()
        self.room = 1_000_000
        self.journal: Journal
        self.source: FolderSource
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, *, action_retry_seconds: float = RETRY_SECONDS, **options: Any) -> "Line":
        defaults = {"settle_seconds": NEVER, "rescan_seconds": NEVER, "quarantine_dir": self.root / "quarantine"}
        self.journal = Journal(self.root / "state")
        table = FolderTable.model_construct(name="line1", path=self.inbox, model="tiny", **{**defaults, **options})
        context = SourceContext(self.journal, self.seen, self.root / "state", ImageInput(32, 32, 1))
        self.source = FolderSource(table, context, action_retry_seconds=action_retry_seconds)
        self.wake = self.source.wake = CountingEvent()
        self._stop.clear()
        self._thread = threading.Thread(target=self.source.run, args=(self._hand_over, self._stop))
        self._thread.start()
        until(lambda: self.wake.waits, "the first scan")
        return self

    def _hand_over(self, arrival: Delivery) -> bool:
        assert isinstance(arrival, FileDelivery)
        if len(self.arrivals) >= self.room:
            return False
        self.arrivals.append(arrival)
        return True

    def stop(self) -> None:
        if self._thread is not None:
            self.wake.gate.set()
            self._stop.set()
            self.source.wake.set()
            self._thread.join()
            self._thread = None
            self.journal.close()

    def take(self, name: str | bytes) -> FileDelivery:
        """Waits for the arrival of one name, and takes it out of `arrivals`."""
        path = os.path.join(os.path.realpath(os.fsencode(self.inbox)), os.fsencode(name))
        until(lambda: any(arrival.file_path == path for arrival in list(self.arrivals)), f"the arrival of {name!r}")
        (found,) = [arrival for arrival in self.arrivals if arrival.file_path == path]
        self.arrivals.remove(found)
        return found

    def score(self, arrival: FileDelivery, *, broken: bool = False) -> Entry | None:
        """What the workers do with an arrival; None when it was given back or is no new one."""
        file = arrival.open()
        if file is None:
            arrival.give_back()
            return None
        with file:
            sha256 = hashlib.sha256(file.read()).hexdigest()
            settlement = arrival.settle(sha256, None)
        if settlement is Settlement.AGAIN:
            arrival.give_back()
            return None
        if settlement is Settlement.SEEN:
            self.journal.commit([Entry(None, arrival.statements(None))])
            arrival.acknowledge(None)
            return None
        made: Callable[..., Record] = quarantined if broken else record
        entry = self.entry(arrival, made(id=arrival.id, path=arrival.path, sha256=sha256))
        self.journal.commit([entry])
        arrival.acknowledge(entry.record)
        return entry

    def entry(self, arrival: FileDelivery, one: Record | None = None) -> Entry:
        """What is to become durable of an arrival."""
        one = one or record(id=arrival.id, path=arrival.path)
        return Entry(one, arrival.statements(one))

    def defers(self, arrival: FileDelivery, error: PictureError) -> bool:
        """Whether an arrival that failed is to come again; it is given back if so."""
        if arrival.settle(None, error) is not Settlement.AGAIN:
            return False
        arrival.give_back()
        return True

    def idle(self) -> None:
        """Waits until the scanner has looked at all that was there: a marker that is dropped now has arrived."""
        name = f"marker-{time.monotonic_ns()}.png"
        drop(self.inbox / name, b"marker")
        arrival = self.take(name)
        (self.inbox / name).unlink()
        arrival.give_back()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    one = Line(tmp_path)
    yield one
    one.stop()


# What is taken, and when.


def test_a_file_that_was_renamed_into_place_is_taken_at_once(line: Line) -> None:
    line.start()
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    assert arrival.source == "line1"
    assert arrival.fingerprint.size == 7
    assert arrival.captured_at == pytest.approx((line.inbox / "a.png").stat().st_mtime, abs=1e-3)
    assert len(arrival.id) == 26


def test_what_is_there_at_the_start_is_taken_when_it_held_still(line: Line) -> None:
    (line.inbox / "a.png").write_bytes(b"picture")
    line.start(settle_seconds=0.05)
    line.take("a.png")
    assert line.seen.recoveries == 0
    assert line.seen.ups == [True]


def test_a_file_that_is_still_being_written_is_not_taken_half(line: Line) -> None:
    line.start(settle_seconds=1.5)
    with open(line.inbox / "a.png", "wb") as file:
        for _ in range(12):
            file.write(b"0123456789")
            file.flush()
            time.sleep(0.2)  # longer in all than it has to hold still
            assert line.arrivals == []
    with open(line.inbox / "a.png", "ab") as file:  # some scanners come back
        file.write(b"end")
    assert line.take("a.png").fingerprint.size == 123
    assert line.arrivals == []


def test_only_what_matches_is_taken(line: Line) -> None:
    for name in ("a.txt", "b", "c.png.part", "png"):
        (line.inbox / name).write_bytes(b"x")
    line.start(settle_seconds=0)
    for name in ("D.PNG", "e.Jpeg"):
        drop(line.inbox / name, b"x")
        line.take(name)
    line.idle()
    assert line.arrivals == []


def test_patterns_of_ones_own(line: Line) -> None:
    line.start(settle_seconds=0, patterns=("cam?_*.bmp",))
    drop(line.inbox / "a.png", b"x")
    drop(line.inbox / "CAM1_0001.BMP", b"x")
    line.take("CAM1_0001.BMP")
    assert line.arrivals == []


def test_names_of_any_bytes(line: Line) -> None:
    line.start()
    name = b"line\nfeed \"quote' \\ \xff\xfe%00.png"
    drop(os.path.join(os.fsencode(line.inbox), name), b"x")
    arrival = line.take(name)
    file = arrival.open()
    assert file is not None
    file.close()


def test_the_oldest_first(line: Line) -> None:
    for number in (3, 1, 2):
        (line.inbox / f"{number}.png").write_bytes(b"x")
        os.utime(line.inbox / f"{number}.png", (number, number))
    line.start(settle_seconds=0)
    until(lambda: len(line.arrivals) == 3, "three arrivals")
    assert [os.path.basename(arrival.file_path) for arrival in line.arrivals] == [b"1.png", b"2.png", b"3.png"]


def test_folders_in_the_folder(line: Line) -> None:
    (line.inbox / "old").mkdir()
    (line.inbox / "old" / "a.png").write_bytes(b"x")
    line.start(settle_seconds=0.05)
    line.take("old/a.png")
    (line.inbox / "new" / "newer").mkdir(parents=True)
    (line.inbox / "new" / "newer" / "b.png").write_bytes(b"x")
    line.take("new/newer/b.png")
    (line.root / "full" / "sub").mkdir(parents=True)
    (line.root / "full" / "sub" / "c.png").write_bytes(b"x")
    (line.root / "full").rename(line.inbox / "full")
    line.take("full/sub/c.png")
    drop(line.inbox / "full" / "sub" / "d.png", b"x")  # and the folder is watched from now on
    line.take("full/sub/d.png")


def test_a_folder_that_was_renamed_is_watched_under_its_new_name(line: Line) -> None:
    (line.inbox / "old").mkdir()
    line.start(settle_seconds=0.05)
    drop(line.inbox / "old" / "a.png", b"x")
    line.score(line.take("old/a.png"))
    (line.inbox / "old").rename(line.inbox / "new")
    line.take("new/a.png")  # another path is another arrival
    drop(line.inbox / "new" / "b.png", b"x")
    line.take("new/b.png")


def test_folders_are_left_out_when_not_recursive(line: Line) -> None:
    (line.inbox / "sub").mkdir()
    (line.inbox / "sub" / "a.png").write_bytes(b"x")
    line.start(settle_seconds=0, recursive=False)
    drop(line.inbox / "b.png", b"x")
    line.take("b.png")
    assert line.arrivals == []


def test_links_and_what_is_no_file_are_passed_over_and_counted_once(line: Line) -> None:
    (line.root / "target.png").write_bytes(b"x")
    (line.root / "elsewhere").mkdir()
    (line.root / "elsewhere" / "a.png").write_bytes(b"x")
    line.start(settle_seconds=0, rescan_seconds=0.1)
    os.symlink(line.root / "target.png", line.inbox / "link.png")
    os.symlink(line.root / "nowhere", line.inbox / "dangling.png")
    os.symlink(line.root / "elsewhere", line.inbox / "folder.png")
    os.mkfifo(line.inbox / "fifo.png")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(line.inbox / "s.png"))
    expected = ["not_a_file", "not_a_file", "symlink", "symlink", "symlink"]
    with contextlib.suppress(PermissionError):  # only root makes devices
        os.mknod(line.inbox / "null.png", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
        expected.insert(0, "not_a_file")
    until(lambda: len(line.seen.skips) >= len(expected), "all of them to be passed over")
    before = line.wake.waits
    until(lambda: line.wake.waits > before + 5, "more scans")
    assert sorted(line.seen.skips) == expected
    assert line.arrivals == []


def test_paths_as_long_as_the_system_takes_them_and_longer(line: Line) -> None:
    folder = os.path.realpath(os.fsencode(line.inbox))
    descriptor = os.open(folder, os.O_RDONLY)
    while LONGEST_PATH - len(folder) - 1 > 254:  # the rest is one name
        os.mkdir(b"x" * 250, dir_fd=descriptor)
        below = os.open(b"x" * 250, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor, folder = below, os.path.join(folder, b"x" * 250)
    for length in (LONGEST_PATH, LONGEST_PATH + 1):
        name = (length - len(folder) - 1 - len(b".png")) * b"y" + b".png"
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
    os.close(descriptor)
    line.start(settle_seconds=0, rescan_seconds=0.1)
    until(lambda: line.arrivals, "the shorter one")
    before = line.wake.waits
    until(lambda: line.wake.waits > before + 5, "more scans")
    assert [len(arrival.path) for arrival in line.arrivals] == [LONGEST_PATH]
    assert line.score(line.arrivals[0]) is not None
    assert line.seen.skips == ["unreadable_folder"]  # for the other one, once


def test_the_timer_finds_what_no_event_told_of(line: Line) -> None:
    line.start(settle_seconds=0, rescan_seconds=0.3)
    drop(line.inbox / "told.png", b"x")
    line.score(line.take("told.png"))
    line.wake.gate.clear()
    (line.inbox / "first").write_text("")
    assert line.wake.held.wait(30)  # the thread that reads the events is held up
    drop(line.inbox / "untold.png", b"x")
    line.take("untold.png")
    assert line.seen.recoveries == 1


# An arrival under "keep".


def test_a_scored_file_is_no_arrival_again(line: Line) -> None:
    line.start(settle_seconds=0.05, rescan_seconds=0.1)
    drop(line.inbox / "a.png", b"picture")
    assert line.score(line.take("a.png")) is not None
    before = line.wake.waits
    until(lambda: line.wake.waits > before + 5, "more scans")
    assert line.arrivals == []
    line.stop()
    line.start(settle_seconds=0, rescan_seconds=0.1)
    until(lambda: line.wake.waits > 5, "scans of the next run")
    assert line.arrivals == []
    assert (line.inbox / "a.png").read_bytes() == b"picture"


@pytest.mark.parametrize("while_running", [True, False])
def test_new_stamps_alone_are_no_new_arrival(line: Line, while_running: bool) -> None:
    line.start(settle_seconds=0.05, rescan_seconds=0.1)
    drop(line.inbox / "a.png", b"picture")
    line.score(line.take("a.png"))
    if not while_running:
        line.stop()
    os.utime(line.inbox / "a.png", (1, 1))
    if not while_running:
        line.start(settle_seconds=0.05, rescan_seconds=0.1)
    assert line.score(line.take("a.png")) is None  # it was looked at, and is what was scored
    before = line.wake.waits
    until(lambda: line.wake.waits > before + 5, "more scans")
    assert line.arrivals == []  # and it is not looked at again
    assert [mtime for _, _, mtime in Ledger(line.journal, "line1").kept()] == [10**9]


@pytest.mark.parametrize("how", ["rewrite", "replace", "append"])
def test_new_content_is_a_new_arrival(line: Line, how: str) -> None:
    line.start(settle_seconds=0.05, rescan_seconds=0.1)
    drop(line.inbox / "a.png", b"picture")
    first = line.score(line.take("a.png"))
    if how == "rewrite":
        (line.inbox / "a.png").write_bytes(b"PICTURE")  # as long as the first
    elif how == "replace":
        drop(line.inbox / "a.png", b"another")
    else:
        with open(line.inbox / "a.png", "ab") as file:
            file.write(b"more")
    second = line.score(line.take("a.png"))
    assert first is not None
    assert second is not None
    assert first.record.id != second.record.id
    assert first.record.sha256 != second.record.sha256


def test_a_change_while_it_is_scored_is_not_lost(line: Line) -> None:
    line.start(settle_seconds=0.05)
    drop(line.inbox / "a.png", b"first")
    arrival = line.take("a.png")
    file = arrival.open()
    assert file is not None
    with file:
        (line.inbox / "a.png").write_bytes(b"second")
        assert arrival.settle(None, None) is Settlement.AGAIN
    arrival.give_back()
    entry = line.score(line.take("a.png"))
    assert entry is not None
    assert entry.record.sha256 == hashlib.sha256(b"second").hexdigest()


def test_a_change_after_it_was_read_is_a_new_arrival(line: Line) -> None:
    line.start(settle_seconds=0.05)
    drop(line.inbox / "a.png", b"first")
    arrival = line.take("a.png")
    entry = line.entry(arrival, record(id=arrival.id, path=arrival.path, sha256="ab" * 32))
    line.journal.commit([entry])
    drop(line.inbox / "a.png", b"second")  # before the source is told that the first is durable
    line.idle()
    assert line.arrivals == []  # it is claimed still
    arrival.acknowledge(entry.record)
    assert line.take("a.png").fingerprint.size == 6


def test_marks_of_files_that_have_gone_are_forgotten_but_not_with_the_folder(line: Line) -> None:
    line.start(settle_seconds=0)
    for name in ("a.png", "b.png"):
        drop(line.inbox / name, b"picture")
        line.score(line.take(name))
    (line.inbox / "a.png").unlink()
    line.idle()
    line.source.forget_gone()
    assert [os.path.basename(path) for path, _, _ in Ledger(line.journal, "line1").kept()] == [b"b.png"]
    line.inbox.rename(line.root / "unmounted")
    line.source.forget_gone()
    assert [os.path.basename(path) for path, _, _ in Ledger(line.journal, "line1").kept()] == [b"b.png"]
    until(lambda: line.seen.ups == [True, False], "the source to be down")
    line.inbox.mkdir()  # what stands there while nothing is mounted over it
    until(lambda: line.seen.ups == [True, False, True], "the source to be up")
    line.source.forget_gone()
    line.inbox.rmdir()
    (line.root / "unmounted").rename(line.inbox)
    until(line.source._root_stands, "the source to see the folder that has come back")
    line.idle()
    assert line.arrivals == []


# Opening.


def test_open_refuses_what_is_not_what_was_found(line: Line) -> None:
    (line.inbox / "sub").mkdir()
    (line.root / "secret").mkdir()
    line.start()
    drop(line.inbox / "sub" / "a.png", b"picture")
    os.link(line.inbox / "sub" / "a.png", line.root / "secret" / "a.png")  # so that the path alone tells them apart
    arrival = line.take("sub/a.png")
    with arrival.open() as file:  # type: ignore[union-attr]
        assert file.read() == b"picture"
    os.rename(line.inbox / "sub" / "a.png", line.root / "kept")
    assert arrival.open() is None  # gone
    os.symlink(line.root / "kept", line.inbox / "sub" / "a.png")
    assert arrival.open() is None  # a link, to the very file
    (line.inbox / "sub" / "a.png").unlink()
    os.mkfifo(line.inbox / "sub" / "a.png")
    assert arrival.open() is None  # and does not wait for a writer
    (line.inbox / "sub" / "a.png").unlink()
    (line.inbox / "sub").rmdir()
    os.symlink(line.root / "secret", line.inbox / "sub")
    assert arrival.open() is None  # out of the inbox by a folder that became a link
    (line.inbox / "sub").unlink()
    (line.inbox / "sub").mkdir()
    os.rename(line.root / "kept", line.inbox / "sub" / "a.png")
    with arrival.open() as file:  # type: ignore[union-attr]
        assert file.read() == b"picture"


# Failing pictures.


def test_a_young_file_that_cannot_be_decoded_is_tried_again(line: Line) -> None:
    line.start(settle_seconds=0, retry_seconds=NEVER)
    drop(line.inbox / "a.png", b"half")
    for _ in range(2):
        assert line.defers(line.take("a.png"), PictureError("undecodable", "truncated"))
    for reason in ("picture_too_large", "file_too_large", "unsupported", "decoder_crashed", "model_failed"):
        other = FileDelivery(line.source, b"/in/b.png", Fingerprint(1, 1, 1), found_at=0.0, root=None)
        assert not line.defers(other, PictureError(reason, ""))
    with open(line.inbox / "a.png", "ab") as file:
        file.write(b" and the rest")
    arrival = line.take("a.png")
    while arrival.fingerprint.size != 17:  # one that was tried on the way may come first
        line.score(arrival)
        arrival = line.take("a.png")


def test_an_old_file_that_cannot_be_decoded_is_given_up(line: Line) -> None:
    line.start(settle_seconds=0, retry_seconds=0.5)
    drop(line.inbox / "a.png", b"half")
    tries = 0
    while line.defers(line.take("a.png"), PictureError("undecodable", "truncated")):
        tries += 1
    assert 1 <= tries <= 3


# Files that leave.


@pytest.mark.parametrize("after", ["move", "delete"])
def test_a_file_leaves_when_its_result_is_durable(line: Line, after: str) -> None:
    line.start(after=after, done_dir=line.root / "done")
    (line.inbox / "sub").mkdir()
    for name in ("a.png", "sub/b.png"):
        until(lambda: line.source._watcher is not None, "a watcher")
        drop(line.inbox / name, b"picture")
    drop(line.inbox / "broken.png", b"broken")
    arrival = line.take("a.png")
    assert (line.inbox / "a.png").exists()
    line.score(arrival)
    until(lambda: not (line.inbox / "a.png").exists(), "the file to leave")
    if after == "move":  # it is held in between
        until((line.root / "done" / "a.png").exists, "the file to arrive")
    line.score(line.take("broken.png"), broken=True)
    until((line.root / "quarantine" / "broken.png").exists, "the quarantine")
    assert '"reason": "undecodable"' in (line.root / "quarantine" / "broken.png.json").read_text()
    assert not (line.inbox / "broken.png").exists()
    until(lambda: Ledger(line.journal, "line1").actions() == [], "nothing to be owed")


def test_keep_leaves_even_what_is_quarantined(line: Line) -> None:
    line.start()
    drop(line.inbox / "broken.png", b"broken")
    line.score(line.take("broken.png"), broken=True)
    line.idle()
    assert (line.inbox / "broken.png").read_bytes() == b"broken"
    assert not (line.root / "quarantine").exists()


@pytest.mark.parametrize("after", ["move", "delete"])
def test_the_same_name_and_content_again_is_a_new_arrival(line: Line, after: str) -> None:
    line.start(after=after, done_dir=line.root / "done")
    ids = set()
    for _ in range(3):
        drop(line.inbox / "a.png", b"picture")
        entry = line.score(line.take("a.png"))
        assert entry is not None
        ids.add(entry.record.id)
        until(lambda: not (line.inbox / "a.png").exists(), "the file to leave")
    assert len(ids) == 3
    if after == "move":
        until(lambda: len(list((line.root / "done").glob("*.png"))) == 3, "all three to arrive")


@pytest.mark.parametrize("after", ["move", "delete"])
def test_a_file_that_replaced_a_scored_one_is_not_moved_but_scored(line: Line, after: str) -> None:
    line.start(after=after, done_dir=line.root / "done", settle_seconds=0.05)
    drop(line.inbox / "a.png", b"first")
    arrival = line.take("a.png")
    entry = line.entry(arrival)
    line.journal.commit([entry])
    drop(line.inbox / "a.png", b"second")
    arrival.acknowledge(entry.record)
    second = line.take("a.png")
    assert second.id != arrival.id
    assert (line.inbox / "a.png").read_bytes() == b"second"
    assert not (line.root / "done" / "a.png").exists()
    line.score(second)
    until(lambda: not (line.inbox / "a.png").exists(), "the second to leave")


def test_what_is_owed_is_done_at_the_next_start_and_not_scored_again(line: Line) -> None:
    line.start(after="move", done_dir=line.root / "done")
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    entry = line.entry(arrival)
    line.journal.commit([entry])  # and it dies before the file is moved
    line.stop()
    line.start(after="move", done_dir=line.root / "done", settle_seconds=0)
    until((line.root / "done" / "a.png").exists, "the move")
    until(lambda: Ledger(line.journal, "line1").actions() == [], "nothing to be owed")
    assert line.arrivals == []


def test_two_files_of_one_name_both_leave_when_the_first_could_not(line: Line) -> None:
    (line.inbox / "sub").mkdir()
    (line.root / "done").mkdir()
    (line.root / "done" / "sub").write_text("a file where the folder should be")
    line.start(after="move", done_dir=line.root / "done", action_retry_seconds=1)
    for content in (b"first", b"second"):
        drop(line.inbox / "sub" / "a.png", content)
        line.score(line.take("sub/a.png"))
        until(lambda: not (line.inbox / "sub" / "a.png").exists(), "the file to be taken out of the inbox")
    assert len(Ledger(line.journal, "line1").actions()) == 2
    (line.root / "done" / "sub").unlink()
    drop(line.inbox / "b.png", b"third")
    line.score(line.take("b.png"))
    until(lambda: Ledger(line.journal, "line1").actions() == [], "nothing to be owed")
    contents = sorted(path.read_bytes() for path in (line.root / "done").rglob("*.png"))
    assert contents == [b"first", b"second", b"third"]


def test_a_file_that_is_held_on_its_way_out_is_found_under_other_settings(line: Line) -> None:
    (line.inbox / "sub").mkdir()
    (line.root / "done").mkdir()
    (line.root / "done" / "sub").write_text("a file where the folder should be")
    line.start(after="move", done_dir=line.root / "done")
    drop(line.inbox / "sub" / "a.png", b"picture")
    line.score(line.take("sub/a.png"))
    until(lambda: list((line.root / "done" / ".edged").glob("*")), "the file to be held")
    line.stop()
    line.start(after="move", done_dir=line.root / "other")  # the operator's way out
    until((line.root / "other" / "sub" / "a.png").exists, "the move")
    until(lambda: Ledger(line.journal, "line1").actions() == [], "nothing to be owed")
    assert list((line.root / "done" / ".edged").iterdir()) == []
    assert len(Ledger(line.journal, "line1").places()) == 2
    line.stop()
    line.start(after="move", done_dir=line.root / "other")
    assert Ledger(line.journal, "line1").places() == [os.fsencode(line.root / "other" / ".edged")]


# Flow.


def test_what_is_refused_for_want_of_room_comes_later(line: Line) -> None:
    line.room = 2
    line.start()
    for number in range(5):
        drop(line.inbox / f"{number}.png", b"x")
    until(lambda: line.source.pending()[0] == 5, "five to be known")
    assert len(line.arrivals) == 2
    _count, oldest = line.source.pending()
    assert oldest is not None
    assert 0 <= time.monotonic() - oldest < 30
    line.room = 5
    line.source.wake.set()
    until(lambda: len(line.arrivals) == 5, "the rest")
    for arrival in list(line.arrivals):
        line.arrivals.remove(arrival)
        line.score(arrival)
    until(lambda: line.source.pending() == (0, None), "nothing to wait")


def test_a_flood_is_taken_in_portions_and_none_is_lost(line: Line) -> None:
    total = MAX_CANDIDATES + 500
    for number in range(total):
        (line.inbox / f"{number}.png").write_bytes(b"")
    line.start(settle_seconds=0)
    scored = set[bytes]()
    while len(scored) < total:
        portion = until(lambda: line.arrivals[:], "more arrivals")
        assert line.source.pending()[0] <= MAX_CANDIDATES
        del line.arrivals[: len(portion)]
        assert not scored & {arrival.path for arrival in portion}
        scored |= {arrival.path for arrival in portion}
        pairs = [(one, line.entry(one)) for one in portion]
        line.journal.commit([entry for _, entry in pairs])
        for arrival, entry in pairs:
            arrival.acknowledge(entry.record)
    assert len(scored) == total
    until(lambda: line.source.pending() == (0, None), "nothing to wait")
    assert line.arrivals == []


def test_after_an_overflow_the_folder_is_scanned(line: Line) -> None:
    most = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    if most > 100_000:
        pytest.skip(f"takes more than {most} events")
    line.start(settle_seconds=0)
    line.wake.gate.clear()
    (line.inbox / "first").write_text("")
    assert line.wake.held.wait(30)  # watchdog's thread is held up: the kernel queues the rest, and then drops
    descriptor = os.open(line.inbox, os.O_RDONLY)
    for _ in range(most // 2 + 2000):
        os.close(os.open("a", os.O_WRONLY | os.O_CREAT, dir_fd=descriptor))
        os.unlink("a", dir_fd=descriptor)
    os.close(descriptor)
    drop(line.inbox / "lost.png", b"x")  # its event is dropped
    line.wake.gate.set()
    line.take("lost.png")
    assert line.seen.overflows >= 1
    assert line.seen.recoveries == 1


# A folder that goes and comes back.


def test_a_folder_that_goes_and_comes_back(line: Line) -> None:
    line.start(settle_seconds=0.05)
    drop(line.inbox / "a.png", b"x")
    line.score(line.take("a.png"))
    line.inbox.rename(line.root / "away")
    until(lambda: line.seen.ups == [True, False], "the source to be down")
    drop(line.root / "away" / "b.png", b"x")
    (line.root / "away").rename(line.inbox)
    line.take("b.png")
    assert line.seen.ups == [True, False, True]
    drop(line.inbox / "c.png", b"x")
    line.take("c.png")
    assert line.arrivals == []  # a.png is as it was


def test_another_folder_in_its_place_is_noticed(line: Line) -> None:
    line.start(settle_seconds=0.05)
    (line.root / "other").mkdir()
    (line.root / "other" / "b.png").write_bytes(b"x")
    line.inbox.rename(line.root / "away")
    (line.root / "other").rename(line.inbox)
    line.take("b.png")
    drop(line.inbox / "c.png", b"x")
    line.take("c.png")


def test_files_of_a_folder_that_is_unmounted_for_a_while_are_not_scored_twice(line: Line) -> None:
    line.start(after="move", done_dir=line.root / "done", settle_seconds=0.05)
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    entry = line.entry(arrival)
    line.journal.commit([entry])
    line.inbox.rename(line.root / "away")
    until(lambda: line.seen.ups == [True, False], "the source to be down")
    arrival.acknowledge(entry.record)
    until(lambda: not line.source._messages, "the message to be read")
    (line.root / "away").rename(line.inbox)
    until(lambda: line.seen.ups == [True, False, True], "the source to be up")
    drop(line.inbox / "b.png", b"another")
    line.score(line.take("b.png"))
    until((line.root / "done" / "a.png").exists, "the move")
    assert line.arrivals == []


def test_files_are_still_owed_while_another_folder_stands_where_their_inbox_was(line: Line) -> None:
    options: dict[str, Any] = {"after": "move", "done_dir": line.root / "done", "settle_seconds": 0.05}
    line.start(**options)
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    entry = line.entry(arrival)
    line.journal.commit([entry])
    line.stop()
    line.inbox.rename(line.root / "unmounted")
    line.inbox.mkdir()
    line.start(**options)
    drop(line.inbox / "b.png", b"another")
    line.score(line.take("b.png"))
    until(
        lambda: [one.id for one in Ledger(line.journal, "line1").actions()] == [arrival.id], "what is not out of sight"
    )
    assert (line.root / "done" / "b.png").exists()
    line.inbox.rmdir()
    (line.root / "unmounted").rename(line.inbox)
    until((line.root / "done" / "a.png").exists, "the move")
    until(lambda: not Ledger(line.journal, "line1").actions(), "it to be struck")
    line.idle()
    assert line.arrivals == []


def test_it_sleeps_while_there_is_nothing_to_do(line: Line) -> None:
    line.start(settle_seconds=0)
    drop(line.inbox / "a.png", b"picture")
    line.score(line.take("a.png"))
    line.idle()
    before = line.wake.waits
    time.sleep(0.5)
    assert line.wake.waits - before <= 5


def test_it_sleeps_while_the_folder_is_away_and_something_is_owed(line: Line) -> None:
    line.start(after="delete")
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    line.journal.commit([line.entry(arrival)])
    line.stop()
    line.inbox.rename(line.root / "away")
    line.start(after="delete")
    before = line.wake.waits
    time.sleep(0.5)
    assert line.wake.waits - before <= 5
    (line.root / "away").rename(line.inbox)
    until(lambda: not (line.inbox / "a.png").exists(), "the file to leave")
    assert line.arrivals == []


def test_it_sleeps_when_the_folder_goes_away_with_something_in_work(line: Line) -> None:
    line.start(after="delete")
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    line.inbox.rename(line.root / "away")
    entry = line.entry(arrival)
    line.journal.commit([entry])
    arrival.acknowledge(entry.record)
    time.sleep(0.5)
    before = line.wake.waits
    time.sleep(0.5)
    assert line.wake.waits - before <= 5
    (line.root / "away").rename(line.inbox)
    until(lambda: not (line.inbox / "a.png").exists(), "the file to leave")
    assert line.arrivals == []


def test_with_keep_a_file_that_was_on_its_way_out_is_known_when_it_is_back(line: Line) -> None:
    line.start(after="delete")
    drop(line.inbox / "a.png", b"picture")
    arrival = line.take("a.png")
    line.journal.commit([line.entry(arrival)])
    line.stop()
    (line.inbox / "a.png").rename(line.root / "elsewhere")
    line.start(after="keep", settle_seconds=0)
    assert Ledger(line.journal, "line1").actions() != []  # it is not forgotten
    (line.root / "elsewhere").rename(line.inbox / "a.png")
    drop(line.inbox / "b.png", b"another")
    line.take("b.png")
    line.idle()
    assert line.arrivals == []
    line.stop()
    line.start(after="keep", settle_seconds=0)
    assert Ledger(line.journal, "line1").actions() == []
    assert [path for path, _, _ in Ledger(line.journal, "line1").kept()] == [arrival.file_path]
    assert line.arrivals == [arrival for arrival in line.arrivals if arrival.path.endswith("b.png")]


def test_a_look_at_many_kept_files_asks_the_journal_nothing(line: Line) -> None:
    count = 20_000
    inbox = os.path.realpath(os.fsencode(line.inbox))
    marks = []
    for number in range(count):
        path = os.path.join(inbox, b"%05d.png" % number)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY))
        marks.append(("line1", path, 0, os.lstat(path).st_mtime_ns))
    journal = Journal(line.root / "state")
    with journal.transaction() as db:
        db.executemany("INSERT INTO kept VALUES (?, ?, ?, ?, NULL, 1)", marks)
    journal.close()
    line.start(rescan_seconds=0.1)
    statements: list[str] = []
    line.journal._db.set_trace_callback(statements.append)
    scans = line.wake.waits
    until(lambda: line.wake.waits >= scans + 3, "three scans")
    line.journal._db.set_trace_callback(None)
    assert statements == []
    assert line.arrivals == []
    assert line.source.pending() == (0, None)
    drop(line.inbox / "new.png", b"new")
    line.take("new.png")  # and it still finds what is new


def test_marks_of_many_files_that_are_gone_are_forgotten(line: Line) -> None:
    line.start()
    for number in range(3):
        drop(line.inbox / f"{number}.png", b"%d" % number)
        assert line.score(line.take(f"{number}.png")) is not None
    line.stop()
    inbox = os.path.realpath(os.fsencode(line.inbox))
    journal = Journal(line.root / "state")
    with journal.transaction() as db:
        gone = [("line1", os.path.join(inbox, b"gone-%05d.png" % number), 1, 1) for number in range(2500)]
        db.executemany("INSERT INTO kept VALUES (?, ?, ?, ?, NULL, 1)", gone)
    journal.close()
    line.start()
    line.source.forget_gone()
    assert sorted(os.path.basename(path) for path, _, _ in Ledger(line.journal, "line1").kept()) == [
        b"0.png",
        b"1.png",
        b"2.png",
    ]


def test_folders_that_have_gone_are_not_watched_any_more(line: Line) -> None:
    before = watches()
    line.start(settle_seconds=0)
    for number in range(20):
        (line.root / "made" / "deep").mkdir(parents=True)
        drop(line.root / "made" / "deep" / "a.png", b"picture")
        (line.root / "made").rename(line.inbox / str(number))
        line.take(f"{number}/deep/a.png")
    until(lambda: watches() == before + 41, "every folder to be watched")
    for number in range(1, 20):
        shutil.rmtree(line.inbox / str(number))
    until(lambda: watches() == before + 3, "those that have gone to be let go")
    drop(line.inbox / "0" / "deep" / "b.png", b"another")
    line.take("0/deep/b.png")


def watches() -> int:
    """How many watches this process has of inotify."""
    found = 0
    for info in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += sum(row.startswith("inotify") for row in info.read_text().splitlines())
    return found


def test_without_inotify_instances_the_folder_is_scanned_more_often(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:  # taking them all would take them from every other test, too
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(InotifyFD, "__init__", refuse)
    line.start()
    drop(line.inbox / "a.png", b"a")
    until(lambda: line.source.pending()[0] == 1, "the file to be seen")


def test_without_inotify_watches_the_folder_is_scanned_more_often(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(InotifyFD, "add_callback", refuse)
    line.start()
    drop(line.inbox / "a.png", b"a")
    until(lambda: line.source.pending()[0] == 1, "the file to be seen")


def test_a_watcher_that_dies_is_replaced(line: Line) -> None:
    line.start()
    dead = line.source._watcher
    assert dead is not None
    dead.close()
    drop(line.inbox / "a.png", b"a")
    line.wake.set()
    until(lambda: line.source.pending()[0] == 1, "the file to be seen")
    assert line.source._watcher is not dead
    drop(line.inbox / "b.png", b"b")
    line.take("b.png")  # at once, for events come again

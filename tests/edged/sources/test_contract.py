"""What every type of source promises: one harness a row of `SOURCES`, and the same tests for all."""

import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edged.journal.journal import Entry, Journal
from edged.media.imaging import Decoded, ImageInput
from edged.results import Frame, Result
from edged.sources import SOURCES
from edged.sources.contract import Delivery, Scored, Settlement, SourceContext, SourceType, StreamDelivery
from tests.edged.making import drop, good, record, until
from tests.edged.sources.folder.test_source import Seen
from tests.edged.sources.video.making import FPS, picture, write_video
from tests.templates import slideshow


class Harness:
    """One source that runs, and a pipeline that takes what it is told to take."""

    def __init__(self, root: Path, kind: SourceType, keys: dict[str, Any]) -> None:
        self.root, self.kind, self.inbox = root, kind, root / "in"
        self.inbox.mkdir()
        self.table = kind.table.model_validate({"name": "line1", "model": "tiny", **keys})
        self.seen, self.room = Seen(), 10**9
        self.given: list[Delivery] = []
        self.problems: list[str] = []
        self.journal = Journal(root / "state")
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        context = SourceContext(self.journal, self.seen, self.root / "state", ImageInput(32, 32, 1))
        self.source = self.kind.make(self.table, context)
        self._stop.clear()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():  # as the pipeline does
            try:
                self.source.run(self._hand_over, self._stop)
            except Exception as error:  # noqa: BLE001
                self.problems.append(str(error))
                self._stop.wait(0.05)

    def _hand_over(self, delivery: Delivery) -> bool:
        if len(self.given) >= self.room:
            return False
        self.given.append(delivery)
        return True

    def stop(self) -> float:
        """How long it took, in seconds."""
        began = time.monotonic()
        if self._thread is not None:
            self._stop.set()
            self.source.wake.set()
            self._thread.join(timeout=30)
            assert not self._thread.is_alive()
            self._thread = None
        return time.monotonic() - began

    def feed(self, *names: str) -> None:
        for name in names:
            drop(self.inbox / f"{name}.png", good())

    def take(self) -> Delivery:
        until(lambda: self.given, "a delivery")
        return self.given.pop(0)

    def is_done(self) -> bool:
        """Whether nothing is pending."""
        return self.source.pending() == (0, None)

    def record(self, delivery: Delivery) -> str:
        """What the pipeline does with a delivery that it scores; the name of what it was."""
        opened = delivery.open()
        assert opened is not None
        with opened as file:  # type: ignore[union-attr]
            assert file.read(8) == good()[:8]
            assert delivery.settle(os.urandom(32).hex(), None) is Settlement.RECORD
        one = record(id=delivery.id, source=delivery.source, path=delivery.path)
        self.journal.commit([Entry(one, delivery.statements(one))])
        delivery.acknowledge(one)
        return Path(delivery.path).stem


class VideoHarness(Harness):
    """A video file, whose frames are what is fed; each gets a row."""

    def __init__(self, root: Path, kind: SourceType, keys: dict[str, Any]) -> None:
        self._file = root / "in" / "v.mkv"
        super().__init__(root, kind, {**keys, "url": str(self._file)})
        self._names: list[str] = []

    def feed(self, *names: str) -> None:
        self._names += names
        partial = write_video(self.root / "v.part", (picture(0, is_bad=False) for _ in self._names))
        partial.rename(self._file)

    def record(self, delivery: Delivery) -> str:
        assert isinstance(delivery, StreamDelivery)
        opened = delivery.open()
        assert isinstance(opened, Decoded)
        assert opened.pixels.shape == (32, 32, 1)
        assert delivery.settle(None, None) is Settlement.RECORD
        frame = Frame(delivery.source, delivery.id, delivery.captured_at, opened.pixels, "")
        result = Result(delivery.id, delivery.source, "tiny", 0.1, 0.5, 1.0, False, np.zeros((8, 8), np.float32), {})
        one = record(id=delivery.id, source=delivery.source, path=delivery.path)
        self._follow(delivery, Scored(frame, result, one))
        path, _, seconds = delivery.path.partition("#t=")
        assert path == str(self._file)
        return self._names[round(float(seconds) * FPS)]

    def take(self) -> Delivery:
        until(lambda: self.given, "a delivery")
        one = self.given.pop(0)
        assert isinstance(one, StreamDelivery)
        assert one.has_picture
        return one

    def is_done(self) -> bool:
        if self.given:  # the note that it has ended
            note = self.given.pop()
            assert isinstance(note, StreamDelivery)
            assert not note.has_picture
            self._follow(note, None)
        return super().is_done()

    def _follow(self, delivery: StreamDelivery, scored: Scored | None) -> None:
        self.journal.commit([step.entry for step in delivery.follow(scored)])
        delivery.acknowledge(None if scored is None else scored.record)  # type: ignore[attr-defined]


# A source of folders sees a file at once; what it looks for now and then is looked for often here.
KEYS: dict[str, dict[str, Any]] = {
    "folder": {"settle_seconds": 0.05, "rescan_seconds": 0.2, "retry_seconds": 0},
    "slideshow": {"every_seconds": 0.05},
    "video": {"store": "frames"},
}
TYPES = {**SOURCES, "slideshow": slideshow.TYPE}
FILES = ("video",)
"""Read once, from their beginning to their end."""


def test_every_type_is_tested() -> None:
    assert KEYS.keys() == TYPES.keys()


@pytest.fixture(params=sorted(TYPES))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    kind, keys = TYPES[request.param], {"type": request.param, **KEYS[request.param]}
    is_file = request.param in FILES
    one = VideoHarness(tmp_path, kind, keys) if is_file else Harness(tmp_path, kind, {**keys, "path": f"{tmp_path}/in"})
    yield one
    one.stop()
    one.journal.close()


def all_of(harness: Harness, count: int) -> list[str]:
    return [harness.record(harness.take()) for _ in range(count)]


def test_it_hands_over_everything_once_and_stops(harness: Harness) -> None:
    harness.feed("a", "b")
    harness.start()
    assert sorted(all_of(harness, 2)) == ["a", "b"]
    if harness.table.type not in FILES:
        harness.feed("c")
        assert all_of(harness, 1) == ["c"]
    until(harness.is_done, "nothing to be pending")
    assert harness.seen.ups[-1:] == [True]
    assert harness.stop() < 10
    assert harness.given == []
    assert harness.problems == []


def test_after_a_restart_what_was_recorded_does_not_come_again_and_the_rest_does(harness: Harness) -> None:
    harness.feed("a", "b", "c")
    harness.start()
    first = all_of(harness, 1)
    harness.take()  # and the daemon dies
    harness.stop()
    harness.given.clear()
    harness.start()
    assert sorted(first + all_of(harness, 2)) == ["a", "b", "c"]
    until(harness.is_done, "nothing to be pending")
    assert harness.given == []


def test_what_is_given_back_comes_again(harness: Harness) -> None:
    harness.feed("a")
    harness.start()
    harness.take().give_back()
    assert all_of(harness, 1) == ["a"]


def test_it_waits_for_room_in_bounded_memory_and_stops_while_it_waits(harness: Harness) -> None:
    assert harness.kind is not None
    harness.room = 0
    harness.feed(*(f"{number:05}" for number in range(2000)))
    tracemalloc.start()
    try:
        harness.start()
        until(lambda: harness.seen.ups, "the first look")
        time.sleep(0.3)  # a few rounds
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert harness.given == []
    assert peak < 10_000_000
    harness.room = 5
    harness.source.wake.set()
    first = all_of(harness, 3)
    assert first == sorted(first)  # the oldest first
    harness.room = 0
    assert harness.stop() < 10


def test_a_place_that_cannot_be_read_is_told_and_read_again_when_it_can(harness: Harness) -> None:
    away = harness.root / "away"
    harness.inbox.rename(away)
    harness.start()
    until(lambda: harness.seen.ups[-1:] == [False], "the failure to be told")
    away.rename(harness.inbox)
    harness.feed("a")
    assert all_of(harness, 1) == ["a"]
    assert harness.seen.ups[-1] is True


def test_its_table_says_what_it_claims(harness: Harness) -> None:
    inboxes = [] if harness.table.type in FILES else [harness.inbox]  # nothing is moved out of where a file lies
    assert [place.path for place in harness.table.places() if place.role == "inbox"] == inboxes
    names: Callable[[Any], set[str]] = lambda table: set(table.model_fields)  # noqa: E731
    assert {"name", "type", "model", "denoiser"} < names(harness.kind.table)

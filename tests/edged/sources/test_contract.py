"""What every type of source promises: one harness a row of `SOURCES`, and the same tests for all."""

import contextlib
import os
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import pytest

from edged.journal.journal import Entry, Journal
from edged.media.imaging import Decoded, ImageInput
from edged.results import Frame, Result, new_id
from edged.sources import SOURCES
from edged.sources.contract import Delivery, Scored, Settlement, Source, SourceContext, SourceType, StreamDelivery
from tests.edged.brokers import Broker
from tests.edged.making import drop, good, record, until
from tests.edged.sources.folder.test_source import Seen
from tests.edged.sources.video.making import FPS, picture, write_video
from tests.templates import slideshow


class Harness:
    """One source that runs, and a pipeline that takes what it is told to take."""

    is_read_once = False

    def __init__(self, root: Path, kind: SourceType, keys: dict[str, Any]) -> None:
        self.root, self.kind, self.inbox = root, kind, root / "in"
        self.inbox.mkdir()
        self.table = kind.table.model_validate({"name": "line1", "model": "tiny", **keys})
        self.source: Source | None = None
        self._feed = FEEDS.get(keys["type"], feed_folder)(self)
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
            self._feed(name)

    def take(self) -> Delivery:
        until(lambda: self.given, "a delivery")
        return self.given.pop(0)

    def is_done(self) -> bool:
        """Whether nothing is pending."""
        assert self.source is not None
        return self.source.pending() == (0, None)

    def record(self, delivery: Delivery) -> str:
        """What the pipeline does with a delivery that it scores; the name of what it was."""
        opened = delivery.open()
        assert opened is not None
        with opened as file:  # type: ignore[union-attr]
            name = file.read().removeprefix(good()).decode()
            assert delivery.settle(os.urandom(32).hex(), None) is Settlement.RECORD
        one = record(id=delivery.id, source=delivery.source, path=delivery.path)
        self.journal.commit([Entry(one, delivery.statements(one))])
        delivery.acknowledge(one)
        return name

    def close(self) -> None:
        self.stop()
        self.journal.close()
        self._feed.close()


class Feed(Protocol):
    """What brings pictures to a source; the name of each is behind its picture."""

    def __call__(self, name: str) -> None: ...
    def close(self) -> None: ...


class feed_folder:  # noqa: N801 -- a function with an end
    def __init__(self, harness: Harness) -> None:
        self._inbox = harness.inbox

    def __call__(self, name: str) -> None:
        drop(self._inbox / f"{name}.png", good() + name.encode())

    def close(self) -> None:
        pass


class feed_http(feed_folder):  # noqa: N801
    """Posts to a source that runs; to one that does not, as an earlier daemon that received it and died."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness

    def __call__(self, name: str) -> None:
        if self._harness.source is not None:
            until(self._harness.source._spool.has_room, "room")  # type: ignore[attr-defined]
            draft = self._harness.source.begin(f"{name}.png")  # type: ignore[attr-defined]
            draft.write(good() + name.encode())
            draft.finish()
            return
        folder = self._harness.root / "state" / "received" / "line1"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{new_id()}.{name}").write_bytes(good() + name.encode())


class feed_stdin:  # noqa: N801
    """Writes to a pipe that is standard input meanwhile, in a thread, for the pipe may be full."""

    def __init__(self, harness: Harness) -> None:
        reading, self._writing = os.pipe()
        self._before = os.dup(0)
        os.dup2(reading, 0)
        os.close(reading)
        self._queue: SimpleQueue[bytes | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write)
        self._thread.start()

    def __call__(self, name: str) -> None:
        data = good() + name.encode()
        self._queue.put(len(data).to_bytes(4, "big") + data)

    def close(self) -> None:
        os.dup2(self._before, 0)
        os.close(self._before)
        self._queue.put(None)
        self._thread.join(30)

    def _write(self) -> None:
        with contextlib.suppress(BrokenPipeError), open(self._writing, "wb", buffering=0) as pipe:
            while (data := self._queue.get()) is not None:
                pipe.write(data)


class feed_mqtt:  # noqa: N801
    """Publishes by a broker that knows the source already."""

    def __init__(self, harness: Harness) -> None:
        self._broker = Broker(harness.root, kept=False)
        harness.table = harness.table.model_copy(update={"url": self._broker.url})
        self._broker.begin_session(harness.table.id_as("source", "line1"), "pictures")  # type: ignore[attr-defined]
        self._kept = contextlib.ExitStack()
        self._client = self._kept.enter_context(self._broker.client())

    def __call__(self, name: str) -> None:
        self._client.publish("pictures", good() + name.encode(), qos=1)

    def close(self) -> None:
        self._kept.close()
        self._broker.close()


FEEDS: dict[str, Callable[[Harness], Feed]] = {"http": feed_http, "mqtt": feed_mqtt, "stdin": feed_stdin}


class VideoHarness(Harness):
    """A video file, whose frames are what is fed; each gets a row."""

    is_read_once = True

    def __init__(self, root: Path, kind: SourceType, keys: dict[str, Any]) -> None:
        self._file = root / "in" / "v.mkv"
        super().__init__(root, kind, {**keys, "url": str(self._file)})
        self._names: list[str] = []
        self._notes: SimpleQueue[StreamDelivery] = SimpleQueue()
        self._is_read = False

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
        result = Result(delivery.id, delivery.source, 0.1, 0.5, 1.0, False, np.zeros((8, 8), np.float32), "tiny", {})
        one = record(id=delivery.id, source=delivery.source, path=delivery.path)
        self._follow(delivery, Scored(frame, result, one))
        path, _, seconds = delivery.path.partition("#t=")
        assert path == str(self._file)
        return self._names[round(float(seconds) * FPS)]

    def _hand_over(self, delivery: Delivery) -> bool:
        assert isinstance(delivery, StreamDelivery)
        if delivery.has_picture:
            return super()._hand_over(delivery)
        self._notes.put(delivery)
        return True

    def is_done(self) -> bool:
        if not self._notes.empty():  # it has ended
            self._follow(self._notes.get(), None)
            self._is_read = True
        return self._is_read and super().is_done()

    def _follow(self, delivery: StreamDelivery, scored: Scored | None) -> None:
        self.journal.commit([step.entry for step in delivery.follow(scored)])
        delivery.acknowledge(None if scored is None else scored.record)  # type: ignore[attr-defined]


# A source of folders sees a file at once; what it looks for now and then is looked for often here.
KEYS: dict[str, dict[str, Any]] = {
    "folder": {"path": "in", "settle_seconds": 0.05, "rescan_seconds": 0.2, "retry_seconds": 0},
    "http": {},
    "mqtt": {"url": "mqtt://127.0.0.1", "topic": "pictures"},
    "slideshow": {"path": "in", "every_seconds": 0.05},
    "stdin": {},
    "video": {"store": "frames"},
}
TYPES = {**SOURCES, "slideshow": slideshow.TYPE}


def test_every_type_is_tested() -> None:
    assert KEYS.keys() == TYPES.keys()


@pytest.fixture(params=sorted(TYPES))
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Harness]:
    keys = {key: str(tmp_path / "in") if key == "path" else value for key, value in KEYS[request.param].items()}
    make = VideoHarness if request.param == "video" else Harness
    one = make(tmp_path, TYPES[request.param], {"type": request.param, **keys})
    yield one
    one.close()


of_folders = pytest.mark.parametrize(
    "harness", [kind for kind in sorted(TYPES) if {"path", "store"} & KEYS[kind].keys()], indirect=True
)


def all_of(harness: Harness, count: int) -> list[str]:
    return [harness.record(harness.take()) for _ in range(count)]


def test_it_hands_over_everything_once_and_stops(harness: Harness) -> None:
    harness.feed("a", "b")
    harness.start()
    assert sorted(all_of(harness, 2)) == ["a", "b"]
    if not harness.is_read_once:
        harness.feed("c")
        assert all_of(harness, 1) == ["c"]
    until(harness.is_done, "nothing to be pending")
    assert harness.seen.ups[-1:] == [True]
    assert harness.stop() < 10
    assert harness.given == []
    assert harness.problems == []


def test_after_a_restart_what_was_recorded_does_not_come_again_and_the_rest_does(harness: Harness) -> None:
    later = ("b", "c")
    harness.feed("a", *(later if harness.is_read_once else ()))
    harness.start()
    all_of(harness, 1)
    if not harness.is_read_once:
        harness.feed(*later)
    if harness.table.type == "stdin":  # what is read of a pipe and not yet whole does not come again
        until(lambda: harness.source is not None and harness.source.pending()[0] == 2, "both to be received")
    harness.take()  # and the daemon dies
    harness.stop()
    harness.given.clear()
    harness.start()
    assert sorted(all_of(harness, 2)) == ["b", "c"]
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


@of_folders
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
    if "path" in harness.kind.table.model_fields:
        assert [place.path for place in harness.table.places() if place.role == "inbox"] == [harness.inbox]
    names: Callable[[Any], set[str]] = lambda table: set(table.model_fields)  # noqa: E731
    assert {"name", "type", "model", "denoiser"} < names(harness.kind.table)

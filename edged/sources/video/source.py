"""A video source: watches over a capture process, hands its frames over, and makes events of what became of them.

A file is read whole: its frames wait for room, and what is durable says where to go on after a crash. Of a camera the
newest frame counts. A capture that says nothing for longer than it may is killed, and one that ended is started anew
after a pause that grows to a minute.
"""

import json
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import structlog
from numpy.typing import NDArray

from edged.backoff import FIRST_S, Backoff
from edged.errors import ConfigError, SourceError
from edged.journal.journal import Entry, remember
from edged.media.capture import END, FAILED, FRAME, SLOTS, Job
from edged.media.imaging import ImageInput
from edged.results import Record
from edged.sources.contract import Delivery, Scored, SourceContext, Step, WhenFull
from edged.sources.events import SILENCE_S, EventRules, Moment, Tracker
from edged.sources.video.child import Capture, Note
from edged.sources.video.frame import FrameDelivery
from edged.sources.video.table import VideoTable

_KEY: Final = "video"
_START_S: Final = 10.0  # for a process to start and import what it takes, on a box that is busy
_SAVE_S: Final = 1.0
_SETTLED_S: Final = 10.0


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a capture ended: by itself ("end"), with an error ("failed"), silent ("stalled"), or told to ("stopped")."""

    how: Literal["end", "failed", "stalled", "stopped"]
    why: str = ""


class VideoSource:
    """One video (`sources.contract.Source`)."""

    def __init__(self, table: VideoTable, context: SourceContext) -> None:
        """Prepares it; nothing is opened before `run`.

        Raises:
            ConfigError: its model takes no pictures.
        """
        if not isinstance(context.input, ImageInput):
            raise ConfigError([f"sources.{table.name}.model: takes a {context.input.kind}, and a video has pictures"])
        self.name, self.wake = table.name, threading.Event()
        self.when_full: WhenFull = "drop_oldest" if table.is_live else "wait"
        self._table, self._context, self._spec = table, context, context.input
        self._is_live, self._stored = table.is_live, table.store == "frames"
        rules = EventRules(
            open_frames=table.open_frames,
            of_frames=table.of_frames,
            close_frames=table.close_frames,
            close_ratio=table.close_ratio,
            merge_seconds=table.merge_seconds,
        )
        self._tracker = Tracker(rules, table.public_url, is_file=not self._is_live)
        self._log = structlog.get_logger().bind(source=table.name)
        self._mutex = threading.Lock()
        # Of frames: which comes next, to be handed over and to be followed; what came too early for that.
        self._next, self._turn = 0, 0
        self._early: dict[int, tuple[FrameDelivery | None, Scored | None]] = {}
        self._in_flight: dict[int, float] = {}
        self._releases: dict[int, Callable[[], None]] = {}
        self._again: list[FrameDelivery] = []
        self._restored = self._done = False
        self._identity: list[Any] = []
        self._owed: list[Record] = []
        self._scored: Scored | None = None
        self._saved = 0.0
        # Of the capture, for this source's own thread.
        self._state = ""
        self._last: NDArray[np.uint8] | None = None
        self._last_at = self._changed_at = self._live_since = 0.0

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        """Keeps a capture running until `stop`, or until a file is read (`sources.contract.Source`)."""
        if not self._restored:
            self._restore()
        self._set_state("connecting")
        backoff = Backoff()
        while not stop.is_set() and not self._done:
            self._live_since = 0.0
            ended = self._attend(hand_over, stop, healthy)
            if ended.how == "stopped":
                return
            if ended.how == "end" and not self._is_live:
                self._hand_over(self._note(is_end=True), hand_over, stop)
                break
            lived = self._live_since and time.monotonic() - self._live_since
            if lived >= _SETTLED_S:
                backoff.reset()
            self._context.observer.up(self.name, False)
            if ended.how == "stalled" and lived:  # it may well be back
                self._set_state("stalled", ended.why)
                continue
            self._set_state("backoff", ended.why or "the stream ended")
            self._wait(backoff.pause_s() * random.uniform(0.5, 1.0), hand_over, stop)
        self._set_state("")
        while not stop.is_set():  # a file that was read
            self._hand_over_again(hand_over, stop)
            self.wake.wait()
            self.wake.clear()

    def pending(self) -> tuple[int, float | None]:
        """How many frames are in flight, and when the oldest was captured."""
        with self._mutex:
            return len(self._in_flight), min(self._in_flight.values(), default=None)

    # What deliveries tell, from the pipeline's threads.

    def taken(self, frame: FrameDelivery) -> None:
        """A worker has it: there is room for the next."""
        with self._mutex:
            release = self._releases.pop(frame.number, None)
        if release is not None:
            release()

    def finish(self, frame: FrameDelivery) -> None:
        """It is done."""
        with self._mutex:
            self._in_flight.pop(frame.number, None)

    def take_back(self, frame: FrameDelivery) -> None:
        """Nothing came of it: one of a file is handed over again, one of a camera is lost."""
        if self._is_live:
            self.taken(frame)
            with self._mutex:
                self._in_flight.pop(frame.number, None)
                self._early[frame.number] = (None, None)
        else:
            with self._mutex:
                self._again.append(frame)
            self.wake.set()

    def follow(self, frame: FrameDelivery, scored: Scored | None) -> list[Step]:
        """What is to be made durable now, of this frame and those that waited for it, in their order."""
        with self._mutex:
            self._early[frame.number] = (frame, scored)
            steps, changed = [], self._owed
            self._owed = []
            while self._turn in self._early:
                one, its = self._early.pop(self._turn)
                self._turn += 1
                if one is not None:
                    changed = changed + self._advance(one, its)
                    if one.stored and its is not None:
                        steps.append(Step(Entry(its.record)))
            due = time.monotonic() - self._saved >= _SAVE_S and (self._tracker.is_open or not self._is_live)
            if due or changed or (steps and not self._is_live) or self._done:
                self._saved = time.monotonic()
                steps += [Step(Entry(record)) for record in changed]
                steps.append(Step(Entry(self._tracker.record(), [self._remember()]), self._tracker.picture()))
            return steps

    def _advance(self, frame: FrameDelivery, scored: Scored | None) -> list[Record]:
        if frame.is_end:
            self._done = not self._is_live
            return self._tracker.end()
        scored = scored or self._scored  # it looks as the one before did
        if scored is None or scored.result is None:
            return []
        self._scored = scored
        return self._tracker.step(frame.moment, scored)

    # What is remembered.

    def _remember(self) -> tuple[str, Any]:
        about = {
            "identity": self._identity,
            "next": self._turn,
            "done": self._done,
            "at": time.time(),
            "seconds": time.monotonic(),
            "tracker": self._tracker.remember(),
        }
        return remember(self.name, _KEY, json.dumps(about).encode())

    def _restore(self) -> None:
        """Goes on where the last run was cut off; with another video an event of that one ends."""
        self._last_at = time.monotonic()
        self._identity = [self._table.url, self._table.fps]
        if not self._is_live:
            try:
                about = os.stat(self._table.url)
            except OSError as error:
                self._context.observer.up(self.name, False)
                raise SourceError(f"{self._table.url} cannot be read: {error.strerror}") from error
            self._identity += [about.st_size, about.st_mtime_ns]
        value = self._context.journal.remembered(self.name, _KEY)
        if value is not None:
            saved = json.loads(value)
            # A monotonic clock begins anew with the machine.
            now = time.monotonic() - max(0.0, time.time() - saved["at"])
            self._tracker.restore(saved["tracker"], earlier=saved["seconds"] - now if self._is_live else 0.0)
            if saved["identity"] != self._identity:
                self._owed = self._tracker.end()
            elif not self._is_live:
                self._next = self._turn = saved["next"]
                self._done = saved["done"]
        self._restored = True

    # The capture, in this source's own thread.

    def _attend(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None]
    ) -> _Ended:
        """Takes what one capture gives, until it ends."""
        table = self._table
        job = Job(
            url=table.url,
            live=self._is_live,
            device=table.is_device,
            fps=table.fps,
            skip=0 if self._is_live else self._next,
            timeout_s=table.stall_seconds,
            limits=self._context.limits,
            spec=self._spec,
        )
        capture = Capture(job, self.wake.set)
        deadline = time.monotonic() + table.stall_seconds + _START_S
        try:
            while not stop.is_set():
                self._hand_over_again(hand_over, stop)
                while not capture.notes.empty():
                    note = capture.notes.get()
                    if note.dropped:
                        self._context.observer.dropped(self.name, note.dropped)
                    if note.what in {END, FAILED}:
                        return _Ended("end" if note.what == END else "failed", note.text)
                    if note.what == FRAME:
                        self._take(note, capture, hand_over, stop)
                        healthy()
                    deadline = time.monotonic() + table.stall_seconds  # room may have been long in coming
                with self._mutex:
                    waits = not self._is_live and len(self._releases) >= SLOTS
                if waits:  # for us
                    deadline = time.monotonic() + table.stall_seconds
                left = deadline - time.monotonic()
                if left <= 0:
                    return _Ended("stalled", f"nothing came for {table.stall_seconds:g} s")
                self.wake.wait(left)
                self.wake.clear()
            return _Ended("stopped")
        finally:
            capture.close()
            with self._mutex:
                self._releases.clear()

    def _take(self, note: Note, capture: Capture, hand_over: Callable[[Delivery], bool], stop: threading.Event) -> None:
        now = time.monotonic()
        pixels = note.pixels
        assert pixels is not None
        is_same = self._last is not None and np.array_equal(pixels, self._last)
        if not is_same:
            self._changed_at = now
        self._last_at = now
        self._live_since = self._live_since or now
        if self._is_live and is_same and now - self._changed_at >= self._table.frozen_seconds:
            self._set_state("frozen", f"the picture has not changed for {self._table.frozen_seconds:g} s")
        else:
            self._set_state("live")
        moment = Moment(note.at, note.seconds)
        if self._table.on_change is not None and self._last is not None and self._looks_alike(pixels):
            capture.free(note.slot)
            self._hand_over(self._note(moment), hand_over, stop)
            return
        self._last = pixels
        path = self._table.public_url
        frame = FrameDelivery(
            self,
            self._next,
            moment,
            path=path if self._is_live else f"{path}#t={note.seconds:.3f}",
            found_at=now,
            stored=self._stored,
            pixels=pixels,
            size=note.size,
        )
        self._next += 1
        with self._mutex:
            self._releases[frame.number] = lambda: capture.free(note.slot)
        self._hand_over(frame, hand_over, stop)

    def _looks_alike(self, pixels: NDArray[np.uint8]) -> bool:
        """Whether pixels differ by no more than `on_change`, on average, from those that were last scored."""
        assert self._last is not None
        assert self._table.on_change is not None
        return float(np.abs(pixels.astype(np.int16) - self._last).mean()) <= self._table.on_change

    def _note(self, moment: Moment | None = None, *, is_end: bool = False) -> FrameDelivery:
        moment = moment or Moment(time.time(), time.monotonic())
        note = FrameDelivery(
            self,
            self._next,
            moment,
            path=self._table.public_url,
            found_at=time.monotonic(),
            stored=False,
            is_end=is_end,
        )
        self._next += 1
        return note

    def _hand_over(self, frame: FrameDelivery, hand_over: Callable[[Delivery], bool], stop: threading.Event) -> None:
        """Hands one over, and waits for room where it has to."""
        with self._mutex:
            self._in_flight[frame.number] = frame.found_at
        while not hand_over(frame):
            if self._is_live:
                self.take_back(frame)
                self._context.observer.dropped(self.name, 1)
                return
            if stop.is_set():
                return
            self.wake.wait(FIRST_S)
            self.wake.clear()

    def _hand_over_again(self, hand_over: Callable[[Delivery], bool], stop: threading.Event) -> None:
        with self._mutex:
            again, self._again = self._again, []
        for frame in again:
            self._hand_over(frame, hand_over, stop)

    def _wait(self, seconds: float, hand_over: Callable[[Delivery], bool], stop: threading.Event) -> None:
        """Waits before another try; an event of a camera that is gone for long ends meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not stop.is_set():
            self._hand_over_again(hand_over, stop)
            if self._is_live and self._tracker.is_open and time.monotonic() - self._last_at > SILENCE_S:
                self._last_at = float("inf")  # once
                self._hand_over(self._note(is_end=True), hand_over, stop)
            self.wake.wait(left)
            self.wake.clear()

    def _set_state(self, state: str, why: str = "") -> None:
        if state == self._state:
            return
        if why:
            self._log.error("the stream is not what it should be; it is tried again", state=state, why=why)
        elif state == "live" and self._state not in {"", "connecting"}:
            self._log.info("the stream is live again")
        self._state = state
        if state == "live":
            self._context.observer.up(self.name, True)
        self._context.observer.state(self.name, state, why)

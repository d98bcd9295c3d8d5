"""Events: a thousand frames of a stream above the threshold are one thing that happened, with a start, peak and end.

An event opens when `open_frames` of the last `of_frames` frames are above the threshold. It closes when `close_frames`
in a row were below a lower level and nothing has come back for `merge_seconds`: what does is the same event.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from edged.results import Event, Frame, Record, Result, new_id
from edged.sources.contract import Scored
from edged.sources.film import Film

SILENCE_S: Final = 60.0
"""An event ends where its stream was silent for longer; a daemon that was killed is back before."""


@dataclass(frozen=True, slots=True)
class EventRules:
    """When an event opens and closes; the manual says what each key means."""

    open_frames: int
    of_frames: int
    close_frames: int
    close_ratio: float
    merge_seconds: float


@dataclass(frozen=True, slots=True)
class Moment:
    """When a frame was taken.

    Attributes:
        at: seconds since 1970.
        seconds: on the clock of its stream: monotonic, or from the beginning of its file.
    """

    at: float
    seconds: float


@dataclass(slots=True)
class _Open:
    """The event that is open: its record as of its last frame above the lower level, and what came after that.

    `peak` is its picture, where this run of the daemon has seen it.
    """

    record: Record
    event: Event
    last: float
    started: float
    below: int = 0
    peak: tuple[Frame, Result] | None = None


class Tracker:
    """Makes events of the scored frames of one stream, in their order. What it knows comes back after a crash."""

    def __init__(self, rules: EventRules, path: str, *, is_file: bool) -> None:
        """Prepares it.

        Args:
            rules: when events open and close.
            path: what the records of events say.
            is_file: whether the clock of the stream begins with it.
        """
        self._rules, self._path, self._is_file = rules, path, is_file
        self._recent: deque[tuple[Moment, Scored]] = deque(maxlen=rules.of_frames)
        self._open: _Open | None = None
        self._film = Film(rules.of_frames)
        self._picture: tuple[Frame, Result] | None = None
        self._seconds = float("-inf")

    @property
    def is_open(self) -> bool:
        """Whether an event lasts."""
        return self._open is not None

    def step(self, moment: Moment, scored: Scored) -> list[Record]:
        """What opens or closes with a frame; a frame that could not be scored says nothing."""
        assert scored.result is not None
        changed = []
        if moment.seconds - self._seconds > SILENCE_S:
            changed = self.end()
        self._seconds = moment.seconds
        if self._open is None:
            changed += self._look_for_start(moment, scored)
        else:
            changed += self._look_for_end(self._open, moment, scored)
        return changed

    def end(self) -> list[Record]:
        """Closes the event, if one is open: the stream has ended."""
        self._recent.clear()
        if self._open is None:
            return []
        closed, self._open = self._open, None
        self._draw(closed)
        self._film.close()
        return [replace(closed.record, scored_at=time.time(), event=replace(closed.event, state="closed"))]

    def record(self) -> Record | None:
        """The event that is open, as it is now."""
        return None if self._open is None else replace(self._open.record, event=self._open.event)

    def picture(self) -> tuple[Frame, Result] | None:
        """The peak's picture and the event's others, to be drawn under its id: as the peak changes, and at the end."""
        picture, self._picture = self._picture, None
        return picture

    def remember(self) -> dict[str, Any]:
        """What `restore` takes, as JSON."""
        recent = [(asdict(moment), asdict(scored.record)) for moment, scored in self._recent]
        one = self._open
        about = None if one is None else (asdict(one.record), asdict(one.event), one.last, one.started, one.below)
        return {"recent": recent, "open": about, "seconds": None if self._seconds < 0 else self._seconds}

    def restore(self, about: dict[str, Any], *, earlier: float = 0.0) -> None:
        """Goes on from `remember`; `earlier` is how far the clock of the stream was set back meanwhile."""
        self._seconds = float("-inf") if about["seconds"] is None else about["seconds"] - earlier
        for moment, record in about["recent"]:
            scored = Scored(None, None, Record(**record))
            self._recent.append((Moment(moment["at"], moment["seconds"] - earlier), scored))
        if about["open"] is not None:
            record, event, last, *started, below = about["open"]
            since = started[0] if started else last
            self._open = _Open(Record(**record), Event(**event), last - earlier, since - earlier, below)

    def _look_for_start(self, moment: Moment, scored: Scored) -> list[Record]:
        self._recent.append((moment, scored))
        if scored.frame is not None and scored.result is not None:
            self._film.add(moment.seconds, scored.frame, scored.result)
        above = [index for index, (_, one) in enumerate(self._recent) if one.record.is_anomaly]
        if len(above) < self._rules.open_frames:
            return []
        seen = list(self._recent)[above[0] : above[-1] + 1]
        self._recent.clear()
        start, peak = seen[0][0], max(seen, key=lambda one: one[1].record.score or 0.0)
        event = Event(
            state="open",
            started_at=start.at,
            peak_at=peak[0].at,
            ended_at=moment.at,
            frames=len(seen),
            offset_s=round(start.seconds, 3) if self._is_file else None,
        )
        record = replace(
            peak[1].record,
            id=new_id(),
            path=self._path,
            sha256=None,
            captured_at=start.at,
            timings_ms={},
        )
        self._film.open(start.seconds)
        self._open = _Open(record, event, moment.seconds, start.seconds, peak=_picture_of(peak[1], record.id))
        self._draw(self._open)
        return [replace(record, event=event)]

    def _look_for_end(self, one: _Open, moment: Moment, scored: Scored) -> list[Record]:
        result = scored.result
        assert result is not None
        is_below = result.score < self._rules.close_ratio * result.threshold
        if scored.frame is not None:
            self._film.go_on(moment.seconds, scored.frame, result, is_below=is_below)
        if not is_below:
            one.event = replace(one.event, ended_at=moment.at, frames=one.event.frames + one.below + 1)
            one.record = replace(one.record, scored_at=scored.record.scored_at)
            one.last, one.below = moment.seconds, 0
            if result.score > (one.record.score or 0.0):
                self._raise_peak(one, moment, scored)
            return []
        one.below += 1
        over = one.below >= self._rules.close_frames and moment.seconds - one.last >= self._rules.merge_seconds
        return self.end() if over else []

    def _raise_peak(self, one: _Open, moment: Moment, scored: Scored) -> None:
        about: Sequence[str] = (
            "score",
            "threshold",
            "p_value",
            "model",
            "model_sha256",
            "device",
            "calibration_sha256",
        )
        one.record = replace(one.record, **{name: getattr(scored.record, name) for name in about})
        one.event = replace(one.event, peak_at=moment.at)
        one.peak = _picture_of(scored, one.record.id)
        self._draw(one)

    def _draw(self, one: _Open) -> None:
        if one.peak is not None:
            frame, result = one.peak
            self._picture = replace(frame, shots=self._film.shots(), started=one.started), result


def _picture_of(scored: Scored, id_: str) -> tuple[Frame, Result] | None:
    """A frame as the picture of an event; None of one that was scored before a restart."""
    if scored.frame is None or scored.result is None:
        return None
    return replace(scored.frame, frame_id=id_), replace(scored.result, frame_id=id_)

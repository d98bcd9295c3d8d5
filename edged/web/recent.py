"""What the overview shows of results: read once, then only what has come since; nothing while nobody looks."""

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from edged.journal import browsing, labels
from edged.journal.browsing import Wanted
from edged.journal.labels import Label
from edged.results import Record

POINTS: Final = 120
"""As many as a chart has places."""

_ANOMALIES: Final = 12
_QUARANTINED: Final = 8
_EVENTS: Final = 8
_AT_ONCE: Final = 2000
_FRESH_S: Final = 0.4
_FORGET_S: Final = 60.0
_SEARCH_S: Final = 0.3
_TOP: Final = 2.5
"""Scores beyond so many times the threshold stand at the upper edge of the chart."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A result that is shown.

    Attributes:
        record: the result.
        has_picture: whether a sink keeps a picture of it.
        label: what a person said of it.
    """

    record: Record
    has_picture: bool
    label: Label | None = None


@dataclass(frozen=True, slots=True, order=True)
class Point:
    """One point of a chart.

    Attributes:
        at: seconds since 1970: of a result, when it was scored; of a stream, the second.
        ratio: score over threshold; of a stream, the highest of that second.
        is_anomaly: whether it is above the threshold.
    """

    at: float
    ratio: float
    is_anomaly: bool


@dataclass(frozen=True, slots=True)
class Chart:
    """The scores of a source's last results, or of a stream's last seconds, evenly spaced: a path of dots each.

    The threshold is at 1; the chart is as wide as there are places for points, and `_TOP` high.

    Attributes:
        is_of_seconds: whether a point is the highest score of a second, as of a stream; of one result otherwise.
        first: when the first point was, seconds since 1970.
        last: likewise.
        count: how many points there are.
        anomalies: how many of them are above the threshold.
        good_path: the others.
        anomaly_path: those above the threshold.
    """

    is_of_seconds: bool
    first: float
    last: float
    count: int
    anomalies: int
    good_path: str
    anomaly_path: str


@dataclass(frozen=True, slots=True)
class Sight:
    """What is seen at a moment."""

    charts: dict[str, Chart]
    anomalies: list[Shown]
    quarantined: list[Shown]
    events: list[Record]


class Recent:
    """The last results, for as many as look."""

    def __init__(
        self,
        state_dir: Path,
        has_picture: Callable[[str], bool],
        peaks: Callable[[], Mapping[str, Sequence[Point]]] = dict,
    ) -> None:
        """Prepares it; nothing is read before somebody looks.

        Args:
            state_dir: with the journal.
            has_picture: whether a sink keeps a picture of a result.
            peaks: the last seconds of each source that is a stream; its results are not charted.
        """
        self._state_dir, self._has_picture, self._peaks = state_dir, has_picture, peaks
        self._mutex = threading.Lock()
        self._looked_at = -_FORGET_S
        self._seq = 0
        self._forget()

    def look(self, sources: Sequence[str]) -> Sight:
        """What is to be seen now, not older than a moment.

        Raises:
            JournalError: the journal cannot be read.
        """
        streams = self._peaks()
        sources = [name for name in sources if name not in streams]
        with self._mutex:
            now = time.monotonic()
            if now - self._looked_at > _FORGET_S:
                self._fill(sources)
            elif now - self._looked_at > _FRESH_S:
                self._go_on(sources)
            self._looked_at = time.monotonic()
            charts = {name: _chart(points) for name in sources if (points := self._scored.get(name))}
            charts |= {name: _chart(points, is_of_seconds=True) for name, points in streams.items() if points}
            found = labels.read(self._state_dir, [shown.record.id for shown in self._anomalies])
            anomalies = [replace(shown, label=found.get(shown.record.id)) for shown in self._anomalies]
            return Sight(charts, anomalies, list(self._quarantined), list(self._events))

    def _forget(self) -> None:
        self._scored: dict[str, deque[Point]] = {}
        self._anomalies: deque[Shown] = deque(maxlen=_ANOMALIES)
        self._quarantined: deque[Shown] = deque(maxlen=_QUARANTINED)
        self._events: deque[Record] = deque(maxlen=_EVENTS)

    def _fill(self, sources: Sequence[str]) -> None:
        self._forget()
        newest = browsing.after(self._state_dir, 0, 1)
        self._seq = newest[0][0] if newest else 0
        for source in sources:
            found = self._find(Wanted(source), POINTS)
            self._scored[source] = deque((_point(one) for one in found if one.score is not None), maxlen=POINTS)
        self._anomalies.extendleft(map(self._show, self._find(Wanted(outcome="anomaly"), _ANOMALIES)))
        self._quarantined.extendleft(map(self._show, self._find(Wanted(outcome="quarantined"), _QUARANTINED)))
        self._events.extendleft(self._find(Wanted(outcome="event"), _EVENTS))

    def _find(self, wanted: Wanted, limit: int) -> list[Record]:
        """Results up to the row that we go on from, oldest first."""
        page = browsing.browse(self._state_dir, wanted, before=self._seq + 1, limit=limit, seconds=_SEARCH_S)
        return [record for _, record in page.results[::-1]]

    def _go_on(self, sources: Sequence[str]) -> None:
        new = browsing.after(self._state_dir, self._seq, _AT_ONCE)
        if len(new) == _AT_ONCE or any(source not in self._scored for source in sources):
            self._fill(sources)
            return
        for seq, record in new:
            self._seq = seq
            if record.score is None:
                self._quarantined.appendleft(self._show(record))
                continue
            if record.source in self._scored:
                self._scored[record.source].append(_point(record))
            if record.is_anomaly:
                if record.event is not None:  # which has come before, as it opened
                    self._drop(record.id)
                    self._events.appendleft(record)
                self._anomalies.appendleft(self._show(record))

    def _drop(self, id_: str) -> None:
        self._events = deque((one for one in self._events if one.id != id_), maxlen=_EVENTS)
        self._anomalies = deque((one for one in self._anomalies if one.record.id != id_), maxlen=_ANOMALIES)

    def _show(self, record: Record) -> Shown:
        return Shown(record, bool(record.is_anomaly) and self._has_picture(record.id))


def _point(record: Record) -> Point:
    return Point(record.scored_at, (record.score or 0.0) / (record.threshold or 1.0), bool(record.is_anomaly))


def _chart(points: Sequence[Point], *, is_of_seconds: bool = False) -> Chart:
    dots: dict[bool, list[str]] = {False: [], True: []}
    start = POINTS - len(points)
    for place, point in enumerate(points):
        dots[point.is_anomaly].append(f"M{start + place} {_TOP - min(point.ratio, _TOP):.3f}h0")
    return Chart(
        is_of_seconds=is_of_seconds,
        first=points[0].at,
        last=points[-1].at,
        count=len(points),
        anomalies=len(dots[True]),
        good_path="".join(dots[False]),
        anomaly_path="".join(dots[True]),
    )

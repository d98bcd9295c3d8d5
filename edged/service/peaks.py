"""The highest score of each second of every stream, for whoever looks: frames leave no rows that would tell of them."""

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final

from edged.results import Record
from edged.web.recent import POINTS, Point

_MINUTE_S: Final = 60


@dataclass(slots=True)
class _Stream:
    """Of one stream: the highest scores by the second its frames were taken in, and how many ended in each second."""

    peaks: dict[int, Point] = field(default_factory=dict)
    frames: dict[int, int] = field(default_factory=dict)


class Peaks:
    """Takes every frame that was scored, and keeps the last seconds of each stream; it begins anew with the daemon."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._streams: dict[str, _Stream] = {}

    def take(self, record: Record) -> None:
        """Takes what became of a frame."""
        now, second = int(time.monotonic()), int(record.captured_at)
        with self._mutex:
            stream = self._streams.setdefault(record.source, _Stream())
            stream.frames[now] = stream.frames.get(now, 0) + 1
            _bound(stream.frames, _MINUTE_S)
            if record.score_ratio is None:
                return
            point = Point(second, record.score_ratio, bool(record.is_anomaly))
            stream.peaks[second] = max(point, stream.peaks.get(second, point))
            _bound(stream.peaks, POINTS)

    def of(self, source: str) -> list[Point]:
        """The highest score of each of the last seconds that had a frame, oldest first."""
        with self._mutex:
            return sorted(self._streams.get(source, _Stream()).peaks.values())

    def last_minute(self, source: str) -> int:
        """How many frames were scored in the last minute."""
        since = time.monotonic() - _MINUTE_S
        with self._mutex:
            frames = self._streams.get(source, _Stream()).frames
            return sum(count for second, count in frames.items() if second > since)

    def forget(self, source: str) -> None:
        """Forgets a source that has ended."""
        with self._mutex:
            self._streams.pop(source, None)


def _bound(kept: dict[int, Any], most: int) -> None:
    """Removes what came first, not the earliest second: a clock that was set back would keep all else out."""
    while len(kept) > most:
        del kept[next(iter(kept))]

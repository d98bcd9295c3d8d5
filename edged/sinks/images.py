"""The images sink: heat-map overlays, one file a result, within a bound on the disk."""

import heapq
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from edged import failpoints
from edged.errors import SinkError
from edged.media import overlays
from edged.results import Frame, Result, time_of

_OURS: Final = re.compile(r"[0-9a-f]{26}\.png")
_LEFTOVER: Final = re.compile(r"\.[0-9a-f]{26}\.part")
_KEPT_SHARE: Final = 0.9
_REMOVED: Final = 1000


class ImagesSink:
    """Writes `<id>.png`. Ids grow with time, so the oldest overlay is the first by name."""

    def __init__(self, name: str, folder: Path, *, anomalies_only: bool, max_bytes: int) -> None:
        self.name = name
        self._folder, self._anomalies_only, self._max_bytes = folder, anomalies_only, max_bytes
        self._bytes: int | None = None

    def wants(self, result: Result) -> bool:
        """Whether this result gets an overlay."""
        return result.is_anomaly or not self._anomalies_only

    def write(self, frame: Frame, result: Result) -> None:
        """Writes one overlay, whole or not at all, and removes the oldest when there are too many bytes.

        Raises:
            SinkError: the folder cannot be written.
        """
        try:
            if self._bytes is None:
                self._folder.mkdir(parents=True, exist_ok=True)
                for leftover in self._names(_LEFTOVER):
                    (self._folder / leftover).unlink()
                self._bytes = sum(map(self._size_of, self._names(_OURS)))
            partial = self._folder / f".{result.frame_id}.part"
            overlays.draw(frame, result).save(partial, "PNG", compress_level=1)
            size = partial.stat().st_size
            failpoints.reach("drawing")
            partial.rename(self._folder / f"{result.frame_id}.png")
            self._bytes += size
            if self._bytes > self._max_bytes:
                self._remove_oldest()
        except OSError as error:
            if isinstance(error, FileNotFoundError):  # the folder has gone, and what was in it
                self._bytes = None
            raise SinkError(f"{self._folder} cannot be written: {error.strerror}") from error

    def newest(self, count: int) -> list[str]:
        """Ids of the newest overlays."""
        try:
            return sorted(map(_id_of, heapq.nlargest(count, self._names(_OURS))))
        except OSError:  # there is no folder yet
            return []

    def remove(self, ids: Iterable[str]) -> None:
        """Removes overlays, such as those whose results never became durable."""
        for id_ in ids:
            (self._folder / f"{id_}.png").unlink(missing_ok=True)

    def remove_older(self, than: float, *, limit: int = _REMOVED) -> int:
        """Removes up to `limit` overlays of results whose ids are of before `than`, seconds since 1970; how many."""
        try:
            old = list(islice((name for name in self._names(_OURS) if time_of(_id_of(name)) < than), limit))
        except FileNotFoundError:  # there is no folder yet
            return 0
        for name in old:
            (self._folder / name).unlink(missing_ok=True)
        return len(old)

    def _names(self, which: re.Pattern[str]) -> Iterator[str]:
        """Of files, one at a time: there may be a million of them."""
        with os.scandir(self._folder) as entries:
            for entry in entries:
                if which.fullmatch(entry.name):
                    yield entry.name

    def _size_of(self, name: str) -> int:
        try:
            return (self._folder / name).stat().st_size
        except FileNotFoundError:  # retention removed it meanwhile
            return 0

    def _remove_oldest(self) -> None:
        self._bytes = sum(map(self._size_of, self._names(_OURS)))
        while self._bytes > self._max_bytes * _KEPT_SHARE and (oldest := heapq.nsmallest(_REMOVED, self._names(_OURS))):
            for name in oldest:
                if self._bytes <= self._max_bytes * _KEPT_SHARE:
                    break
                self._bytes -= self._size_of(name)
                (self._folder / name).unlink(missing_ok=True)


def _id_of(name: str) -> str:
    return name.removesuffix(".png")

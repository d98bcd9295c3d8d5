"""The images sink: heat-map overlays, one file a result, within a bound on the disk."""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from edged import failpoints, overlays
from edged.errors import SinkError
from edged.results import Frame, Result, time_of

_OURS: Final = re.compile(r"[0-9a-f]{26}\.png")
_KEPT_SHARE: Final = 0.9


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
                for leftover in self._folder.glob(".*.part"):
                    leftover.unlink()
                self._bytes = sum(size for _, size in self._sizes())
            partial = self._folder / f".{result.frame_id}.part"
            overlays.draw(frame, result).save(partial, "PNG", compress_level=1)
            size = partial.stat().st_size
            failpoints.reach("drawing")
            partial.rename(self._folder / f"{result.frame_id}.png")
            self._bytes += size
            if self._bytes > self._max_bytes:
                self._remove_oldest()
        except OSError as error:
            self._bytes = None
            raise SinkError(f"{self._folder} cannot be written: {error.strerror}") from error

    def newest(self, count: int) -> list[str]:
        """Ids of the newest overlays."""
        try:
            return [path.stem for path in self._overlays()[-count:]]
        except OSError:  # there is no folder yet
            return []

    def remove(self, ids: Iterable[str]) -> None:
        """Removes overlays, such as those whose results never became durable."""
        for id_ in ids:
            (self._folder / f"{id_}.png").unlink(missing_ok=True)

    def remove_older(self, than: float, *, limit: int = 1000) -> int:
        """Removes up to `limit` overlays of results whose ids are of before `than`, seconds since 1970; how many."""
        try:
            old = [path for path in self._overlays() if time_of(path.stem) < than]
        except FileNotFoundError:  # there is no folder yet
            return 0
        for path in old[:limit]:
            path.unlink(missing_ok=True)
        return len(old[:limit])

    def _overlays(self) -> list[Path]:
        return sorted(path for path in self._folder.iterdir() if _OURS.fullmatch(path.name))

    def _sizes(self) -> list[tuple[Path, int]]:
        sizes = []
        for path in self._overlays():
            with contextlib.suppress(FileNotFoundError):  # retention removed it meanwhile
                sizes.append((path, path.stat().st_size))
        return sizes

    def _remove_oldest(self) -> None:
        sizes = self._sizes()
        total = sum(size for _, size in sizes)
        for path, size in sizes:
            if total <= self._max_bytes * _KEPT_SHARE:
                break
            path.unlink(missing_ok=True)
            total -= size
        self._bytes = total

"""The images sink: heat-map overlays, one file a result, within a bound on the disk."""

import heapq
import os
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, Literal

from PIL.PngImagePlugin import PngInfo

from edged import failpoints
from edged.errors import SinkError
from edged.media import overlays
from edged.results import Frame, Result, rfc3339, time_of
from edged.settings import AbsolutePath, Place, SinkTable
from edged.sinks.contract import SinkType
from edged.sinks.selection import Selection

_OURS: Final = re.compile(r"[0-9a-f]{26}\.png")
_LEFTOVER: Final = re.compile(r"\.[0-9a-f]{26}\.part")
_KEPT_SHARE: Final = 0.9
_REMOVED: Final = 1000
_LONGEST: Final = 50_000_000


class ImagesTable(SinkTable):
    """Writes heat-map overlays."""

    type: Literal["images"]
    dir: AbsolutePath
    only: Literal["anomalies", "all"] = "anomalies"

    def places(self) -> list[Place]:
        """The folder."""
        return [Place("dir", self.dir, "output")]

    def problems(self) -> list[str]:
        """Whether something else stands there."""
        if os.path.lexists(self.dir) and not os.path.isdir(self.dir):
            return [f"dir: {self.dir} is not a folder; choose another path"]
        return []


class ImagesSink:
    """Writes `<id>.png`. Ids grow with time, so the oldest overlay is the first by name."""

    def __init__(self, table: ImagesTable, *, max_bytes: int) -> None:
        """Prepares it.

        Args:
            table: says where, and of which results.
            max_bytes: of all overlays; beyond that the oldest go.
        """
        self.name = table.name
        self._folder, self._selection, self._max_bytes = table.dir, Selection(table), max_bytes
        self._bytes: int | None = None
        self._counting = threading.Lock()

    def wants(self, result: Result) -> bool:
        """Whether this result gets an overlay; it then counts against `rate_limit`."""
        return self._selection.wants(result) and self._selection.claim()

    def write(self, frame: Frame, result: Result) -> None:
        """Writes one overlay, whole or not at all, and removes the oldest when there are too many bytes.

        Raises:
            SinkError: the folder cannot be written.
        """
        try:
            with self._counting:
                if self._bytes is None:
                    self._folder.mkdir(parents=True, exist_ok=True)
                    for leftover in self._names(_LEFTOVER):
                        (self._folder / leftover).unlink()
                    self._bytes = sum(map(self._size_of, self._names(_OURS)))
            partial = self._folder / f".{result.frame_id}.part"
            overlays.draw(frame, result).save(partial, "PNG", compress_level=1, pnginfo=_about(frame, result))
            size = partial.stat().st_size - self._size_of(f"{result.frame_id}.png")  # an event is drawn again
            failpoints.reach("drawing")
            partial.rename(self._folder / f"{result.frame_id}.png")
            with self._counting:
                self._bytes = (self._bytes or 0) + size
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

    def read(self, id_: str) -> bytes | None:
        """The overlay of a result; None when there is none, or something else stands there."""
        name = f"{id_}.png"
        if not _OURS.fullmatch(name):
            return None
        try:
            descriptor = os.open(self._folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                is_ours = stat.S_ISREG(os.fstat(descriptor).st_mode)
                return file.read(_LONGEST) if is_ours else None
        except OSError:
            return None

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


def _about(frame: Frame, result: Result) -> PngInfo:
    """What the picture says of itself wherever it is copied to; `exiftool` or Pillow's `Image.text` shows it."""
    info = PngInfo()
    about = {"id": result.frame_id, "source": result.source, "captured_at": rfc3339(frame.captured_at)}
    about |= {"model": result.model, "score": f"{result.score:.6g}", "threshold": f"{result.threshold:.6g}"}
    for key, value in about.items():
        info.add_text(key, value)
    return info


def _id_of(name: str) -> str:
    return name.removesuffix(".png")


TYPE: Final = SinkType(
    ImagesTable, lambda table, context: ImagesSink(table, max_bytes=context.retention.images_max_bytes)
)

"""A file that grows by whole, durable lines: what the jsonl and the csv sink have in common."""

import os
from collections.abc import Callable
from typing import Final

import structlog

from edged.errors import SinkError
from edged.settings import AbsolutePath, Place, SinkTable

_TAIL: Final = 1 << 16
_HEAD: Final = 1 << 12


class LinesTable(SinkTable):
    """Appends every record to a file as one line."""

    path: AbsolutePath

    def places(self) -> list[Place]:
        """The file."""
        return [Place("path", self.path, "output")]

    def problems(self) -> list[str]:
        """Whether something else stands there."""
        if os.path.lexists(self.path) and not os.path.isfile(self.path):
            return [f"path: {self.path} is not a file; choose another path"]
        return []


class LineFile:
    """Appends lines, and fsyncs before it says that it has them.

    A last line without its end, left by a crash, is cut off when the file is opened: its result is still in the
    outbox. The file may be rotated by renaming it; the next lines go to a new one.
    """

    def __init__(self, table: LinesTable, what: str, is_ours: Callable[[bytes, bytes], bool]) -> None:
        """Prepares it; nothing is opened yet.

        Args:
            table: of the sink.
            what: a file of these lines is called.
            is_ours: whether a file is one, by its first bytes, and the first byte of its torn last line, if any.
        """
        self._sink, self._path = table.name, table.path
        self._what, self._is_ours = what, is_ours
        self._descriptor: int | None = None

    def append(self, lines: Callable[[bytes], str]) -> None:
        """Appends what `lines` gives for the first bytes of the file, none of a new one, as UTF-8.

        Raises:
            SinkError: the file cannot be written; it is as it was.
        """
        try:
            descriptor = self._open()
            data = lines(_head(descriptor)).encode()
            end = os.fstat(descriptor).st_size
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        except OSError as error:
            self.close()
            raise SinkError(f"{self._path} cannot be written: {error.strerror}") from error

    def close(self) -> None:
        """Closes the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is not None and not self._rotated(self._descriptor):
            return self._descriptor
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if not self._recognised(self._descriptor):
            self.close()
            raise SinkError(f"{self._path} is not a file of {self._what}; move it away, or choose another path")
        self._cut_torn_line(self._descriptor)
        return self._descriptor

    def _rotated(self, descriptor: int) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(now, os.fstat(descriptor))

    def _recognised(self, descriptor: int) -> bool:
        """Whether it is ours, and what would be cut off the beginning of a line of ours; zeros are of a power cut."""
        torn = _line_start(descriptor, os.fstat(descriptor).st_size)
        head, beginning = _head(descriptor).rstrip(b"\0"), os.pread(descriptor, 1, torn).rstrip(b"\0")
        return b"\0" not in head and self._is_ours(head, beginning)

    def _cut_torn_line(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        end = _line_start(descriptor, size)
        if end < size:
            structlog.get_logger().warning(
                "cut off a torn last line; its result comes again",
                sink=self._sink,
                path=str(self._path),
                bytes=size - end,
            )
            os.ftruncate(descriptor, end)


def _head(descriptor: int) -> bytes:
    return os.pread(descriptor, _HEAD, 0)


def _line_start(descriptor: int, end: int) -> int:
    """Where the line begins that goes on until `end`."""
    while end > 0:
        start = max(0, end - _TAIL)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0

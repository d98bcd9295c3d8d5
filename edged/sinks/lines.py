"""A file that grows by whole, durable lines: what the jsonl and the csv sink have in common."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog
from pydantic import Field

from edged import failpoints
from edged.errors import SinkError
from edged.files import sync
from edged.settings import AbsolutePath, Place, SinkTable

_TAIL: Final = 1 << 16
_HEAD: Final = 1 << 12
_LEAST_BYTES: Final = 1000


class LinesTable(SinkTable):
    """Appends every record to a file as one line.

    Attributes:
        path: of the file.
        max_bytes: of it, before it is rotated; 0 for never.
        max_backups: how many rotated files stay.
    """

    path: AbsolutePath
    max_bytes: int = Field(default=100_000_000, ge=0)
    max_backups: int = Field(default=9, ge=1, le=1000)

    def places(self) -> list[Place]:
        """The file."""
        return [Place("path", self.path, "output")]

    def problems(self) -> list[str]:
        """Whether something else stands there, and whether a file could hold a few lines."""
        found = []
        if os.path.lexists(self.path) and not os.path.isfile(self.path):
            found.append(f"path: {self.path} is not a file; choose another path")
        if 0 < self.max_bytes < _LEAST_BYTES:
            found.append(
                f"max_bytes: {self.max_bytes} bytes are a line or two; give {_LEAST_BYTES} or more, or 0 to never "
                "rotate the file"
            )
        return found


class LineFile:
    """Appends lines, and fsyncs before it says that it has them.

    A last line without its end, left by a crash, is cut off when the file is opened: its result is still in the
    outbox. Before it grows beyond `max_bytes` it is rotated: it becomes PATH.1, PATH.1 becomes PATH.2, and so on, and
    the last of `max_backups` goes. Whoever renames it instead has the next lines go to a new one as well.
    """

    def __init__(self, table: LinesTable, what: str, is_ours: Callable[[bytes, bytes], bool]) -> None:
        """Prepares it; nothing is opened yet.

        Args:
            table: of the sink.
            what: a file of these lines is called.
            is_ours: whether a file is one, by its first bytes, and the first byte of its torn last line, if any.
        """
        self._path, self._max_bytes, self._max_backups = table.path, table.max_bytes, table.max_backups
        self._log = structlog.get_logger().bind(sink=table.name, path=str(table.path))
        self._what, self._is_ours = what, is_ours
        self._descriptor: int | None = None

    def append(self, lines: Callable[[bytes], str]) -> None:
        """Appends what `lines` gives for the first bytes of the file, none of a new one, as UTF-8.

        What is given at once stands in one file, which is larger than `max_bytes` where that alone is.

        Raises:
            SinkError: the file cannot be written; it is as it was.
        """
        try:
            descriptor = self._open()
            data, end = lines(_head(descriptor)).encode(), os.fstat(descriptor).st_size
            if end and self._max_bytes and end + len(data) > self._max_bytes:
                self._rotate()
                descriptor, end = self._open(), 0
                data = lines(b"").encode()
            try:
                view = memoryview(data)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
                if not end:
                    sync(self._real_path().parent)  # of a new file the name, too, and that of the one before it
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
        if self._descriptor is not None and not self._moved_away(self._descriptor):
            return self._descriptor
        self.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        if not self._recognised(self._descriptor):
            self.close()
            raise SinkError(f"{self._path} is not a file of {self._what}; move it away, or choose another path")
        self._cut_torn_line(self._descriptor)
        return self._descriptor

    def _moved_away(self, descriptor: int) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(now, os.fstat(descriptor))

    def _rotate(self) -> None:
        """Makes the file the first backup.

        After a crash in the middle a number is free, and only the backups before it move up: none is lost to that.

        Raises:
            SinkError: the folder does not let it.
        """
        self.close()
        path = self._real_path()
        backups = [path.with_name(f"{path.name}.{number}") for number in range(1, self._max_backups + 1)]
        last = next((index for index, backup in enumerate(backups) if not os.path.lexists(backup)), len(backups) - 1)
        try:
            for index in range(last, 0, -1):
                os.replace(backups[index - 1], backups[index])
            failpoints.reach("rotating")
            os.replace(path, backups[0])
        except OSError as error:
            raise SinkError(
                f"{path} cannot be renamed to {backups[0].name}: {error.strerror}; give edged a folder that it may "
                "write to, or set max_bytes = 0 and rotate the file yourself"
            ) from error
        self._log.info("rotated the file", backup=str(backups[0]))
        failpoints.reach("rotated")

    def _real_path(self) -> Path:
        """Where the file is when `path` is a link: its backups are beside it."""
        return Path(os.path.realpath(self._path))

    def _recognised(self, descriptor: int) -> bool:
        """Whether it is ours, and what would be cut off the beginning of a line of ours; zeros are of a power cut."""
        torn = _line_start(descriptor, os.fstat(descriptor).st_size)
        head, beginning = _head(descriptor).rstrip(b"\0"), os.pread(descriptor, 1, torn).rstrip(b"\0")
        return b"\0" not in head and self._is_ours(head, beginning)

    def _cut_torn_line(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        end = _line_start(descriptor, size)
        if end < size:
            self._log.warning("cut off a torn last line; its result comes again", bytes=size - end)
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

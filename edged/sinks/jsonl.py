"""The jsonl sink: every result as one line of a file."""

import os
from collections.abc import Sequence
from typing import Final, Literal

import structlog

from edged.errors import SinkError
from edged.results import Record
from edged.settings import AbsolutePath, Place, SinkTable
from edged.sinks.contract import SinkType

_TAIL: Final = 1 << 16
_HEAD: Final = 1 << 12


class JsonlTable(SinkTable):
    """Appends every record to a file, one JSON object a line."""

    type: Literal["jsonl"]
    path: AbsolutePath

    def places(self) -> list[Place]:
        """The file."""
        return [Place("path", self.path, "output")]

    def problems(self) -> list[str]:
        """Whether something else stands there."""
        if os.path.lexists(self.path) and not os.path.isfile(self.path):
            return [f"path: {self.path} is not a file; choose another path"]
        return []


class JsonlSink:
    """Appends lines, and fsyncs before it says that it has them.

    A last line without its end, left by a crash, is cut off when the file is opened: its result is still in the
    outbox. The file may be rotated by renaming it; the next results go to a new one.
    """

    def __init__(self, table: JsonlTable) -> None:
        self.name = table.name
        self._path = table.path
        self._descriptor: int | None = None

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:  # noqa: ARG002 -- a local file
        """Appends one line a record; all of them.

        Raises:
            SinkError: the file cannot be written; it is as it was.
        """
        lines = "".join(record.to_json() + "\n" for record in records).encode("ascii")
        try:
            descriptor = self._open()
            end = os.fstat(descriptor).st_size
            try:
                view = memoryview(lines)
                while view:
                    view = view[os.write(descriptor, view) :]
                os.fsync(descriptor)
            except OSError:
                os.ftruncate(descriptor, end)
                raise
        except OSError as error:
            self.close()
            raise SinkError(f"{self._path} cannot be written: {error.strerror}") from error
        return len(records)

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
        if not self._is_ours(self._descriptor):
            self.close()
            raise SinkError(f"{self._path} is not a file of lines of JSON; move it away, or choose another path")
        self._cut_torn_line(self._descriptor)
        return self._descriptor

    def _rotated(self, descriptor: int) -> bool:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return True
        return not os.path.samestat(now, os.fstat(descriptor))

    def _is_ours(self, descriptor: int) -> bool:
        """Whether it is ASCII, and what would be cut off the beginning of a line of ours; zeros are of a power cut."""
        torn = _line_start(descriptor, os.fstat(descriptor).st_size)
        head, beginning = os.pread(descriptor, _HEAD, 0).rstrip(b"\0"), os.pread(descriptor, 1, torn)
        return head.isascii() and b"\0" not in head and beginning in {b"", b"{", b"\0"}

    def _cut_torn_line(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        end = _line_start(descriptor, size)
        if end < size:
            structlog.get_logger().warning(
                "cut off a torn last line; its result comes again",
                sink=self.name,
                path=str(self._path),
                bytes=size - end,
            )
            os.ftruncate(descriptor, end)


def _line_start(descriptor: int, end: int) -> int:
    """Where the line begins that goes on until `end`."""
    while end > 0:
        start = max(0, end - _TAIL)
        newline = os.pread(descriptor, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


TYPE: Final = SinkType(JsonlTable, lambda table, _: JsonlSink(table))

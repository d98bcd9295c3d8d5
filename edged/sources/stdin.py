"""The stdin source: pictures from a pipe, each behind its length as four bytes, the highest first."""

import os
import select
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

import structlog
from pydantic import Field

from edged.errors import SourceError
from edged.settings import Place, SourceTable
from edged.sources.contract import Delivery, SourceContext, SourceType, WhenFull
from edged.sources.spool import Draft, Spool

_PREFIX_BYTES: Final = 4
_CHUNK: Final = 1 << 20
_LOOK_S: Final = 1.0
_STDIN: Final = 0


class StdinTable(SourceTable):
    """Reads pictures from standard input."""

    type: Literal["stdin"]
    max_waiting_bytes: int = Field(default=1_000_000_000, ge=1_000_000)

    def places(self) -> list[Place]:
        """Standard input, of which there is one."""
        return [Place("type", Path("/dev/stdin"), "inbox")]


class StdinSource:
    """Reads while there is room; else the pipe fills, and its writer waits."""

    when_full: WhenFull = "wait"

    def __init__(self, table: StdinTable, context: SourceContext) -> None:
        self.name, self.wake = table.name, threading.Event()
        self._observer, self._max_bytes = context.observer, context.limits.max_bytes
        self._spool = Spool(
            table.name, context.state_dir, context.journal, self.wake, max_bytes=table.max_waiting_bytes
        )
        self.pending = self._spool.pending
        self._prefix, self._data, self._left = b"", b"", 0
        self._draft: Draft | None = None
        self._ended = False

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        """Reads and hands over until `stop`, also after the pipe has ended.

        Raises:
            SourceError: standard input cannot be read, or what was read cannot be written down.
        """
        self._spool.recover()
        self._observer.up(self.name, not self._ended)
        while not stop.is_set():
            self.wake.clear()
            all_taken = self._spool.hand_over(hand_over)
            healthy()
            if stop.is_set():
                break
            if self._ended or not all_taken or not self._spool.has_room(self._draft):
                self.wake.wait(_LOOK_S)
            else:
                self._step()
        self._spool.close()
        if self._draft is not None:
            self._draft.discard()

    def _step(self) -> None:
        """Takes one step; one that fails is taken again."""
        try:
            if len(self._prefix) == _PREFIX_BYTES:
                self._draft = self._spool.begin()
                self._left, self._prefix = int.from_bytes(self._prefix, "big"), b""
            elif self._draft is not None and self._data:
                # Of one that is too large a byte too much is kept, which tells; the rest is passed over.
                self._draft.write(self._data[: max(0, self._max_bytes + 1 - self._draft.size)])
                self._left, self._data = self._left - len(self._data), b""
            elif self._draft is not None and not self._left:
                picture, self._draft = self._draft.finish(), None
                picture.make_durable()
            elif select.select([_STDIN], [], [], _LOOK_S)[0]:
                self._read()
        except OSError as error:
            raise SourceError(f"standard input cannot be read into {self._spool.folder}: {error.strerror}") from error

    def _read(self) -> None:
        wanted = _PREFIX_BYTES - len(self._prefix) if self._draft is None else self._left
        data = os.read(_STDIN, min(wanted, _CHUNK))
        if not data:
            self._end()
        elif self._draft is None:
            self._prefix += data
        else:
            self._data = data

    def _end(self) -> None:
        if self._draft is not None or self._prefix:
            structlog.get_logger().warning("standard input ended in the middle of a picture", source=self.name)
        if self._draft is not None:
            self._draft.discard()
        self._draft, self._prefix, self._ended = None, b"", True
        self._observer.up(self.name, False)


TYPE: Final = SourceType(StdinTable, StdinSource, is_spooled=True, can_change=False)

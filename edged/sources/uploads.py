"""The http source: pictures that clients post to the daemon's own web server."""

import threading
from collections.abc import Callable
from typing import Final, Literal

from pydantic import Field

from edged.settings import SourceTable
from edged.sources.contract import Delivery, SourceContext, SourceType, WhenFull
from edged.sources.spool import Draft, Spool


class UploadTable(SourceTable):
    """Takes pictures by `POST /api/v1/sources/NAME/pictures`."""

    type: Literal["http"]
    answer_seconds: float = Field(default=10.0, ge=0, le=60)
    max_waiting_bytes: int = Field(default=1_000_000_000, ge=1_000_000)


class UploadSource:
    """Hands over what the web server receives; the web server's threads call `begin`.

    Attributes:
        answer_seconds: how long a client waits for the result of its picture.
        max_bytes: of one picture.
    """

    when_full: WhenFull = "wait"

    def __init__(self, table: UploadTable, context: SourceContext) -> None:
        self.name, self.wake = table.name, threading.Event()
        self.answer_seconds, self.max_bytes = table.answer_seconds, context.limits.max_bytes
        self._observer = context.observer
        self._spool = Spool(
            table.name, context.state_dir, context.journal, self.wake, max_bytes=table.max_waiting_bytes
        )
        self.pending = self._spool.pending

    def begin(self, name: str) -> Draft:
        """Begins to receive a picture; see `Spool.begin`."""
        return self._spool.begin(name)

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        """Hands over until `stop`.

        Raises:
            SourceError: the folder for what was received cannot be used.
        """
        self._observer.up(self.name, False)
        self._spool.recover()
        self._observer.up(self.name, True)
        while not stop.is_set():
            self._spool.hand_over(hand_over)
            healthy()
            self.wake.wait()
            self.wake.clear()
        self._spool.close()


TYPE: Final = SourceType(UploadTable, UploadSource, is_spooled=True)

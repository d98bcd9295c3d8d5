"""Where pictures come from: what every source offers, and what it reports while it works."""

import threading
from collections.abc import Callable
from typing import BinaryIO, Protocol

from edged.errors import PictureError
from edged.results import Record
from edged.sources.folder.arrivals import Arrival, Entry


class Events(Protocol):
    """What a source reports while it works."""

    def skipped(self, source: str, reason: str) -> None:
        """Something that is not a picture file was passed over."""

    def overflowed(self, source: str) -> None:
        """Events of inotify were lost."""

    def recovered(self, source: str, count: int) -> None:
        """A scan found files that no event had told of."""

    def up(self, source: str, is_up: bool) -> None:
        """The source can be read, or no longer."""


class Source(Protocol):
    """Finds arrivals in a thread of its own, and is told by others what becomes of them."""

    name: str
    wake: threading.Event

    def run(
        self, offer: Callable[[Arrival], bool], stop: threading.Event, well: Callable[[], None] = lambda: None
    ) -> None:
        """Finds arrivals and offers them until `stop`, set before `wake`; calls `well` after every good round."""

    def waiting(self) -> tuple[int, float | None]:
        """How many arrivals are known to wait or are in work, and when the oldest was found (monotonic seconds)."""
        ...

    def open(self, arrival: Arrival) -> BinaryIO | None:
        """Opens what arrived; None when it has gone or is another one now. Raises PictureError when refused."""

    def unchanged(self, arrival: Arrival, file: BinaryIO) -> bool:
        """Whether an open file is still what was found, and so was read whole."""
        ...

    def is_repetition(self, arrival: Arrival, sha256: str | None) -> bool:
        """Whether it is no new arrival after all; it is then finished."""
        ...

    def defer(self, arrival: Arrival, error: PictureError) -> bool:
        """Whether an arrival that failed will be tried again; it is given back if so."""
        ...

    def release(self, arrival: Arrival) -> None:
        """Gives back an arrival that is not to be recorded."""

    def entry(self, arrival: Arrival, record: Record) -> Entry:
        """What is to become durable for an arrival."""
        ...

    def committed(self, arrival: Arrival, entry: Entry) -> None:
        """Takes note that an entry is durable."""

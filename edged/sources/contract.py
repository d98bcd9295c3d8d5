"""What a source is: it hands over deliveries, one a picture, and each of them hears what became of it.

    open         the picture: bytes to be decoded, or pixels
    settle       record it, try it again, or it was seen before
    statements   what the source remembers of it, in the same transaction as the record
    acknowledge  that transaction is durable; or give_back: nothing was recorded

The pipeline knows no files: what a folder remembers of its files, a camera does not.
"""

import sqlite3
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Protocol

from edged.errors import PictureError
from edged.journal.journal import Entry, Journal, Statement
from edged.media.imaging import Decoded, Limits
from edged.media.inputs import Input
from edged.results import Frame, Record, Result
from edged.settings import RetentionTable, SourceTable

WhenFull = Literal["wait", "drop_oldest"]

STATES: Final = ("connecting", "live", "stalled", "frozen", "backoff")
"""Of a stream: the label `state` of `edged_source_state`."""


class Settlement(Enum):
    """What is to become of a delivery that was read.

    Attributes:
        RECORD: it gets a record: scored, or quarantined.
        AGAIN: it is given back, and comes again if the source thinks it worth it.
        SEEN: it was recorded before; the source's statements are made durable, and no record is.
    """

    RECORD = "record"
    AGAIN = "again"
    SEEN = "seen"


class Delivery(Protocol):
    """One picture that a source hands over. It ends in exactly one way: acknowledged, or given back.

    Its methods are called by one thread at a time, though not always by the same, and never by the source's own.

    Attributes:
        id: of the record to be (`results.new_id`).
        source: name of the source.
        path: what records call it: an absolute path, or a name below the source.
        captured_at: when the picture was taken, seconds since 1970.
        found_at: when the source first knew of it, `time.monotonic()`.
    """

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def source(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def captured_at(self) -> float: ...  # noqa: D102
    @property
    def found_at(self) -> float: ...  # noqa: D102

    def open(self) -> BinaryIO | Decoded | None:
        """The picture: a file to be read from its start, which the pipeline closes, or pixels at the model's size.

        Returns:
            None when there is nothing any more; the delivery is then given back.

        Raises:
            PictureError: it is refused; the delivery is settled with that error.
        """
        ...

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:
        """Says what is to become of the picture, once it was read; the file is still open. Writes nothing.

        Args:
            sha256: of the bytes that were read; None when not all were.
            error: why it could not be opened or decoded.
        """
        ...

    def statements(self, record: Record | None) -> Sequence[Statement]:
        """What the source has to remember, for the transaction that makes `record` durable; None where it was seen."""
        ...

    def acknowledge(self, record: Record | None) -> None:
        """Takes note that the transaction is durable."""

    def give_back(self) -> None:
        """Takes note that nothing was recorded."""


@dataclass(frozen=True, slots=True)
class Scored:
    """A frame of a stream, and what became of it.

    Attributes:
        frame: that was scored; None where it could not be.
        result: None likewise.
        record: what its row says, or would say.
    """

    frame: Frame | None
    result: Result | None
    record: Record


@dataclass(frozen=True, slots=True)
class Step:
    """What a frame leads to.

    Attributes:
        entry: is made durable.
        picture: is drawn before.
    """

    entry: Entry
    picture: tuple[Frame, Result] | None = None


class StreamDelivery(ABC):
    """A `Delivery` that is a frame of a stream, whose source makes events of many of them; to be inherited from.

    (Whether something is of a protocol takes 13 µs to tell, for every picture.)

    Attributes:
        stored: whether it gets a row and is drawn, as any other picture.
    """

    stored: bool

    @property
    @abstractmethod
    def has_picture(self) -> bool:
        """False of a note to the source, in its place among the frames: it is not scored."""

    @abstractmethod
    def follow(self, scored: Scored | None) -> Sequence[Step]:
        """What is to be made durable now that the frame was scored; called by one thread, in any order of the frames.

        Args:
            scored: None of one without a picture.
        """


class Observer(Protocol):
    """What is told of a source while it works."""

    def skipped(self, source: str, reason: str) -> None:
        """Something that is not a picture file was passed over."""

    def overflowed(self, source: str) -> None:
        """Events of inotify were lost."""

    def recovered(self, source: str, count: int) -> None:
        """A scan found files that no event had told of."""

    def up(self, source: str, is_up: bool) -> None:
        """The source can be read, or no longer."""

    def state(self, source: str, state: str, why: str = "") -> None:
        """A stream is in another of `STATES`; `why` in words, where that is a problem."""

    def dropped(self, source: str, count: int) -> None:
        """Frames were passed over because a newer one came before they could be scored."""


class Source(Protocol):
    """Finds pictures in a thread of its own, and hands them over.

    Attributes:
        name: of its `[[sources]]` table.
        wake: set by others: there is room again, or `stop` is set.
        when_full: what happens when it hands over more than is taken: "wait" (a folder: it is the queue) or
            "drop_oldest" (a camera: the newest counts, what is dropped is given back and counted).
    """

    name: str
    wake: threading.Event
    when_full: WhenFull

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        """Hands deliveries over until `stop`, set before `wake`.

        Args:
            hand_over: takes a delivery; False when there is no room, and `wake` is set when there is.
            stop: ends the loop, within seconds.
            healthy: called after every round that went well.

        Raises:
            EdgedError: or any other; it is logged, and `run` is called again after a pause.
        """

    def pending(self) -> tuple[int, float | None]:
        """How many pictures are known to wait or are in flight, and when the oldest was found (monotonic seconds)."""
        ...


@dataclass(frozen=True, slots=True)
class SourceContext:
    """What a source is made with, beside its table.

    Attributes:
        journal: for what it remembers.
        observer: what it tells while it works.
        state_dir: `service.state_dir`.
        input: what the model takes: for sources that hand over pixels.
        limits: what is refused.
    """

    journal: Journal
    observer: Observer
    state_dir: Path
    input: Input
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class SourceType:
    """One type of source: a row of `SOURCES`.

    Attributes:
        table: its `[[sources]]` table.
        make: a source of that table.
        tidy: a step of retention for all sources of the type: removes a little of what is old, says how much; 0 for
            nothing. None where nothing is left behind.
        is_stream: whether its sources are streams, which have one of `STATES`.
        is_spooled: whether what its sources have received waits in a folder of the name of each (`sources.spool`).
        can_change: whether a reload may end one and make another. False where what one has begun to read no other can.
        requeue: asks for a result's picture to be scored again, and says under which name. None where that cannot be.
        find: where the file of a result is now, by a journal that is open for reading and the table of its source; it
            gives None where the file is gone. None where results have no files.
    """

    table: type[SourceTable]
    make: Callable[[Any, SourceContext], Source]
    tidy: Callable[[Journal, RetentionTable], Callable[[], int]] | None = None
    requeue: Callable[[Path, Any, str], str] | None = None
    find: Callable[[sqlite3.Connection, Any, Record], Path | None] | None = None
    is_stream: bool = False
    is_spooled: bool = False
    can_change: bool = True

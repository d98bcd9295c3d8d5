"""What a sink is. Records come from the journal's outbox, in order, at least once; overlays before the commit."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from edged.results import Frame, Record, Result
from edged.settings import RetentionTable, SinkTable


@runtime_checkable
class RecordSink(Protocol):
    """Takes durable records, in order; after a crash the same may come again, with the same ids.

    It is used by one thread.

    Attributes:
        name: of its `[[sinks]]` table.
    """

    name: str

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Takes as many of `records` as it can, from the first on, and returns within `timeout_s`.

        Args:
            records: one at least.
            timeout_s: what is not taken by then is to be left for the next try.

        Returns:
            How many it took, for good; they do not come again. 0 is a failure that passes.

        Raises:
            SinkError: it cannot take the first of them now; it is given them again, after a pause.
            RecordRefusedError: it will never take the first of them: that one is set aside, the others come again.
        """
        ...

    def close(self) -> None:
        """Lets go of what it holds."""


@runtime_checkable
class PictureSink(Protocol):
    """Draws results with their pictures before these are durable; what never becomes durable is removed again.

    Any worker may call it, several at a time.

    Attributes:
        name: of its `[[sinks]]` table.
    """

    name: str

    def wants(self, result: Result) -> bool:
        """Whether this result is to be drawn (`selection.Selection`)."""
        ...

    def write(self, frame: Frame, result: Result) -> None:
        """Draws one result, whole or not at all.

        Raises:
            SinkError: it cannot be written; the result stands all the same.
        """

    def newest(self, count: int) -> list[str]:
        """Ids of the results that were drawn last."""
        ...

    def remove(self, ids: Sequence[str]) -> None:
        """Removes what was drawn of these results."""

    def remove_older(self, than: float) -> int:
        """Removes some of what was drawn of results of before `than` (seconds since 1970); how many."""
        ...


@runtime_checkable
class DrawingStore(Protocol):
    """A `PictureSink` that gives back what it drew; the page shows that. Any thread may ask."""

    def read(self, id_: str) -> bytes | None:
        """What was drawn of a result, as a PNG file; None when there is nothing.

        Args:
            id_: as `results.new_id` makes them; any other text names nothing.
        """
        ...


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is made with, beside its table.

    Attributes:
        state_dir: `service.state_dir`; a sink that has to remember something keeps it below a folder of its name.
        retention: how much may stay.
        sources: names of those that records come from at first; a reload may add some.
    """

    state_dir: Path
    retention: RetentionTable
    sources: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class SinkType:
    """One type of sink: a row of `SINKS`.

    Attributes:
        table: its `[[sinks]]` table.
        make: a sink of that table.
    """

    table: type[SinkTable]
    make: Callable[[Any, SinkContext], RecordSink | PictureSink]

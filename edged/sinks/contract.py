"""Where results go. A sink of records is fed from the journal's outbox; overlays are written before the commit."""

from collections.abc import Sequence
from typing import Protocol

from edged.results import Record


class RecordSink(Protocol):
    """Takes durable records, in order; the same record may come again after a crash, with the same id."""

    name: str

    def publish(self, records: Sequence[Record]) -> None:
        """Takes all of `records` durably, or raises SinkError and is given them again."""

    def close(self) -> None:
        """Lets go of what it holds."""

"""The jsonl sink: every result as one line of a file."""

from collections.abc import Sequence
from typing import Final, Literal

from edged.results import Record
from edged.sinks.contract import SinkType
from edged.sinks.lines import LineFile, LinesTable


class JsonlTable(LinesTable):
    """Appends every record to a file, one JSON object a line."""

    type: Literal["jsonl"]


class JsonlSink:
    """Appends one object a record; see `LineFile`."""

    def __init__(self, table: JsonlTable) -> None:
        self.name = table.name
        self._file = LineFile(table, "lines of JSON", lambda head, torn: head.isascii() and torn in {b"", b"{"})
        self.close = self._file.close

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:  # noqa: ARG002 -- a local file
        """Appends one line a record; all of them.

        Raises:
            SinkError: the file cannot be written; it is as it was.
        """
        self._file.append(lambda _: "".join(record.to_json() + "\n" for record in records))
        return len(records)


TYPE: Final = SinkType(JsonlTable, lambda table, _: JsonlSink(table))

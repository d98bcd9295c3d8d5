"""The csv sink: every result as one line of a file for spreadsheets."""

from collections.abc import Sequence
from typing import Final, Literal

from edged.results import COLUMNS, Record, csv_line
from edged.sinks.contract import SinkType
from edged.sinks.lines import LineFile, LinesTable


class CsvTable(LinesTable):
    """Appends every record to a file, one line of CSV each, below a header."""

    type: Literal["csv"]


class CsvSink:
    """Appends one line a record; see `LineFile`. A file that is there keeps the columns of its header."""

    def __init__(self, table: CsvTable) -> None:
        self.name = table.name
        self._file = LineFile(table, "results as CSV", _is_ours)
        self.close = self._file.close

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:  # noqa: ARG002 -- a local file
        """Appends one line a record; all of them.

        Raises:
            SinkError: the file cannot be written; it is as it was.
        """
        self._file.append(lambda head: _lines(_columns(head), records, with_header=not head))
        return len(records)


def _lines(columns: Sequence[str], records: Sequence[Record], *, with_header: bool) -> str:
    rows = [record.to_dict() for record in records]
    header = csv_line(columns) if with_header else ""
    return header + "".join(csv_line([row[column] for column in columns]) for row in rows)


def _columns(head: bytes) -> Sequence[str]:
    """Of a file that begins so: an older edged may have begun it, with fewer."""
    return head.partition(b"\r\n")[0].decode("utf-8", "replace").split(",") if head else COLUMNS


def _is_ours(head: bytes, torn: bytes) -> bool:  # noqa: ARG001 -- an id may begin with any digit
    if b"\r\n" in head:
        return set(_columns(head)) <= set(COLUMNS)
    return csv_line(COLUMNS).encode().startswith(head)  # the header itself may be torn


TYPE: Final = SinkType(CsvTable, lambda table, _: CsvSink(table))

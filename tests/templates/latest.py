"""A sink: the latest record as one small file of JSON, for a program that reads it now and then."""

from collections.abc import Sequence
from typing import Final, Literal

from edged.errors import RecordRefusedError, SinkError
from edged.files import write_durably
from edged.results import Record
from edged.settings import AbsolutePath, Place, SinkTable
from edged.sinks.contract import SinkContext, SinkType

_MAX_BYTES: Final = 10_000


class LatestTable(SinkTable):
    """The keys of its `[[sinks]]` table, beside those that every sink has."""

    type: Literal["latest"]
    path: AbsolutePath

    def places(self) -> list[Place]:
        return [Place("path", self.path, "output")]


class Latest:
    """Writes the last of the records that it is given; it has then taken them all."""

    def __init__(self, table: LatestTable, context: SinkContext) -> None:
        self.name, self._path = table.name, table.path

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        for taken, record in enumerate(records):
            line = record.to_json().encode("ascii")
            if len(line) > _MAX_BYTES:  # trying again will not make it shorter
                if taken:
                    return taken
                raise RecordRefusedError(f"a record of {len(line)} bytes is more than {_MAX_BYTES}")
        try:
            write_durably(self._path, line)
        except OSError as error:  # this may pass
            raise SinkError(f"{self._path} cannot be written: {error.strerror}") from error
        return len(records)

    def close(self) -> None:
        pass


TYPE: Final = SinkType(LatestTable, Latest)

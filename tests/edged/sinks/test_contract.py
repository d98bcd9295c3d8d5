"""What every type of sink that takes records promises: one row of keys each, and the same tests for all."""

import csv
import io
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from edged.errors import RecordRefusedError, SinkError
from edged.results import Record
from edged.settings import RetentionTable, SinkTable
from edged.sinks import SINKS
from edged.sinks.contract import PictureSink, RecordSink, SinkContext
from tests.edged.making import quarantined, record
from tests.edged.sinks.alerting import Alertmanager
from tests.edged.sinks.plc import PlcReader
from tests.edged.sinks.receiving import Program, Subscriber, WebhookReceiver
from tests.templates import latest


class OnDisk:
    """Where a sink puts what it takes: a file or folder of its own."""

    def __init__(self, folder: Path, read: Callable[[str], list[str]] = lambda _: []) -> None:
        self.place, self._read = folder / "place", read
        self.where = str(self.place)

    def keys(self, kind: str) -> dict[str, Any]:
        return {"dir" if kind == "images" else "path": str(self.place)}

    def ids(self) -> list[str]:
        """Of the records that arrived, or of the last of them."""
        return self._read(self.place.read_text("ascii"))

    def end(self) -> None:
        self.place.mkdir()  # a folder stands where its file belongs

    def begin_again(self) -> None:
        self.place.rmdir()

    def close(self) -> None:
        pass


class Receiver(Protocol):
    where: str

    def keys(self, kind: str) -> dict[str, Any]: ...
    def ids(self) -> list[str]: ...
    def end(self) -> None: ...
    def begin_again(self) -> None: ...
    def close(self) -> None: ...


TYPES = {**SINKS, "latest": latest.TYPE}
RECEIVERS: dict[str, Callable[[Path], Receiver]] = {
    "alertmanager": lambda folder: Alertmanager(folder / "alertmanager"),
    "csv": lambda folder: OnDisk(folder, lambda text: [row["id"] for row in csv.DictReader(io.StringIO(text))]),
    "exec": Program,
    "images": OnDisk,
    "jsonl": lambda folder: OnDisk(folder, lambda text: [json.loads(line)["id"] for line in text.splitlines()]),
    "latest": lambda folder: OnDisk(folder, lambda text: [json.loads(text)["id"]]),
    "mqtt": Subscriber,
    "opcua": PlcReader,
    "webhook": WebhookReceiver,
}
"""What is at the other end of each type of sink."""


def test_every_type_is_tested() -> None:
    assert RECEIVERS.keys() == TYPES.keys()


class Harness:
    """A sink, and what is at its other end."""

    def __init__(self, name: str, folder: Path) -> None:
        self.kind, self.name, self.folder = TYPES[name], name, folder
        self.receiver = RECEIVERS[name](folder)
        self._made: list[RecordSink] = []

    def table(self, **keys: Any) -> SinkTable:
        table = self.kind.table.model_validate(
            {"name": "out", "type": self.name, **self.receiver.keys(self.name), **keys}
        )
        assert table.problems() == []
        return table

    def make(self, table: SinkTable | None = None) -> RecordSink | PictureSink:
        context = SinkContext(self.folder / "state", RetentionTable(), ["line1"])
        one = self.kind.make(table or self.table(), context)
        if isinstance(one, RecordSink):
            self._made.append(one)
        return one

    def sink(self, table: SinkTable | None = None) -> RecordSink:
        one = self.make(table)
        assert isinstance(one, RecordSink)
        return one

    def close(self) -> None:
        for one in self._made:
            one.close()
        self.receiver.close()


@pytest.fixture
def harness(name: str, tmp_path: Path) -> Iterator[Harness]:
    one = Harness(name, tmp_path)
    yield one
    one.close()


every_type = pytest.mark.parametrize("name", sorted(TYPES))
every_type_of_records = pytest.mark.parametrize("name", sorted(set(TYPES) - {"images"}))


@every_type
def test_a_sink_is_of_one_kind(harness: Harness) -> None:
    one = harness.make()
    assert isinstance(one, RecordSink) != isinstance(one, PictureSink)
    assert one.name == "out"
    if isinstance(harness.receiver, OnDisk):
        assert [place.path for place in harness.table().places()] == [harness.receiver.place]


@every_type
def test_its_table_has_what_every_sink_has(harness: Harness) -> None:
    table = harness.table(only="anomalies", min_score=1.5, rate_limit=10, timeout_seconds=5.0, max_backlog=7)
    assert (table.only, table.min_score, table.rate_limit) == ("anomalies", 1.5, 10)


def anomaly() -> Record:
    """Of which every type of sink has something to tell."""
    return record(is_anomaly=True, score=2.5)


def publish_all(one: RecordSink, records: Sequence[Record]) -> None:
    left = list(records)
    while left:
        taken = one.publish(left, 250.0)  # the first time, to listen takes long where much is going on
        assert 1 <= taken <= len(left)
        del left[:taken]


@every_type_of_records
def test_it_takes_records_in_order_and_says_how_many(harness: Harness) -> None:
    records = [record(), quarantined(), anomaly()]
    publish_all(harness.sink(), records)
    had = harness.receiver.ids()
    assert had == [item.id for item in records][-len(had) :]


@every_type_of_records
def test_the_same_records_may_come_again_after_a_crash(harness: Harness) -> None:
    one, records = harness.sink(), [anomaly(), anomaly()]
    for _ in range(2):
        publish_all(one, records)
    one.close()
    newest = anomaly()
    publish_all(harness.sink(), [newest])
    assert harness.receiver.ids()[-1] == newest.id


@every_type_of_records
def test_what_passes_is_told_from_what_stays_and_it_works_again(harness: Harness) -> None:
    table, oldest = harness.table(), anomaly()
    harness.receiver.end()
    one = harness.sink(table)
    began = time.monotonic()
    with pytest.raises(SinkError) as caught:
        one.publish([oldest], 10.0)
    assert not isinstance(caught.value, RecordRefusedError)
    assert harness.receiver.where in str(caught.value)
    assert time.monotonic() - began < 10
    harness.receiver.begin_again()
    newest = anomaly()
    publish_all(one, [newest])
    # What a broker's client has taken when the broker has just gone is sent when it is back.
    assert harness.receiver.ids() in ([newest.id], [oldest.id, newest.id])


@every_type_of_records
def test_it_may_be_closed_before_it_was_used_and_twice(harness: Harness) -> None:
    one = harness.sink()
    one.close()
    one.close()

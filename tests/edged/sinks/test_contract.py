"""What every type of sink that takes records promises: one row of keys each, and the same tests for all."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.errors import RecordRefusedError, SinkError
from edged.results import Record
from edged.settings import RetentionTable
from edged.sinks import SINKS
from edged.sinks.contract import PictureSink, RecordSink, SinkContext, SinkType
from tests.edged.making import quarantined, record
from tests.templates import latest

TYPES = {**SINKS, "latest": latest.TYPE}
KEYS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "images": lambda folder: {"dir": str(folder / "place")},
    "jsonl": lambda folder: {"path": str(folder / "place")},
    "latest": lambda folder: {"path": str(folder / "place")},
}
READ: dict[str, Callable[[Path], list[str]]] = {
    "jsonl": lambda folder: [json.loads(line)["id"] for line in (folder / "place").read_text("ascii").splitlines()],
    "latest": lambda folder: [json.loads((folder / "place").read_text("ascii"))["id"]],
}
"""The ids that a sink has, of those it was given last."""


def test_every_type_is_tested() -> None:
    assert KEYS.keys() == TYPES.keys()


def make(kind: SinkType, name: str, folder: Path) -> RecordSink | PictureSink:
    table = kind.table.model_validate({"name": "out", "type": name, **KEYS[name](folder)})
    assert table.places()[0].path == folder / "place"
    assert table.problems() == []
    return kind.make(table, SinkContext(folder / "state", RetentionTable()))


@pytest.fixture(params=sorted(READ))
def sink(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, RecordSink]]:
    one = make(TYPES[request.param], request.param, tmp_path)
    assert isinstance(one, RecordSink)
    yield request.param, one
    one.close()


@pytest.mark.parametrize("name", sorted(TYPES))
def test_a_sink_is_of_one_kind(name: str, tmp_path: Path) -> None:
    one = make(TYPES[name], name, tmp_path)
    assert isinstance(one, RecordSink) != isinstance(one, PictureSink)
    assert one.name == "out"


def test_it_takes_records_in_order_and_says_how_many(sink: tuple[str, RecordSink], tmp_path: Path) -> None:
    name, one = sink
    records = [record(), quarantined(), record(is_anomaly=True)]
    given: list[Record] = []
    while len(given) < 3:
        taken = one.publish(records[len(given) :], 10.0)
        assert 1 <= taken <= 3 - len(given)
        given += records[len(given) : len(given) + taken]
    had = READ[name](tmp_path)
    assert had == [item.id for item in records][-len(had) :]


def test_the_same_records_may_come_again_after_a_crash(sink: tuple[str, RecordSink], tmp_path: Path) -> None:
    name, one = sink
    records = [record(), record()]
    for _ in range(2):
        assert one.publish(records, 10.0) == 2
    one.close()
    again = make(TYPES[name], name, tmp_path)
    assert isinstance(again, RecordSink)
    newest = record()
    assert again.publish([newest], 10.0) == 1
    assert READ[name](tmp_path)[-1] == newest.id
    again.close()


def test_what_passes_is_told_from_what_stays_and_it_works_again(sink: tuple[str, RecordSink], tmp_path: Path) -> None:
    name, one = sink
    (tmp_path / "place").mkdir()  # a folder stands where its file belongs
    began = time.monotonic()
    with pytest.raises(SinkError) as caught:
        one.publish([record()], 10.0)
    assert not isinstance(caught.value, RecordRefusedError)
    assert str(tmp_path / "place") in str(caught.value)
    assert time.monotonic() - began < 10
    (tmp_path / "place").rmdir()
    newest = record()
    assert one.publish([newest], 10.0) == 1
    assert READ[name](tmp_path) == [newest.id]


def test_it_may_be_closed_before_it_was_used_and_twice(sink: tuple[str, RecordSink]) -> None:
    sink[1].close()
    sink[1].close()

"""Sinks that fail, break, hang and refuse: what the publisher makes of it, on a real journal."""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from edged.errors import RecordRefusedError, SinkError
from edged.journal.journal import MAX_DEAD_LETTERS, Journal
from edged.journal.reading import read_dead_letters
from edged.results import Record
from edged.service.metrics import Metrics
from edged.service.publisher import Publisher
from edged.settings import SinkTable
from tests.edged.making import entry, record, until


class Scripted:
    """A sink (`edged.sinks.contract.RecordSink`) that does what it is told to before it takes anything."""

    name = "out"

    def __init__(self, before: Callable[[Sequence[Record]], None] = lambda _: None, at_most: int = 10**9) -> None:
        self._before, self._at_most = before, at_most
        self.taken: list[str] = []
        self.calls = 0
        self.closed = False

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        self.calls += 1
        self._before(records)
        self.taken += [one.id for one in records[: self._at_most]]
        return min(len(records), self._at_most)

    def close(self) -> None:
        self.closed = True


class Outbox:
    """A journal with records that wait for one sink."""

    def __init__(self, root: Path) -> None:
        self.root, self.journal, self.metrics = root, Journal(root), Metrics(CollectorRegistry())
        self.journal.add_sink("out")
        self.publisher: Publisher | None = None

    def fill(self, count: int) -> list[str]:
        entries = [entry(path=f"/in/{number}.png") for number in range(count)]
        self.journal.commit(entries)
        return [one.record.id for one in entries if one.record is not None]

    def feed(self, sink: Scripted, **options: Any) -> Publisher:
        self.publisher = Publisher(sink, SinkTable(name="out", type="test", **options), self.journal, self.metrics)
        self.publisher.start()
        return self.publisher

    def value(self, name: str) -> float:
        return self.metrics.registry.get_sample_value(name, {"sink": "out"}) or 0.0

    def empty(self) -> bool:
        return self.journal.backlog("out") == 0


@pytest.fixture
def outbox(tmp_path: Path) -> Iterator[Outbox]:
    one = Outbox(tmp_path)
    yield one
    if one.publisher is not None:
        one.publisher.ask_to_stop()
        one.publisher.join()
    one.journal.close()


def test_a_sink_that_takes_a_part_is_given_the_rest(outbox: Outbox) -> None:
    ids, sink = outbox.fill(10), Scripted(at_most=3)
    outbox.feed(sink)
    until(outbox.empty, "the outbox to be empty")
    assert sink.taken == ids
    assert sink.calls == 4
    assert outbox.value("edged_sink_failures_total") == 0


def test_a_record_that_is_refused_is_set_aside_and_holds_up_no_other(outbox: Outbox) -> None:
    ids, busy = outbox.fill(5), [True]

    def refuse(records: Sequence[Record]) -> None:
        if records[0].id == ids[0]:
            raise RecordRefusedError("no such recipe")
        if busy:
            busy.clear()
            raise SinkError("busy")  # this passes

    sink = Scripted(refuse)
    outbox.feed(sink)
    until(outbox.empty, "the outbox to be empty")
    assert sink.taken == ids[1:]
    (letter,) = read_dead_letters(outbox.root)
    assert (letter.sink, letter.error) == ("out", "no such recipe")
    assert json.loads(letter.record)["id"] == ids[0]
    assert outbox.value("edged_sink_dead_letters_total") == 1
    assert outbox.value("edged_sink_failures_total") == 1


def test_a_record_that_breaks_the_sink_is_found_among_the_others(outbox: Outbox) -> None:
    ids = outbox.fill(7)

    def break_on(records: Sequence[Record]) -> None:
        if any(one.id == ids[4] for one in records):
            raise TypeError("cannot serialise")

    sink = Scripted(break_on)
    outbox.feed(sink)
    until(outbox.empty, "the outbox to be empty", 60)
    assert sink.taken == [*ids[:4], *ids[5:]]
    assert [letter.error for letter in read_dead_letters(outbox.root)] == ["TypeError: cannot serialise"]


def test_beyond_its_bound_the_oldest_records_are_dropped_and_counted(outbox: Outbox) -> None:
    ids, mended = outbox.fill(50), threading.Event()

    def down(_: Sequence[Record]) -> None:
        if not mended.is_set():
            raise SinkError("it is down")

    sink = Scripted(down)
    outbox.feed(sink, max_backlog=20)
    until(lambda: outbox.value("edged_sink_dropped_total") == 30, "what is too much to be dropped")
    assert outbox.journal.backlog("out") == 20
    mended.set()
    until(outbox.empty, "the outbox to be empty")
    assert sink.taken == ids[30:]


def test_the_bound_holds_for_a_sink_that_is_too_slow(outbox: Outbox) -> None:
    ids, sink = outbox.fill(2000), Scripted(at_most=10)
    outbox.feed(sink, max_backlog=600)
    until(outbox.empty, "the outbox to be empty")
    assert sink.taken == [*ids[:10], *ids[-600:]]
    assert outbox.value("edged_sink_dropped_total") == 2000 - 610
    assert outbox.value("edged_sink_failures_total") == 0


def test_a_sink_that_hangs_does_not_hold_up_the_stop(outbox: Outbox) -> None:
    ids, gate, hung = outbox.fill(3), threading.Event(), threading.Event()

    def hang(_: Sequence[Record]) -> None:
        hung.set()
        gate.wait()

    publisher = outbox.feed(Scripted(hang), timeout_seconds=0.2)
    assert hung.wait(30)
    began = time.monotonic()
    publisher.ask_to_stop()
    publisher.join()
    assert time.monotonic() - began < 5
    assert publisher.thread.is_alive()
    assert [one.id for _, one in outbox.journal.undelivered("out", 9)] == ids  # it comes after the next start
    gate.set()
    publisher.thread.join(30)


def test_a_long_backlog_does_not_hold_up_the_stop(outbox: Outbox) -> None:
    outbox.fill(2000)
    slow = Scripted(lambda records: time.sleep(0.05), at_most=10)  # the sink is what takes its time
    publisher = outbox.feed(slow, timeout_seconds=0.3)
    until(lambda: slow.calls, "a first call")
    began = time.monotonic()
    publisher.ask_to_stop()
    publisher.join()
    assert time.monotonic() - began < 5
    assert not publisher.thread.is_alive()
    assert slow.closed
    assert 0 < outbox.journal.backlog("out") < 2000


def test_dead_letters_are_bounded(outbox: Outbox) -> None:
    assert MAX_DEAD_LETTERS == 10_000
    one = record(error="x")
    with outbox.journal.transaction() as db:
        db.executemany(
            "INSERT INTO dead_letters VALUES ('out', ?, 1.0, 'no', '{}')", ((seq,) for seq in range(1, 10_001))
        )
    outbox.journal.set_dead("out", 20_000, one, "no")
    assert outbox.journal.dead_letters("out") == 10_000


def test_what_a_sink_does_not_want_is_passed_over(outbox: Outbox) -> None:
    kinds = [{}, {"score": 2.0, "is_anomaly": True}, {"score": 9.0, "is_anomaly": True}, {}, {}]
    entries = [entry(**kind) for _ in range(300) for kind in kinds]
    outbox.journal.commit(entries)
    sink = Scripted(at_most=7)
    outbox.feed(sink, only="anomalies", min_score=5.0)
    until(outbox.empty, "the outbox to be empty")
    assert sink.taken == [one.record.id for one in entries if one.record is not None and one.record.score == 9.0]


def test_a_crash_among_what_is_passed_over_loses_nothing(outbox: Outbox) -> None:
    entries = [entry(is_anomaly=number % 3 == 0) for number in range(100)]
    outbox.journal.commit(entries)
    wanted = [one.record.id for one in entries if one.record is not None and one.record.is_anomaly]
    sink = Scripted(at_most=2)
    for _ in range(3):  # one try each, as by publishers that die
        publisher = Publisher(
            sink, SinkTable(name="out", type="test", only="anomalies"), outbox.journal, outbox.metrics
        )
        publisher._offer(outbox.journal.undelivered("out", 50), 1.0)
    assert sink.taken == wanted[:6]
    outbox.feed(sink, only="anomalies")
    until(outbox.empty, "the outbox to be empty")
    assert sink.taken == wanted


def test_a_rate_limit_lets_records_wait_and_a_stop_does_not(outbox: Outbox) -> None:
    ids, sink = outbox.fill(50), Scripted()
    publisher = outbox.feed(sink, rate_limit=20, max_backlog=25)
    until(lambda: outbox.value("edged_sink_dropped_total") == 5, "what is too much to be dropped")
    assert sink.taken == ids[:20]
    assert outbox.journal.backlog("out") == 25
    assert outbox.value("edged_sink_failures_total") == 0
    began = time.monotonic()
    publisher.ask_to_stop()
    publisher.join()
    assert time.monotonic() - began < 5
    assert sink.closed
    assert sink.taken == ids[:20]
    assert [one.id for _, one in outbox.journal.undelivered("out", 50)] == ids[25:]

import json
import os
import sqlite3
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from PIL import Image
from prometheus_client import CollectorRegistry

from edged.errors import PictureError, SinkError
from edged.journal.journal import Journal, Statement, remember
from edged.journal.reading import read_results
from edged.journal.schema import FILE
from edged.media.imaging import Decoded, ImageInput, Limits
from edged.models.scorer import Scorer
from edged.results import Record, new_id
from edged.service.metrics import Metrics
from edged.service.pipeline import Pipeline
from edged.service.publisher import Publisher
from edged.settings import SinkTable
from edged.sinks.contract import RecordSink
from edged.sinks.images import ImagesSink, ImagesTable
from edged.sinks.jsonl import JsonlSink, JsonlTable
from edged.sources.contract import Delivery, Scored, Settlement, Step, StreamDelivery, WhenFull
from tests.conftest import TINY
from tests.edged.making import BAD_SCORE, bad, encode, entry, good, until


class Given:
    """A delivery (`edged.sources.contract.Delivery`) of a file that `Script` was told to hand over."""

    def __init__(self, script: "Script", path: Path) -> None:
        self._script, self._name, self.path = script, path.name, str(path)
        self.id, self.source, self.captured_at, self.found_at = new_id(), script.name, 0.0, 0.0

    def open(self) -> BinaryIO | Decoded | None:
        if self._name in self._script.refused:
            raise PictureError("unreadable", "cannot be opened: Permission denied")
        if self._name in self._script.pixels:
            return self._script.pixels[self._name]
        return None if self._name in self._script.gone else open(self.path, "rb", buffering=0)  # type: ignore[return-value]

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:
        if self._name in self._script.deferred and error is not None:
            self._script.deferred[self._name] = error
            return Settlement.AGAIN
        if self._name in self._script.changed:
            return Settlement.AGAIN
        return Settlement.SEEN if self._name in self._script.repeated else Settlement.RECORD

    def statements(self, record: Record | None) -> list[Statement]:
        return [remember(self.source, self._name, b"seen" if record is None else record.id.encode())]

    def acknowledge(self, record: Record | None) -> None:
        (self._script.seen if record is None else self._script.records).append(record)  # type: ignore[arg-type]

    def give_back(self) -> None:
        self._script.released.append(self._name)


class Script:
    """A source (`edged.sources.contract.Source`) that hands over the files that it is told to."""

    when_full: WhenFull = "wait"
    makes = Given

    def __init__(self, name: str, *paths: Path) -> None:
        self.name, self.wake = name, threading.Event()
        self.todo = list(paths)
        self.records: list[Record] = []
        self.seen: list[None] = []
        self.released: list[str] = []
        self.gone: set[str] = set()
        self.refused: set[str] = set()
        self.changed: set[str] = set()
        self.repeated: set[str] = set()
        self.deferred: dict[str, PictureError] = {}
        self.pixels: dict[str, Decoded] = {}
        self.failures = 0
        self.runs = 0

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        self.runs += 1
        if self.failures:
            self.failures -= 1
            raise RuntimeError("the scanner broke")
        while not stop.is_set():
            while self.todo and hand_over(self.makes(self, self.todo[0])):
                self.todo.pop(0)
            self.wake.wait()
            self.wake.clear()

    def give(self, *paths: Path) -> None:
        self.todo += paths
        self.wake.set()

    def pending(self) -> tuple[int, float | None]:
        return len(self.todo), None


class Collector:
    """A sink (`edged.sinks.contract.RecordSink`) that fails as often as it is told to."""

    def __init__(self, name: str, failures: int = 0) -> None:
        self.name, self.failures = name, failures
        self.records: list[Record] = []
        self.closed = False

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        if self.failures:
            self.failures -= 1
            raise SinkError("it is full")
        self.records += records
        return len(records)

    def close(self) -> None:
        self.closed = True


class Works:
    """A pipeline that runs."""

    def __init__(self, root: Path) -> None:
        self.root, self.journal = root, Journal(root / "state")
        self.metrics = Metrics(CollectorRegistry())
        self.scorer = Scorer.load(TINY, device="cpu")
        self.pipeline: Pipeline | None = None

    def start(self, *sources: Script, sinks: Sequence[RecordSink] = (), images: Sequence[ImagesSink] = ()) -> Pipeline:
        self.metrics.declare(onnxruntime="1", sources={source.name: "tiny" for source in sources}, sinks=[])
        self.pipeline = Pipeline(
            journal=self.journal,
            metrics=self.metrics,
            limits=Limits(max_bytes=100_000),
            workers=2,
            publishers=[
                Publisher(sink, SinkTable(name=sink.name, type="test"), self.journal, self.metrics) for sink in sinks
            ],
            picture_sinks=images,
        )
        self.pipeline.start()
        self.pipeline.set_scorers({source.name: self.scorer for source in sources})
        for source in sources:
            self.pipeline.add_source(source)
        return self.pipeline

    def publisher(self, sink: RecordSink, **options: Any) -> Publisher:
        return Publisher(sink, SinkTable(name=sink.name, type="test", **options), self.journal, self.metrics)

    def stop(self) -> None:
        if self.pipeline is not None:
            self.pipeline.stop(10.0)
            self.pipeline = None

    def rows(self) -> list[Record]:
        return list(read_results(self.root / "state"))

    def write(self, count: int, prefix: str = "good") -> list[Path]:
        paths = [self.root / f"{prefix}-{number:03}.png" for number in range(count)]
        for number, path in enumerate(paths):
            path.write_bytes(good(number))
        return paths

    def value(self, name: str, **labels: str) -> float | None:
        return self.metrics.registry.get_sample_value(name, labels)


@pytest.fixture
def works(tmp_path: Path) -> Iterator[Works]:
    one = Works(tmp_path)
    yield one
    one.stop()
    one.journal.close()


def test_arrivals_become_rows_entries_and_counts(works: Works) -> None:
    paths = works.write(20)
    (works.root / "bad.png").write_bytes(bad())
    (works.root / "broken.png").write_bytes(b"x")
    (works.root / "long.png").write_bytes(bytes(100_001))
    source = Script("line1", *paths, *(works.root / name for name in ("bad.png", "broken.png", "long.png")))
    works.start(source)
    until(lambda: len(source.records) == 23, "23 entries")
    works.stop()
    rows = {os.path.basename(row.path): row for row in works.rows()}
    assert len(rows) == 23
    assert rows["bad.png"].score == pytest.approx(BAD_SCORE, rel=1e-5)
    assert rows["bad.png"].is_anomaly is True
    assert rows["broken.png"].reason == "undecodable"
    assert rows["long.png"].reason == "file_too_large"
    assert rows["long.png"].sha256 is None
    assert sorted(one.id for one in source.records) == sorted(row.id for row in rows.values())
    assert works.value("edged_images_total", source="line1", outcome="ok") == 20
    assert works.value("edged_images_total", source="line1", outcome="anomaly") == 1
    assert works.value("edged_images_total", source="line1", outcome="quarantined") == 2
    assert works.value("edged_quarantined_total", source="line1", reason="file_too_large") == 1
    assert works.value("edged_stage_duration_seconds_count", stage="decode") == 23
    assert works.value("edged_stage_duration_seconds_count", stage="infer") == 21
    commits = works.value("edged_stage_duration_seconds_count", stage="commit") or 0
    assert 1 <= commits <= 23  # many at once, where the disk is slower than the model
    assert works.value("edged_score_ratio_count", source="line1", model="tiny") == 21
    assert set(rows["bad.png"].timings_ms) == {"decode", "infer"}


def test_a_picture_of_another_shape_is_scored_and_counted(works: Works) -> None:
    view = works.scorer.view
    assert isinstance(view.trained, ImageInput)
    works.scorer = replace(works.scorer, view=replace(view, trained=replace(view.trained, source=(64, 32))))
    source = Script("line1", *works.write(3))
    works.start(source)
    until(lambda: len(source.records) == 3, "3 entries")
    assert works.value("edged_images_total", source="line1", outcome="ok") == 3
    assert works.value("edged_other_shape_total", source="line1") == 3


def test_what_is_not_recorded_is_given_back(works: Works) -> None:
    paths = works.write(6)
    names = [path.name for path in paths]
    source = Script("line1", *paths)
    source.gone, source.changed, source.repeated = {names[0]}, {names[1]}, {names[2]}
    source.refused, source.deferred = {names[3], names[4]}, {names[3]: PictureError("empty", "")}
    works.start(source)
    until(lambda: len(source.records) == 2, "two records")
    until(lambda: len(source.released) == 3, "three to be given back")
    until(lambda: source.seen == [None], "one that was seen before")
    assert works.journal.remembered("line1", names[2]) == b"seen"  # what a source remembers needs no record
    assert works.journal.remembered("line1", names[5]) == source.records[-1].id.encode()
    works.stop()
    rows = {os.path.basename(row.path): row for row in works.rows()}
    assert set(rows) == {names[4], names[5]}
    assert (rows[names[4]].reason, rows[names[4]].sha256) == ("unreadable", None)
    assert sorted(source.released) == [names[0], names[1], names[3]]
    assert source.deferred[names[3]].reason == "unreadable"


def test_a_source_may_hand_over_pixels(works: Works) -> None:
    (path,) = works.write(1)
    source = Script("camera", path)
    source.pixels[path.name] = Decoded(np.full((32, 32, 1), 160, np.uint8), 640, 480, "L", 1)
    works.start(source)
    until(lambda: len(source.records) == 1, "its record")
    works.stop()
    (row,) = works.rows()
    assert row.score == pytest.approx(0.51)
    assert row.sha256 is None
    assert works.value("edged_stage_duration_seconds_count", stage="decode") == 0


def test_a_flood_on_one_source_does_not_starve_another(works: Works) -> None:
    flood, trickle = Script("flood", *works.write(300, "flood")), Script("trickle")
    works.start(flood, trickle)
    until(lambda: len(flood.records) >= 20, "the flood")
    trickle.give(*works.write(3, "trickle"))
    until(lambda: len(trickle.records) == 3, "the trickle")
    assert len(flood.records) < 300
    until(lambda: len(flood.records) == 300, "the rest")


def test_sinks_get_every_row_in_order_and_a_failing_one_delays_no_other(works: Works) -> None:
    failing, fine, source = Collector("failing", failures=2), Collector("fine"), Script("line1", *works.write(30))
    works.start(source, sinks=[failing, fine])
    until(lambda: len(fine.records) == 30, "the sink that works")
    until(lambda: len(failing.records) == 30, "the other")
    works.stop()
    rows = works.rows()
    assert fine.records == rows
    assert failing.records == rows
    assert works.value("edged_sink_failures_total", sink="failing") == 2
    assert works.value("edged_sink_failures_total", sink="fine") is None
    assert fine.closed
    assert failing.closed


def test_a_sink_that_is_down_costs_bounded_memory_and_gets_all_in_order(works: Works) -> None:
    class Measuring(Collector):
        """Fails, and says how much it was given at a time."""

        def __init__(self) -> None:
            super().__init__("lines")
            self.down, self.tries, self.most = True, 0, 0

        def publish(self, records: Sequence[Record], timeout_s: float) -> int:
            self.tries += 1
            self.most = max(self.most, len(records))
            if self.down:
                raise SinkError("it is down")
            return super().publish(records, timeout_s)

    sink, source = Measuring(), Script("line1")
    works.journal.add_sink("lines")
    tracemalloc.start()
    try:
        for _ in range(12):  # 24 MB of rows wait
            works.journal.commit([entry(error="x" * 4000) for _ in range(500)])
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        works.start(source, sinks=[sink])
        until(lambda: sink.tries >= 2, "two tries")
        source.give(*works.write(10))
        until(lambda: len(source.records) == 10, "what arrives meanwhile to be scored")
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert sink.most == 500
    assert peak < 12_000_000
    assert works.journal.backlog("lines") == 6010
    sink.down = False
    until(lambda: works.journal.backlog("lines") == 0, "the outbox to be empty")
    assert [record.id for record in sink.records] == [row.id for row in works.rows()]


def test_a_sink_that_was_cut_off_before_it_was_noted_gets_the_same_again_in_order(works: Works) -> None:
    path = works.root / "lines.jsonl"
    works.journal.add_sink("lines")
    works.journal.commit([entry() for _ in range(700)])
    first = JsonlSink(
        JsonlTable(name="lines", type="jsonl", path=path)
    )  # a daemon that dies between the line and the note of it
    first.publish([record for _, record in works.journal.undelivered("lines", 500)], 10.0)
    first.close()
    with path.open("ab") as file:
        file.write(b'{"id": "half a li')
    works.start(Script("line1"), sinks=[JsonlSink(JsonlTable(name="lines", type="jsonl", path=path))])
    until(lambda: works.journal.backlog("lines") == 0, "the outbox to be empty")
    works.stop()
    ids = [json.loads(line)["id"] for line in path.read_text("ascii").splitlines()]
    rows = [row.id for row in works.rows()]
    assert ids == rows[:500] + rows
    assert list(dict.fromkeys(ids)) == rows


def test_a_sink_gets_what_is_left_when_it_stops(works: Works) -> None:
    sink, source = Collector("lines"), Script("line1", *works.write(50))
    works.start(source, sinks=[sink])
    until(lambda: source.records, "a first entry")
    works.stop()
    assert sink.records == works.rows()
    assert len(works.rows()) == len(source.records) >= 1


def test_overlays_that_cannot_be_written_cost_no_result(works: Works) -> None:
    (works.root / "file").write_text("")
    images = ImagesSink(
        ImagesTable(name="pictures", type="images", dir=works.root / "file", only="all"), max_bytes=10**9
    )
    source = Script("line1", *works.write(5))
    works.start(source, images=[images])
    until(lambda: len(source.records) == 5, "five entries")
    assert works.value("edged_sink_failures_total", sink="pictures") == 5


def test_overlays_stand_before_the_row_does_and_those_of_no_row_go(works: Works) -> None:
    folder = works.root / "overlays"
    folder.mkdir()
    (folder / f"{'0' * 26}.png").write_bytes(b"of a result that never became durable")
    images = ImagesSink(ImagesTable(name="pictures", type="images", dir=folder, only="all"), max_bytes=10**9)
    source = Script("line1", *works.write(5))
    works.start(source, images=[images])
    until(lambda: len(source.records) == 5, "five entries")
    assert {path.stem for path in folder.iterdir()} == {row.id for row in works.rows()}


def test_a_source_that_fails_is_started_again(works: Works) -> None:
    source = Script("line1", *works.write(2))
    source.failures = 1
    pipeline = works.start(source)
    until(pipeline.problems, "a trouble")
    assert list(pipeline.problems().values()) == ["source line1 failed: the scanner broke"]
    until(lambda: len(source.records) == 2, "its pictures")
    assert source.runs == 2


def test_a_picture_that_the_model_fails_on_holds_up_no_other(works: Works) -> None:
    pytest.importorskip("onnx")
    from tests import tiny_kinds

    works.scorer = Scorer.load(tiny_kinds.fragile(works.root / "fragile"), device="cpu")
    golden = works.root / "fragile" / "golden.npz"
    right = golden.read_bytes()
    poison = works.root / "poison.png"
    poison.write_bytes(encode(Image.new("L", (32, 32), 255)))
    first, *others = works.write(9)
    source, other = Script("line1", first, poison, *others), Script("line2", *works.write(3, "other"))
    golden.write_bytes(right[:-1])  # while nobody can tell whether the picture is to blame or the model, all wait
    pipeline = works.start(source, other)
    until(pipeline.problems, "a trouble")
    assert "scoring failed" in next(iter(pipeline.problems().values()))
    assert "golden.npz is damaged" in next(iter(pipeline.problems().values()))
    golden.write_bytes(right)
    until(lambda: (len(source.records), len(other.records)) == (10, 3), "everything", 60)
    assert not pipeline.problems()
    (row,) = [row for row in works.rows() if row.status != "ok"]
    assert (Path(row.path), row.reason) == (poison, "model_failed")
    assert "ONNX Runtime fails" in row.error


def test_a_journal_that_fails_is_waited_for(works: Works) -> None:
    source = Script("line1", *works.write(40))
    other = sqlite3.connect(works.root / "state" / FILE, timeout=30)
    other.execute("ALTER TABLE results RENAME TO away")
    pipeline = works.start(source)
    until(pipeline.problems, "a trouble")
    assert "results cannot be made durable" in next(iter(pipeline.problems().values()))
    until(lambda: len(source.todo) == 0, "as many claims as there is room for")
    until(lambda: pipeline.stuck(0.5) == [], "nobody to count as stuck")
    threading.Event().wait(0.6)
    assert pipeline.stuck(0.5) == []  # waiting for the disk is not being stuck
    assert source.records == []
    other.execute("ALTER TABLE away RENAME TO results")
    other.close()
    until(lambda: len(source.records) == 40, "everything", 60)
    assert len(works.rows()) == 40
    until(lambda: not pipeline.problems(), "the end of the trouble")


def test_stopping_while_the_journal_fails_records_nothing_twice(works: Works) -> None:
    source = Script("line1", *works.write(10))
    other = sqlite3.connect(works.root / "state" / FILE, timeout=30)
    other.execute("ALTER TABLE results RENAME TO away")
    pipeline = works.start(source)
    until(pipeline.problems, "a trouble")
    works.stop()
    assert source.records == []
    other.execute("ALTER TABLE away RENAME TO results")
    other.close()
    assert works.rows() == []


def test_a_source_comes_and_goes(works: Works) -> None:
    first, second = Script("line1", *works.write(3, "a")), Script("line2", *works.write(3, "b"))
    pipeline = works.start(first, second)
    until(lambda: len(first.records) == len(second.records) == 3, "all")
    assert pipeline.drain(["line1"], 10.0)
    pipeline.remove_source("line1")
    first.give(*works.write(1, "c"))
    second.give(*works.write(1, "d"))
    until(lambda: len(second.records) == 4, "the one that stayed")
    assert len(first.records) == 3
    again = Script("line1", *works.write(2, "e"))
    pipeline.add_source(again)
    until(lambda: len(again.records) == 2, "the one that came back")


def test_what_is_stuck_can_be_asked_while_sources_come_and_go(works: Works) -> None:
    pipeline, done, asked = works.start(*(Script(f"stays{number}") for number in range(20))), threading.Event(), [0]

    def ask() -> None:
        while not done.is_set():
            assert pipeline.stuck(3600) == []
            asked[0] += 1

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(1) as executor:
            asking = executor.submit(ask)
            for number in range(60):
                source = Script(f"line{number}")
                pipeline.add_source(source)
                assert pipeline.drain([source.name], 10)
                pipeline.remove_source(source.name)
            until(lambda: asked[0] > 0 or asking.done(), "an answer")
            done.set()
            asking.result(timeout=30)
    finally:
        done.set()
        sys.setswitchinterval(interval)


class BrokenFrame(Given, StreamDelivery):
    """A frame of a stream whose source makes a mistake."""

    stored, has_picture = False, True

    def follow(self, scored: Scored | None) -> list[Step]:
        raise TypeError("no such event")


def test_a_stream_that_makes_a_mistake_costs_no_other_its_results(works: Works) -> None:
    stream, folder = Script("camera", *works.write(3, "frame")), Script("line1", *works.write(3))
    stream.makes = BrokenFrame
    pipeline = works.start(stream, folder)
    until(lambda: len(folder.records) == 3 and len(stream.records) == 3, "what was handed over")
    assert list(pipeline.problems().values()) == ["what frames lead to is not known: no such event"]
    assert pipeline.stuck(3600) == []
    folder.give(*works.write(5)[3:])
    until(lambda: len(folder.records) == 5, "what came afterwards")


def test_drift_is_of_sources_that_show_what_training_did(works: Works) -> None:
    plain, part = Script("plain"), Script("part")
    pipeline = works.start(plain)
    narrowed = works.scorer.looking_at(roi=(0, 0, 16, 16), mask=None)
    pipeline.set_scorers({"plain": works.scorer, "part": narrowed})
    pipeline.add_source(part)
    labels = {"model": "tiny", "statistic": "psi"}
    assert works.value("edged_score_drift", source="plain", **labels) == 0
    assert works.value("edged_score_drift", source="part", **labels) is None
    pipeline.set_scorers({"plain": narrowed, "part": works.scorer})
    assert works.value("edged_score_drift", source="plain", **labels) is None
    assert works.value("edged_score_drift", source="part", **labels) == 0

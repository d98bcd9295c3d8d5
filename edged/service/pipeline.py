"""The way of a picture, timed, caught and counted: handed over -> decoded, scored, drawn -> durable -> given to sinks.

    source threads --deliveries--> Intake --workers--> a short queue --commit thread--> journal --> publishers

A worker takes one picture through decoding (in another process), scoring and drawing; there are two more of them
than CPUs, so that while some wait for a decoder, a disk or a lock the others score. Every queue is bounded. A delivery
that was taken ends in exactly one way: it is acknowledged when its record is durable, or given back to its source.
What raises unexpectedly is logged and tried again, with pauses that grow to a minute.
"""

import io
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO, Final, TypeVar

import structlog

from edged import failpoints
from edged.errors import PictureError, is_expected
from edged.journal.journal import Entry, Journal
from edged.media.decoding import DecoderPool, DecodingAborted, Outcome
from edged.media.imaging import Decoded, Limits
from edged.models.scorer import Scorer
from edged.models.self_test import SelfTest
from edged.results import QUARANTINED, Frame, Record, Result, display_path, make_record
from edged.service.gathering import Gatherer
from edged.service.intake import Intake
from edged.service.metrics import Metrics
from edged.service.publisher import Publisher
from edged.service.self_tests import SelfTestRunner
from edged.sinks.contract import PictureSink
from edged.sources.contract import Delivery, Scored, Settlement, Source, StreamDelivery

_COMMIT_EVERY_S: Final = 0.02
_COMMIT_EVERY_BUSY_S: Final = 0.1
"""The shortest time between two commits, and that while pictures wait to be scored: they wait longer for that than for
the disk, and a commit costs as much as half a picture. A picture that comes alone does not wait."""

_RECORDS_A_COMMIT: Final = 64
_QUEUED: Final = 64
_OVERLAYS_CHECKED: Final = 1000
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Settled:
    """A delivery that is to be made durable, with its record; None where it was seen before, or is not scored.

    `entry` is None of a frame of a stream, whose source knows what is to be made durable when its turn comes.
    """

    delivery: Delivery
    record: Record | None
    entry: Entry | None
    scored: Scored | None = None


class Pipeline:
    """The workers between sources and sinks."""

    def __init__(
        self,
        *,
        journal: Journal,
        metrics: Metrics,
        limits: Limits,
        workers: int,
        publishers: Sequence[Publisher] = (),
        picture_sinks: Sequence[PictureSink] = (),
    ) -> None:
        """Prepares the workers; `start` starts them."""
        self._journal, self._metrics, self._limits = journal, metrics, limits
        self._pool = DecoderPool(workers, limits)
        self._intake = Intake(_QUEUED, lambda source: metrics.frames_dropped.labels(source).inc())
        self._settled: Gatherer[_Settled] = Gatherer(_RECORDS_A_COMMIT)
        self._picture_sinks = picture_sinks
        self._sources: dict[str, tuple[Source, threading.Event, threading.Thread]] = {}
        self._scorers: Mapping[str, Scorer] = {}
        self._stopping = threading.Event()
        self._problems: dict[str, str] = {}
        self._failing_sinks: set[str] = set()
        self._busy_since: dict[str, float] = {}
        self._self_tests: list[SelfTestRunner] = []
        self._log = structlog.get_logger()
        self._workers = [threading.Thread(target=self._work_loop, name=f"worker-{number}") for number in range(workers)]
        self._committer = threading.Thread(target=self._commit_loop, name="commit")
        self._publishers = publishers

    def start(self) -> None:
        """Starts all workers; sources are added afterwards."""
        for sink in self._picture_sinks:  # a crash between drawing and committing leaves overlays of no result
            try:
                sink.remove(sorted(self._journal.absent(sink.newest(_OVERLAYS_CHECKED))))
            except OSError as error:
                self._log.error("old overlays cannot be removed", sink=sink.name, error=str(error))
        for thread in (*self._workers, self._committer):
            thread.start()
        for publisher in self._publishers:
            publisher.start()

    def set_scorers(self, scorers: Mapping[str, Scorer]) -> None:
        """Sets the scorer of each source, by its name; what is in flight ends with the one that it began with."""
        self._scorers = dict(scorers)

    def add_source(self, source: Source) -> None:
        """Starts a source, whose scorer is set."""
        stop = threading.Event()
        thread = threading.Thread(target=self._source_loop, args=(source, stop), name=f"source-{source.name}")
        self._intake.add_source(source)
        self._metrics.watch_queue(source.name, source.pending)
        self._sources[source.name] = (source, stop, thread)
        thread.start()

    def drain(self, names: Collection[str], patience_s: float) -> bool:
        """Takes no more from sources and waits for what they have in flight; they go on when that takes too long."""
        return self._intake.drain(names, patience_s)

    def remove_source(self, name: str) -> None:
        """Stops a source that is drained."""
        self._intake.remove_source(name)
        source, stop, thread = self._sources.pop(name)
        stop.set()
        source.wake.set()
        thread.join()
        self._problem(f"source-{name}", None)

    def set_self_tests(self, self_tests: Mapping[str, tuple[SelfTest, float]]) -> None:
        """Replaces the self-tests: by the name of their model, each with its interval in seconds."""
        self._end_self_tests()
        self._self_tests = [
            SelfTestRunner(name, self_test, interval_s, self._pool.decode, self._metrics)
            for name, (self_test, interval_s) in self_tests.items()
        ]
        for runner in self._self_tests:
            runner.start()

    def _end_self_tests(self) -> None:
        for runner in self._self_tests:
            runner.ask_to_stop()
        for runner in self._self_tests:
            runner.join()

    def stop(self, patience_s: float) -> None:
        """Takes no more, finishes what is in flight, feeds the sinks within their timeouts, ends every worker.

        Args:
            patience_s: decoders that take longer are killed; their pictures are found again at the next start.
        """
        self._stopping.set()
        for runner in self._self_tests:
            runner.ask_to_stop()
        self._intake.close()
        killer = threading.Timer(patience_s, self._pool.abort)
        killer.start()
        for thread in self._workers:
            _join(thread)
        self._end_self_tests()
        killer.cancel()
        self._settled.close()
        _join(self._committer)
        for source, stop, thread in self._sources.values():
            stop.set()
            source.wake.set()
            _join(thread)
        for publisher in self._publishers:  # all at a time: one that hangs costs no other its last try
            publisher.ask_to_stop()
        for publisher in self._publishers:
            publisher.join()
        self._pool.close()

    def problems(self) -> list[str]:
        """Why pictures are not being taken and scored just now, in words; empty when all is well."""
        return sorted(self._problems.copy().values())

    def stuck(self, longer_than_s: float) -> list[str]:
        """Workers that died, or that have been at one piece of work for too long."""
        publishers = [publisher.thread for publisher in self._publishers]
        sources = [entry[2] for entry in self._sources.copy().values()]  # of one moment: a reload may change them
        threads = [*self._workers, self._committer, *publishers, *sources]
        dead = [thread.name for thread in threads if thread.ident is not None and not thread.is_alive()]
        latest = time.monotonic() - longer_than_s
        return dead + [name for name, since in self._busy_since.copy().items() if since < latest]

    # Sources.

    def _source_loop(self, source: Source, stop: threading.Event) -> None:
        pause = _FIRST_PAUSE_S
        while not stop.is_set():
            began = time.monotonic()
            try:
                source.run(self._intake.hand_over, stop, partial(self._problem, f"source-{source.name}", None))
            except Exception as error:  # noqa: BLE001
                if time.monotonic() - began > _LONGEST_PAUSE_S:
                    pause = _FIRST_PAUSE_S
                self._report(f"source-{source.name}", f"source {source.name} failed", error)
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    # Workers.

    def _work_loop(self) -> None:
        worker = threading.current_thread().name
        while (delivery := self._intake.take()) is not None:
            self._busy_since[worker] = time.monotonic()
            failpoints.reach("claimed")
            try:
                settled = self._work(worker, delivery)
            except DecodingAborted:
                settled = None
                delivery.give_back()
            except Exception as error:  # noqa: BLE001
                settled = None
                self._report(worker, "pictures cannot be decoded", error, path=display_path(delivery.path))
                self._stopping.wait(_FIRST_PAUSE_S)
                delivery.give_back()
            self._busy_since.pop(worker, None)  # waiting for room in the queue is not being stuck
            if settled is None:
                self._intake.done(delivery.source)
            else:
                self._settled.put(settled, hurry=not self._intake.has_waiting())

    def _work(self, worker: str, delivery: Delivery) -> _Settled | None:
        """Takes one delivery through all that comes before the commit; None when it was given back."""
        scorer = self._scorers[delivery.source]
        if isinstance(delivery, StreamDelivery) and not delivery.has_picture:
            return _Settled(delivery, None, None)
        read = self._read(delivery, scorer)
        self._problem(worker, None)
        if read is None:
            delivery.give_back()
            return None
        settlement, outcome = read
        if settlement is Settlement.SEEN:
            return _Settled(delivery, None, Entry(None, delivery.statements(None)))
        scored = self._stubbornly(worker, "scoring failed", partial(self._score, delivery, scorer, outcome))
        if scored is None:
            delivery.give_back()
            return None
        record = scored.record
        if isinstance(delivery, StreamDelivery):
            return _Settled(delivery, record, None, scored)
        return _Settled(delivery, record, Entry(record, delivery.statements(record)))

    def _read(self, delivery: Delivery, scorer: Scorer) -> tuple[Settlement, Outcome] | None:
        """Opens, decodes and settles a delivery; None when it is to be given back."""
        outcome = Outcome(None, None, None, 0.0)
        opened: BinaryIO | Decoded | None
        try:
            opened = delivery.open()
        except PictureError as error:
            outcome = Outcome(None, None, error, 0.0)
        else:
            if opened is None:
                return None
            with nullcontext() if isinstance(opened, Decoded) else opened:
                failpoints.reach("opened")
                outcome = self._decode(opened, scorer)
                failpoints.reach("decoded")
                settlement = delivery.settle(outcome.sha256, outcome.error)
                return None if settlement is Settlement.AGAIN else (settlement, outcome)
        settlement = delivery.settle(None, outcome.error)
        return None if settlement is Settlement.AGAIN else (settlement, outcome)

    def _decode(self, opened: BinaryIO | Decoded, scorer: Scorer) -> Outcome:
        if isinstance(opened, Decoded):
            return Outcome(None, opened, None, 0.0)
        size = opened.seek(0, io.SEEK_END)
        if size > self._limits.max_bytes:
            text = f"{size} bytes are more than limits.max_bytes = {self._limits.max_bytes}"
            outcome = Outcome(None, None, PictureError("file_too_large", text), 0.0)
        else:
            outcome = self._pool.decode(opened, scorer.bundle.manifest.input)
        self._metrics.stage("decode", outcome.seconds)
        return outcome

    def _score(self, delivery: Delivery, scorer: Scorer, outcome: Outcome) -> Scored:
        """Scores what was decoded, and draws what is to be drawn."""
        result: Result | PictureError
        frame = None
        if outcome.decoded is None:
            assert outcome.error is not None
            result = outcome.error
        else:
            if outcome.decoded.pages > 1:
                self._metrics.multi_page.labels(delivery.source).inc()
            frame = Frame(delivery.source, delivery.id, delivery.captured_at, outcome.decoded.pixels)
            result = scorer.score(frame)
            if isinstance(result, Result):
                for stage, milliseconds in result.timings.items():
                    self._metrics.stage(stage, milliseconds / 1000)
                if not isinstance(delivery, StreamDelivery) or delivery.stored:
                    self._draw(frame, result)
        failpoints.reach("drawn")
        record = make_record(
            result,
            id_=delivery.id,
            source=delivery.source,
            path=delivery.path,
            sha256=outcome.sha256,
            captured_at=delivery.captured_at,
            model=scorer.identity,
            decode_seconds=outcome.seconds,
        )
        return Scored(frame, result if isinstance(result, Result) else None, record)

    def _draw(self, frame: Frame, result: Result) -> None:
        """Gives an overlay to the picture sinks; a failing one costs the overlay, never the result."""
        for sink in self._picture_sinks:
            if not sink.wants(result):
                continue
            try:
                sink.write(frame, result)
                self._failing_sinks.discard(sink.name)
            except Exception as error:  # noqa: BLE001 -- whatever fails costs the overlay, never the result
                self._metrics.sink_failures.labels(sink.name).inc()
                if sink.name not in self._failing_sinks:
                    self._log.error("overlays cannot be written", sink=sink.name, error=str(error))
                self._failing_sinks.add(sink.name)

    # Committing.

    def _commit_loop(self) -> None:
        """Makes durable what has come meanwhile: the more waits for the disk, the fewer commits."""
        last = 0.0
        while settled := self._settled.take(last + _COMMIT_EVERY_S, last + _COMMIT_EVERY_BUSY_S):
            last = time.monotonic()
            commit = partial(self._commit, [entry for one in settled for entry in self._entries(one)])
            if self._stubbornly("commit", "results cannot be made durable", commit) is not None:
                for one in settled:
                    one.delivery.acknowledge(one.record)
                    if one.record is not None:
                        self._count(one.delivery, one.record)
                failpoints.reach("told")
            for one in settled:
                self._intake.done(one.delivery.source)
            for publisher in self._publishers:
                publisher.wake()
            self._busy_since.pop("commit", None)

    def _entries(self, settled: _Settled) -> list[Entry]:
        """What is to be made durable; the pictures of it are drawn."""
        if settled.entry is not None:
            return [settled.entry]
        assert isinstance(settled.delivery, StreamDelivery)
        steps = settled.delivery.follow(settled.scored)
        for step in steps:
            if step.picture is not None:
                self._draw(*step.picture)
        return [step.entry for step in steps]

    def _commit(self, entries: Sequence[Entry]) -> bool:
        """Makes results durable."""
        if not entries:  # frames of streams, most of the time
            return True
        began = time.perf_counter()
        self._journal.commit(entries)
        failpoints.reach("committed")
        self._metrics.stage("commit", time.perf_counter() - began)
        return True

    def _stubbornly(self, worker: str, what: str, work: Callable[[], _T]) -> _T | None:
        """What `work` returns, again and again if need be; None when the daemon stops meanwhile: nothing is lost."""
        pause = _FIRST_PAUSE_S
        while True:
            self._busy_since[worker] = time.monotonic()
            try:
                done = work()
            except Exception as error:  # noqa: BLE001
                self._report(worker, what, error)
                self._busy_since.pop(worker, None)  # waiting is not being stuck
                if self._stopping.wait(pause):
                    return None
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._problem(worker, None)
                return done

    def _count(self, delivery: Delivery, record: Record) -> None:
        source = delivery.source
        if record.status == QUARANTINED:
            outcome = "quarantined"
            self._metrics.quarantined.labels(source, record.reason).inc()
            self._log.warning(
                "quarantined",
                source=source,
                path=display_path(record.path),
                reason=record.reason,
                error=record.error,
                id=record.id,
            )
        else:
            outcome = "anomaly" if record.is_anomaly else "ok"
            assert record.score is not None
            assert record.threshold is not None
            self._metrics.score_ratio.labels(source, record.model).observe(record.score / record.threshold)
        self._metrics.images.labels(source, outcome).inc()
        self._metrics.arrival_to_result_seconds.labels(source).observe(time.monotonic() - delivery.found_at)
        self._metrics.last_result_timestamp_seconds.labels(source).set(record.scored_at)

    # Problems: logged when they begin and when they end, not every time.

    def _report(self, where: str, what: str, error: Exception, **about: str) -> None:
        # Without the file's name, for a fault of the system is one fault and not one a file.
        text = f"{what}: {(isinstance(error, OSError) and error.strerror) or error}"
        if self._problems.get(where) != text:
            self._log.error(what, error=str(error), exc_info=not is_expected(error), **about)
        self._problem(where, text)

    def _problem(self, where: str, text: str | None) -> None:
        if text is not None:
            self._problems[where] = text
        elif self._problems.pop(where, None) is not None:
            self._log.info("works again", worker=where)


def _join(thread: threading.Thread) -> None:
    """Waits for a thread; a start that failed half-way leaves some that never ran."""
    if thread.ident is not None:
        thread.join()

"""The way of a picture, timed and caught: handed over -> decoded, scored, drawn -> durable -> given to sinks.

    source threads --deliveries--> Intake --workers--> a short queue --commit thread--> journal --> publishers

A worker takes one picture through decoding (in another process), scoring and drawing; there are two more of them
than CPUs, so that while some wait for a decoder, a disk or a lock the others score. Every queue is bounded. A delivery
that was taken ends in exactly one way: it is acknowledged when its record is durable, or given back to its source.
What raises unexpectedly is logged and tried again, with pauses that grow to a minute.
"""

import io
import threading
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import BinaryIO, Final

import structlog

from edged import failpoints
from edged.backoff import FIRST_S, LONGEST_S, Backoff
from edged.errors import PictureError
from edged.journal.journal import Entry, Journal
from edged.media.decoding import DecoderPool, DecodingAborted, Outcome
from edged.media.imaging import Decoded, Limits
from edged.models.scorer import Scorer
from edged.models.self_test import SelfTest
from edged.results import Frame, Result, display_path, make_record, short_name
from edged.service.committing import Committer, Settled
from edged.service.drift import DriftWatch
from edged.service.health import Health, of_source
from edged.service.intake import Intake
from edged.service.metrics import Metrics
from edged.service.peaks import Peaks
from edged.service.publisher import Publisher
from edged.service.self_tests import SelfTestRunner
from edged.sinks.contract import PictureSink
from edged.sources.contract import Delivery, Scored, Settlement, Source, StreamDelivery

_QUEUED: Final = 64
_OVERLAYS_CHECKED: Final = 1000


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
        self._pool = DecoderPool(max(1, workers - 1), limits)  # one worker's picture is with the model meanwhile
        self._intake = Intake(_QUEUED, lambda source: metrics.frames_dropped.labels(source).inc())
        self._picture_sinks = picture_sinks
        self._sources: dict[str, tuple[Source, threading.Event, threading.Thread]] = {}
        self._scorers: Mapping[str, Scorer] = {}
        self._drift: dict[str, DriftWatch] = {}
        self._health = Health()
        self._failing_sinks: set[str] = set()
        self._other_shapes: set[str] = set()
        self._self_tests: list[SelfTestRunner] = []
        self._log = structlog.get_logger()
        self._workers = [threading.Thread(target=self._work_loop, name=f"worker-{number}") for number in range(workers)]
        self._publishers = publishers
        self.peaks = Peaks()
        """What streams have shown of late."""

        self._committer = Committer(
            journal, metrics, self._intake, publishers, self._health, draw=self._draw, peaks=self.peaks
        )

    def start(self) -> None:
        """Starts all workers; sources are added afterwards."""
        for sink in self._picture_sinks:  # a crash between drawing and committing leaves overlays of no result
            try:
                sink.remove(sorted(self._journal.absent(sink.newest(_OVERLAYS_CHECKED))))
            except OSError as error:
                self._log.error("old overlays cannot be removed", sink=sink.name, error=str(error))
        for thread in (*self._workers, self._committer.thread):
            thread.start()
        for publisher in self._publishers:
            publisher.start()

    def set_scorers(self, scorers: Mapping[str, Scorer]) -> None:
        """Sets the scorer of each source, by its name; what is in flight ends with the one that it began with."""
        self._scorers = dict(scorers)
        self._drift = {
            source: watch
            if (watch := self._drift.get(source)) is not None and watch.is_of(scorer)
            else DriftWatch(source, scorer, self._metrics)
            for source, scorer in scorers.items()
            if scorer.view.is_of_training
        }
        for source in scorers.keys() - self._drift.keys():
            self._metrics.forget_drift(source)
        self._other_shapes.clear()

    def drifting(self) -> list[str]:
        """Which sources drift away from what their models were trained on, in words."""
        return [f"source {name}: {watch.words}" for name, watch in sorted(self._drift.items()) if watch.words]

    def add_source(self, source: Source) -> None:
        """Starts a source, whose scorer is set."""
        stop = threading.Event()
        thread = threading.Thread(target=self._source_loop, args=(source, stop), name=of_source(source.name))
        self._intake.add_source(source)
        self._metrics.watch_queue(source.name, source.pending)
        thread.start()
        self._sources[source.name] = (source, stop, thread)  # once it lives: `stuck` would take it for one that died

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
        self._health.problem(of_source(name), None)
        self.peaks.forget(name)

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
        self._health.stopping.set()
        for runner in self._self_tests:
            runner.ask_to_stop()
        self._intake.close()
        killer = threading.Timer(patience_s, self._pool.abort)
        killer.start()
        for thread in self._workers:
            _join(thread)
        self._end_self_tests()
        killer.cancel()
        self._committer.close()
        _join(self._committer.thread)
        for source, stop, thread in self._sources.values():
            stop.set()
            source.wake.set()
            _join(thread)
        for publisher in self._publishers:  # all at a time: one that hangs costs no other its last try
            publisher.ask_to_stop()
        for publisher in self._publishers:
            publisher.join()
        self._pool.close()

    def problems(self) -> dict[str, str]:
        """Why pictures are not being taken and scored just now, in words, by where; empty when all is well."""
        return self._health.problems()

    def stuck(self, longer_than_s: float) -> list[str]:
        """Workers that died, or that have been at one piece of work for too long."""
        publishers = [publisher.thread for publisher in self._publishers]
        threads = [*self._workers, self._committer.thread, *publishers]
        dead = [thread.name for thread in threads if _has_ended(thread)]
        # Of one moment, for a reload may change them; one that has ended since then was taken out before.
        sources = self._sources.copy()
        dead += [entry[2].name for name, entry in sources.items() if _has_ended(entry[2]) and name in self._sources]
        return dead + self._health.busy_for_longer_than(longer_than_s)

    # Sources.

    def _source_loop(self, source: Source, stop: threading.Event) -> None:
        backoff = Backoff()
        while not stop.is_set():
            began = time.monotonic()
            try:
                source.run(self._intake.hand_over, stop, partial(self._health.problem, of_source(source.name), None))
            except Exception as error:  # noqa: BLE001
                if time.monotonic() - began > LONGEST_S:
                    backoff.reset()
                self._health.report(of_source(source.name), f"source {source.name} failed", error)
                stop.wait(backoff.pause_s())

    # Workers.

    def _work_loop(self) -> None:
        worker = threading.current_thread().name
        while (delivery := self._intake.take()) is not None:
            self._health.begin(worker)
            failpoints.reach("claimed")
            try:
                settled = self._work(worker, delivery)
            except DecodingAborted:
                settled = None
                delivery.give_back()
            except Exception as error:  # noqa: BLE001
                settled = None
                self._health.report(worker, "pictures cannot be decoded", error, path=display_path(delivery.path))
                self._health.stopping.wait(FIRST_S)
                delivery.give_back()
            self._health.end(worker)  # waiting for room in the queue is not being stuck
            if settled is None:
                self._intake.done(delivery.source)
            else:
                self._committer.put(settled)

    def _work(self, worker: str, delivery: Delivery) -> Settled | None:
        """Takes one delivery through all that comes before the commit; None when it was given back."""
        scorer = self._scorers[delivery.source]
        if isinstance(delivery, StreamDelivery) and not delivery.has_picture:
            return Settled(delivery, None, None)
        read = self._read(delivery, scorer)
        self._health.problem(worker, None)
        if read is None:
            delivery.give_back()
            return None
        settlement, outcome = read
        if settlement is Settlement.SEEN:
            return Settled(delivery, None, Entry(None, delivery.statements(None)))
        scored = self._health.stubbornly(worker, "scoring failed", partial(self._score, delivery, scorer, outcome))
        if scored is None:
            delivery.give_back()
            return None
        record = scored.record
        if isinstance(delivery, StreamDelivery):
            return Settled(delivery, record, None, scored)
        return Settled(delivery, record, Entry(record, delivery.statements(record)))

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
            outcome = self._pool.decode(opened, scorer.view.input)
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
            if words := scorer.view.other_shape(outcome.decoded.width, outcome.decoded.height):
                self._count_other_shape(delivery, words)
            frame = Frame(
                delivery.source, delivery.id, delivery.captured_at, outcome.decoded.pixels, short_name(delivery.path)
            )
            result = scorer.score(frame)
            if isinstance(result, Result):
                for stage, milliseconds in result.timings.items():
                    self._metrics.stage(stage, milliseconds / 1000)
                if not isinstance(delivery, StreamDelivery) or delivery.stored:
                    self._draw(frame, result)
                if (watch := self._drift.get(delivery.source)) is not None and watch.is_of(scorer):
                    watch.observe(frame.pixels if result.cleaned is None else result.cleaned, result.score)
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

    def _count_other_shape(self, delivery: Delivery, words: str) -> None:
        self._metrics.other_shape.labels(delivery.source).inc()
        if delivery.source not in self._other_shapes:  # the counter tells of the next ones
            self._other_shapes.add(delivery.source)
            path = display_path(delivery.path)
            self._log.warning("a picture is not as those of training", source=delivery.source, path=path, why=words)

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


def _has_ended(thread: threading.Thread) -> bool:
    return thread.ident is not None and not thread.is_alive()


def _join(thread: threading.Thread) -> None:
    """Waits for a thread; a start that failed half-way leaves some that never ran."""
    if thread.ident is not None:
        thread.join()

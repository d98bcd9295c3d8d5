"""The way of a picture, timed, caught and counted: arrivals -> decoded -> scored -> durable -> given to sinks.

    source threads --claims--> Intake --decode threads--> a short queue --score thread--> a short queue
        --commit thread--> journal --> publishers

Every queue is bounded. An arrival that was claimed ends in exactly one way: its record is committed, or it is given
back to its source. What raises unexpectedly is logged and tried again, with pauses that grow to a minute.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import structlog

from edged import failpoints
from edged.errors import PictureError, is_expected
from edged.journal.journal import Journal
from edged.media.decoding import DecoderPool, DecodingAborted, Outcome
from edged.media.imaging import Limits
from edged.models.detector import Detector
from edged.models.self_test import Canary, CanaryRunner
from edged.results import QUARANTINED, Frame, Record, Result, display_path, make_record
from edged.service.intake import Intake
from edged.service.metrics import Metrics
from edged.service.publisher import Publisher
from edged.sinks.contract import RecordSink
from edged.sinks.images import ImagesSink
from edged.sources.contract import Source
from edged.sources.folder.arrivals import Arrival, Entry

MAX_BATCH: Final = 4
"""Pictures a batch: a CPU gains nothing from more, and each costs memory."""

_BATCHES_A_COMMIT: Final = 8
_CLAIMS: Final = 64
_OVERLAYS_CHECKED: Final = 1000
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0


_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class _Item:
    """One arrival on its way from the decoders to the detector: with a frame, or with an error."""

    arrival: Arrival
    source: Source
    detector: Detector
    outcome: Outcome
    frame: Frame | None


class Pipeline:
    """The workers between sources and sinks."""

    def __init__(
        self,
        *,
        journal: Journal,
        metrics: Metrics,
        limits: Limits,
        decoders: int,
        record_sinks: Sequence[RecordSink],
        image_sinks: Sequence[ImagesSink],
    ) -> None:
        """Prepares the workers; `start` starts them."""
        self._journal, self._metrics, self._limits = journal, metrics, limits
        self._pool = DecoderPool(decoders, limits)
        self._intake = Intake(_CLAIMS)
        self._decoded: queue.Queue[_Item | None] = queue.Queue(2 * MAX_BATCH)
        self._scored: queue.Queue[tuple[Sequence[_Item], Sequence[Entry]] | None] = queue.Queue(_BATCHES_A_COMMIT)
        self._image_sinks = image_sinks
        self._sources: dict[str, tuple[Source, threading.Event, threading.Thread]] = {}
        self._detectors: Mapping[str, Detector] = {}
        self._stopping = threading.Event()
        self._troubles: dict[str, str] = {}
        self._failing_sinks: set[str] = set()
        self._busy_since: dict[str, float] = {}
        self._canaries: list[CanaryRunner] = []
        self._log = structlog.get_logger()
        self._decode_threads = [
            threading.Thread(target=self._decode_loop, name=f"decode-{number}") for number in range(decoders)
        ]
        self._score_thread = threading.Thread(target=self._score_loop, name="score")
        self._commit_thread = threading.Thread(target=self._commit_loop, name="commit")
        self._publishers = [Publisher(sink, journal, metrics) for sink in record_sinks]

    def start(self) -> None:
        """Starts all workers; sources are added afterwards."""
        for sink in self._image_sinks:  # a crash between drawing and committing leaves overlays of no result
            try:
                sink.remove(self._journal.absent(sink.newest(_OVERLAYS_CHECKED)))
            except OSError as error:
                self._log.error("old overlays cannot be removed", sink=sink.name, error=str(error))
        for thread in (*self._decode_threads, self._score_thread, self._commit_thread):
            thread.start()
        for publisher in self._publishers:
            publisher.start()

    def set_detectors(self, detectors: Mapping[str, Detector]) -> None:
        """Sets the detector of each source, by its name; what is in work ends with the one that it began with."""
        self._detectors = dict(detectors)

    def add_source(self, source: Source) -> None:
        """Starts a source, whose detector is set."""
        stop = threading.Event()
        thread = threading.Thread(target=self._source_loop, args=(source, stop), name=f"source-{source.name}")
        self._intake.add_source(source.name, source.wake)
        self._metrics.watch_queue(source.name, source.waiting)
        self._sources[source.name] = (source, stop, thread)
        thread.start()

    def drain(self, names: Collection[str], patience_s: float) -> bool:
        """Stops claiming from sources and waits for what they have in work; they go on when that takes too long."""
        return self._intake.drain(names, patience_s)

    def remove_source(self, name: str) -> None:
        """Stops a source that is drained."""
        self._intake.remove_source(name)
        source, stop, thread = self._sources.pop(name)
        stop.set()
        source.wake.set()
        thread.join()
        self._trouble(f"source-{name}", None)

    def set_canaries(self, canaries: Mapping[str, tuple[Canary, float]]) -> None:
        """Replaces the canaries: by the name of their model, each with its interval in seconds."""
        self._end_canaries()
        for name in canaries:
            self._metrics.declare_canary(name)
        self._canaries = [
            CanaryRunner(name, canary, interval_s, self._pool.decode, self._metrics)
            for name, (canary, interval_s) in canaries.items()
        ]
        for runner in self._canaries:
            runner.start()

    def _end_canaries(self) -> None:
        for runner in self._canaries:
            runner.ask_to_stop()
        for runner in self._canaries:
            runner.join()

    def stop(self, patience_s: float) -> None:
        """Stops claiming, finishes what is in work, feeds the sinks, ends every worker.

        Args:
            patience_s: decoders that take longer are killed; their pictures are found again at the next start.
        """
        self._stopping.set()
        for runner in self._canaries:
            runner.ask_to_stop()
        self._intake.close()
        killer = threading.Timer(patience_s, self._pool.abort)
        killer.start()
        for thread in self._decode_threads:
            _join(thread)
        self._end_canaries()
        killer.cancel()
        self._decoded.put(None)
        _join(self._score_thread)
        self._scored.put(None)
        _join(self._commit_thread)
        for source, stop, thread in self._sources.values():
            stop.set()
            source.wake.set()
            _join(thread)
        for publisher in self._publishers:
            publisher.stop()
        self._pool.close()

    def troubles(self) -> list[str]:
        """Why pictures are not being taken and scored just now, in words; empty when all is well."""
        return sorted(self._troubles.values())

    def stuck(self, longer_than_s: float) -> list[str]:
        """Workers that died, or that have been at one piece of work for too long."""
        publishers = [publisher.thread for publisher in self._publishers]
        workers = [*self._decode_threads, self._score_thread, self._commit_thread, *publishers]
        threads = [*workers, *(entry[2] for entry in self._sources.values())]
        dead = [thread.name for thread in threads if thread.ident is not None and not thread.is_alive()]
        latest = time.monotonic() - longer_than_s
        return dead + [name for name, since in list(self._busy_since.items()) if since < latest]

    # Sources.

    def _source_loop(self, source: Source, stop: threading.Event) -> None:
        pause = _FIRST_PAUSE_S
        while not stop.is_set():
            began = time.monotonic()
            try:
                source.run(self._intake.offer, stop, partial(self._trouble, f"source-{source.name}", None))
            except Exception as error:  # noqa: BLE001
                if time.monotonic() - began > _LONGEST_PAUSE_S:
                    pause = _FIRST_PAUSE_S
                self._report(f"source-{source.name}", f"source {source.name} failed", error)
                stop.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)

    # Decoding.

    def _decode_loop(self) -> None:
        worker = threading.current_thread().name
        while (arrival := self._intake.take()) is not None:
            self._busy_since[worker] = time.monotonic()
            failpoints.reach("claimed")
            source = self._sources[arrival.source][0]
            try:
                item = self._decode(arrival, source)
                self._trouble(worker, None)
            except DecodingAborted:
                item = None
                source.release(arrival)
            except Exception as error:  # noqa: BLE001
                item = None
                self._report(worker, "pictures cannot be decoded", error, path=display_path(arrival.path))
                self._stopping.wait(_FIRST_PAUSE_S)
                source.release(arrival)
            self._busy_since.pop(worker, None)  # waiting for room in the queue is not being stuck
            if item is None:
                self._intake.done(arrival.source)
            else:
                self._decoded.put(item)

    def _decode(self, arrival: Arrival, source: Source) -> _Item | None:
        """Decodes one arrival; None when it was given back or turned out to be no new one."""
        detector = self._detectors[arrival.source]
        try:
            file = source.open(arrival)
            if file is None:
                source.release(arrival)
                return None
            with file:
                if arrival.stamps.size > self._limits.max_bytes:
                    raise PictureError(
                        "file_too_large",
                        f"{arrival.stamps.size} bytes are more than limits.max_bytes = {self._limits.max_bytes}",
                    )
                failpoints.reach("opened")
                outcome = self._pool.decode(file, detector.bundle.manifest.input)
                failpoints.reach("decoded")
                if not source.unchanged(arrival, file):
                    source.release(arrival)
                    return None
        except PictureError as error:
            outcome = Outcome(None, None, error, 0.0)
        self._metrics.stage_seconds.labels("decode").observe(outcome.seconds)
        if source.is_repetition(arrival, outcome.sha256):
            return None
        if outcome.error is not None and source.defer(arrival, outcome.error):
            return None
        frame = None
        if outcome.decoded is not None:
            frame = Frame(arrival.source, arrival.id, arrival.captured_at, outcome.decoded.pixels)
            if outcome.decoded.pages > 1:
                self._metrics.multi_page.labels(arrival.source).inc()
        return _Item(arrival, source, detector, outcome, frame)

    # Scoring and committing.

    def _score_loop(self) -> None:
        ended = False
        while not ended:
            batch = _waiting(self._decoded, MAX_BATCH)
            ended = batch[-1] is None
            items = [item for item in batch if item is not None]
            if not items:
                continue
            entries = self._stubbornly("score", "scoring failed", partial(self._score, items))
            self._busy_since.pop("score", None)  # waiting for room in the queue is not being stuck
            if entries is None:
                self._let_go(items)
            else:
                self._scored.put((items, entries))

    def _score(self, items: Sequence[_Item]) -> list[Entry]:
        """Scores a batch and draws what is to be drawn."""
        entries = []
        for item, result in zip(items, self._detect(items), strict=True):
            if isinstance(result, Result) and item.frame is not None:
                self._draw(item.frame, result)
            entries.append(item.source.entry(item.arrival, _record(item, result)))
        failpoints.reach("drawn")
        return entries

    def _commit_loop(self) -> None:
        """Makes durable what was scored while the one before was: the more waits for the disk, the fewer commits."""
        ended = False
        while not ended:
            batches = _waiting(self._scored, _BATCHES_A_COMMIT)
            ended = batches[-1] is None
            items = [item for batch in batches if batch is not None for item in batch[0]]
            entries = [entry for batch in batches if batch is not None for entry in batch[1]]
            if not items:
                continue
            commit = partial(self._commit, entries)
            if self._stubbornly("commit", "results cannot be made durable", commit) is not None:
                for item, entry in zip(items, entries, strict=True):
                    item.source.committed(item.arrival, entry)
                    self._count(item, entry)
                failpoints.reach("told")
            self._let_go(items)
            for publisher in self._publishers:
                publisher.wake()
            self._busy_since.pop("commit", None)

    def _commit(self, entries: Sequence[Entry]) -> bool:
        """Makes results durable."""
        began = time.perf_counter()
        self._journal.commit(entries)
        failpoints.reach("committed")
        self._metrics.stage_seconds.labels("commit").observe(time.perf_counter() - began)
        return True

    def _let_go(self, items: Sequence[_Item]) -> None:
        for item in items:
            self._intake.done(item.arrival.source)

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
                self._trouble(worker, None)
                return done

    def _detect(self, items: Sequence[_Item]) -> list[Result | PictureError]:
        """One result or error an item; frames of the same detector go through it together."""
        found: dict[str, Result | PictureError] = {}
        for detector in {id(item.detector): item.detector for item in items}.values():
            frames = [item.frame for item in items if item.detector is detector and item.frame is not None]
            if not frames:
                continue
            results = detector.detect(frames)
            for frame, result in zip(frames, results, strict=True):
                found[frame.frame_id] = result
                if isinstance(result, Result):
                    for stage, milliseconds in result.timings.items():
                        self._metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
        return [found[item.arrival.id] if item.outcome.error is None else item.outcome.error for item in items]

    def _draw(self, frame: Frame, result: Result) -> None:
        """Gives an overlay to the image sinks; a failing one costs the overlay, never the result."""
        for sink in self._image_sinks:
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

    def _count(self, item: _Item, entry: Entry) -> None:
        record, source = entry.record, item.arrival.source
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
        self._metrics.arrival_to_result_seconds.labels(source).observe(time.monotonic() - item.arrival.found_at)
        self._metrics.last_result_timestamp_seconds.labels(source).set(record.scored_at)

    # Troubles: logged when they begin and when they end, not every time.

    def _report(self, where: str, what: str, error: Exception, **about: str) -> None:
        # Without the file's name, for a fault of the system is one fault and not one a file.
        text = f"{what}: {(isinstance(error, OSError) and error.strerror) or error}"
        if self._troubles.get(where) != text:
            self._log.error(what, error=str(error), exc_info=not is_expected(error), **about)
        self._trouble(where, text)

    def _trouble(self, where: str, text: str | None) -> None:
        if text is not None:
            self._troubles[where] = text
        elif self._troubles.pop(where, None) is not None:
            self._log.info("works again", worker=where)


def _waiting(waiting: "queue.Queue[_T | None]", most: int) -> list[_T | None]:
    """The next one, which it waits for, and those that are there already; up to `most`, and none after a None."""
    found = [waiting.get()]
    while found[-1] is not None and len(found) < most:
        try:
            found.append(waiting.get_nowait())
        except queue.Empty:
            break
    return found


def _join(thread: threading.Thread) -> None:
    """Waits for a thread; a start that failed half-way leaves some that never ran."""
    if thread.ident is not None:
        thread.join()


def _record(item: _Item, result: Result | PictureError) -> Record:
    arrival = item.arrival
    return make_record(
        result,
        id_=arrival.id,
        source=arrival.source,
        path=os.fsdecode(arrival.path),
        sha256=item.outcome.sha256,
        captured_at=arrival.captured_at,
        model=item.detector.identity,
        decode_seconds=item.outcome.seconds,
    )

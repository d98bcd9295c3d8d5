"""Making durable what the workers have finished, many pictures at a time under load, and telling who waits for it."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from edged import failpoints
from edged.journal.journal import Entry, Journal
from edged.results import QUARANTINED, Frame, Record, Result, display_path
from edged.service.gathering import Gatherer
from edged.service.health import Health
from edged.service.intake import Intake
from edged.service.metrics import Metrics
from edged.service.peaks import Peaks
from edged.service.publisher import Publisher
from edged.sources.contract import Delivery, Scored, StreamDelivery

_EVERY_S: Final = 0.02
_EVERY_BUSY_S: Final = 0.1
"""The shortest time between two commits, and that while pictures wait to be scored: they wait longer for that than for
the disk, and a commit costs as much as half a picture. A picture that comes alone does not wait."""

_RECORDS_A_COMMIT: Final = 64


@dataclass(frozen=True, slots=True)
class Settled:
    """A delivery that is to be made durable, with its record; None where it was seen before, or is not scored.

    `entry` is None of a frame of a stream, whose source knows what is to be made durable when its turn comes.
    """

    delivery: Delivery
    record: Record | None
    entry: Entry | None
    scored: Scored | None = None


class Committer:
    """The one thread that writes results; what was settled ends acknowledged, or is found again at the next start."""

    def __init__(
        self,
        journal: Journal,
        metrics: Metrics,
        intake: Intake,
        publishers: Sequence[Publisher],
        health: Health,
        *,
        draw: Callable[[Frame, Result], None],
        peaks: Peaks,
    ) -> None:
        """Prepares it; `thread` is to be started."""
        self._journal, self._metrics, self._intake, self._health = journal, metrics, intake, health
        self._publishers, self._draw, self._peaks = publishers, draw, peaks
        self._settled: Gatherer[Settled] = Gatherer(_RECORDS_A_COMMIT)
        self._log = structlog.get_logger()
        self.thread = threading.Thread(target=self._loop, name="commit")
        self.close = self._settled.close
        """Nothing more will be put; the thread ends with what is left."""

    def put(self, settled: Settled) -> None:
        """Takes what is to be made durable; waits while too much of that waits."""
        self._settled.put(settled, hurry=not self._intake.has_waiting())

    def _loop(self) -> None:
        """Makes durable what has come meanwhile: the more waits for the disk, the fewer commits."""
        last = 0.0
        while settled := self._settled.take(last + _EVERY_S, last + _EVERY_BUSY_S):
            last = time.monotonic()
            commit = partial(self._commit, [entry for one in settled for entry in self._entries(one)])
            if self._health.stubbornly("commit", "results cannot be made durable", commit) is not None:
                for one in settled:
                    one.delivery.acknowledge(one.record)
                    if one.record is not None:
                        self._count(one.delivery, one.record)
                failpoints.reach("told")
            for one in settled:
                self._intake.done(one.delivery.source)
            for publisher in self._publishers:
                publisher.wake()
            self._health.end("commit")

    def _entries(self, settled: Settled) -> list[Entry]:
        """What is to be made durable; the pictures of it are drawn."""
        if settled.entry is not None:
            return [settled.entry]
        assert isinstance(settled.delivery, StreamDelivery)
        try:
            steps = settled.delivery.follow(settled.scored)
        except Exception as error:  # noqa: BLE001 -- a fault of one source's is to cost no other its results
            self._health.report(f"follow-{settled.delivery.source}", "what frames lead to is not known", error)
            return []
        self._health.problem(f"follow-{settled.delivery.source}", None)
        for step in steps:
            if step.picture is not None:
                self._draw(*step.picture)
        return [step.entry for step in steps]

    def _commit(self, entries: Sequence[Entry]) -> bool:
        if not entries:  # frames of streams, most of the time
            return True
        began = time.perf_counter()
        self._journal.commit(entries)
        failpoints.reach("committed")
        self._metrics.stage("commit", time.perf_counter() - began)
        return True

    def _count(self, delivery: Delivery, record: Record) -> None:
        source = delivery.source
        if isinstance(delivery, StreamDelivery):
            self._peaks.take(record)
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

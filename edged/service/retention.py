"""What is removed when it is old or too much: results, overlays, what sources leave behind. In small steps."""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

import structlog

from edged.journal.journal import Journal
from edged.service.metrics import Metrics
from edged.settings import RetentionTable
from edged.sinks.contract import PictureSink

_DAY_S: Final = 86_400.0
_KEPT_SHARE: Final = 0.9


class Retention:
    """Removes what the limits allow no longer. The picture sinks see to their bytes themselves, as they write."""

    def __init__(
        self,
        journal: Journal,
        limits: RetentionTable,
        metrics: Metrics,
        *,
        sinks: Sequence[str],
        pictures: Sequence[PictureSink] = (),
        tidy: Sequence[Callable[[], int]] = (),
    ) -> None:
        """Prepares it.

        Args:
            journal: with the results.
            limits: what may stay.
            metrics: for what sinks are never given.
            sinks: no result goes for its age before these have it.
            pictures: sinks whose old overlays go.
            tidy: steps of sources; each removes a little and says how much.
        """
        self._journal, self._limits, self._metrics, self._sinks = journal, limits, metrics, sinks
        self._steps: list[Callable[[], int]] = [
            self._old_results,
            self._too_many_results,
            self._journal.give_back,
            *tidy,
            *(partial(self._old_pictures, sink) for sink in pictures),
        ]
        self._log = structlog.get_logger()
        self._shrinking = False

    def run(self, seconds: float) -> bool:
        """Removes for about so long.

        Returns:
            Whether there is more to remove.

        Raises:
            JournalError: the journal cannot be written.
            OSError: overlays cannot be removed.
        """
        deadline = time.monotonic() + seconds
        for step in self._steps:
            while step():
                if time.monotonic() >= deadline:
                    return True
        return False

    def _old_results(self) -> int:
        return self._journal.prune(time.time() - self._limits.results_days * _DAY_S, self._sinks)

    def _too_many_results(self) -> int:
        used, most = self._journal.used_bytes(), self._limits.results_max_bytes
        self._shrinking = used > (most * _KEPT_SHARE if self._shrinking else most)
        if not self._shrinking:
            return 0
        removed, lost = self._journal.prune_oldest(self._sinks)
        for sink, records in lost.items():
            self._metrics.sink_dropped.labels(sink).inc(records)
            self._log.error(
                "records were dropped for a sink that fails: the journal is at results_max_bytes",
                sink=sink,
                records=records,
            )
        return removed

    def _old_pictures(self, sink: PictureSink) -> int:
        return sink.remove_older(time.time() - self._limits.images_days * _DAY_S)

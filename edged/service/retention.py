"""What is removed when it is old or too much: results, files in quarantine, overlays. In small steps, oldest first."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import structlog

from edged.journal.journal import Journal
from edged.results import display_path
from edged.sinks.images import ImagesSink
from edged.sources.folder.file_actions import remove_set_aside

_DAY_S: Final = 86_400.0
_KEPT_SHARE: Final = 0.9
_FILES: Final = 50


@dataclass(frozen=True, slots=True)
class Limits:
    """The `[retention]` table; the manual says what each key means. Without a number of days, age removes nothing."""

    results_days: float
    results_max_bytes: int
    quarantine_days: float | None
    quarantine_max_bytes: int
    images_days: float
    images_max_bytes: int


class Retention:
    """Removes what the limits allow no longer. The images sinks see to their bytes themselves, as they write."""

    def __init__(
        self, journal: Journal, limits: Limits, *, sinks: Sequence[str], images: Sequence[ImagesSink] = ()
    ) -> None:
        """Prepares it.

        Args:
            journal: with results and with what is in quarantine.
            limits: what may stay.
            sinks: no result goes before these have it.
            images: sinks whose old overlays go.
        """
        self._journal, self._limits, self._sinks, self._images = journal, limits, sinks, images
        self._log = structlog.get_logger()
        self._shrinking = False
        self._stuck: set[str] = set()

    def run(self, seconds: float) -> bool:
        """Removes for about so long.

        Returns:
            Whether there is more to remove.

        Raises:
            JournalError: the journal cannot be written.
            OSError: overlays cannot be removed.
        """
        deadline = time.monotonic() + seconds
        self._stuck.clear()
        steps: list[Callable[[], int]] = [self._old_results, self._too_many_results, self._free_pages, self._quarantine]
        for step in (*steps, *(self._old_images(sink) for sink in self._images)):
            while step():
                if time.monotonic() >= deadline:
                    return True
        return False

    def _old_results(self) -> int:
        return self._journal.prune(time.time() - self._limits.results_days * _DAY_S, self._sinks)

    def _too_many_results(self) -> int:
        used, most = self._journal.used_bytes(), self._limits.results_max_bytes
        self._shrinking = used > (most * _KEPT_SHARE if self._shrinking else most)
        return self._journal.prune_oldest(self._sinks) if self._shrinking else 0

    def _free_pages(self) -> int:
        return self._journal.give_back()

    def _quarantine(self) -> int:
        """Removes files that journal rows name as ours, and their sidecars; never another's."""
        if self._limits.quarantine_days is None:
            old = []
        else:
            old = self._journal.quarantine(
                _FILES, moved_before=time.time() - self._limits.quarantine_days * _DAY_S, beside=self._stuck
            )
        if not old:
            excess = self._journal.quarantine_bytes() - self._limits.quarantine_max_bytes
            for one in self._journal.quarantine(_FILES, beside=self._stuck):
                if excess <= 0:
                    break
                old.append(one)
                excess -= one.stamps.size
        removed = []
        for one in old:
            try:
                remove_set_aside(one)
            except OSError as error:
                self._stuck.add(one.id)
                self._log.error(
                    "a file cannot be removed from quarantine", path=display_path(one.path), error=error.strerror
                )
            else:
                removed.append(one.id)
                self._log.info("removed from quarantine", path=display_path(one.path), id=one.id)
        self._journal.left_quarantine(removed)
        return len(removed)

    def _old_images(self, sink: ImagesSink) -> Callable[[], int]:
        return lambda: sink.remove_older(time.time() - self._limits.images_days * _DAY_S)

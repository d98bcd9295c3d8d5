"""Retention of what is in quarantine: a step of it, for every folder source."""

import time
from collections.abc import Callable
from typing import Final

import structlog

from edged.journal.journal import Journal
from edged.results import display_path
from edged.settings import RetentionTable
from edged.sources.folder import ledger
from edged.sources.folder.file_actions import remove_set_aside

_DAY_S: Final = 86_400.0
_FILES: Final = 50


def tidy(journal: Journal, limits: RetentionTable) -> Callable[[], int]:
    """A step that removes a few files that the limits allow no longer, the oldest first, and says how many.

    Only files that the journal names as ours go, and their sidecars; never another's.
    """
    log, stuck = structlog.get_logger(), set[str]()

    def step() -> int:
        old = []
        if limits.quarantine_days is not None:
            before = time.time() - limits.quarantine_days * _DAY_S
            old = ledger.quarantined(journal, _FILES, moved_before=before, beside=stuck)
        if not old:
            excess = ledger.quarantined_bytes(journal) - limits.quarantine_max_bytes
            for one in ledger.quarantined(journal, _FILES, beside=stuck):
                if excess <= 0:
                    break
                old.append(one)
                excess -= one.fingerprint.size
        removed = []
        for one in old:
            try:
                remove_set_aside(one)
            except OSError as error:
                stuck.add(one.id)
                log.error("a file cannot be removed from quarantine", path=display_path(one.path), error=error.strerror)
            else:
                removed.append(one.id)
                log.info("removed from quarantine", path=display_path(one.path), id=one.id)
        ledger.left_quarantine(journal, removed)
        if not removed:
            stuck.clear()  # the next round tries them again
        return len(removed)

    return step

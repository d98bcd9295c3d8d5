"""Files that were seen and are not done: which of them have settled, and whose turn it is.

A file has settled when it was renamed into place, or when its fingerprint was stable for `settle_seconds`. Times are
monotonic seconds.
"""

import heapq
import os
import time
from dataclasses import dataclass

from edged.sources.folder.files import Fingerprint


@dataclass(slots=True)
class _Candidate:
    """`stable_since`: when it was last seen to change; `due`: when it is looked at; `ready`: it has settled."""

    fingerprint: Fingerprint
    found_at: float
    stable_since: float
    due: float
    whole: bool
    ready: bool = False
    tries: int = 0


class PendingFiles:
    """Of one source; the oldest first. Only `count` and `stable_since` may be called from other threads."""

    def __init__(self, settle_seconds: float, retry_seconds: float) -> None:
        self._settle_seconds, self._retry_seconds = settle_seconds, retry_seconds
        self._candidates: dict[bytes, _Candidate] = {}
        self._due: list[tuple[float, bytes]] = []
        self._ready: list[tuple[int, bytes]] = []

    def __contains__(self, path: bytes) -> bool:
        return path in self._candidates

    def __len__(self) -> int:
        return len(self._candidates)

    def count(self) -> tuple[int, float | None]:
        """How many there are, and when the oldest was found."""
        times = [candidate.found_at for candidate in list(self._candidates.values())]  # one step under the GIL
        return len(times), min(times, default=None)

    def stable_since(self, path: bytes) -> float | None:
        """Since when a file has not changed; None for one that does not wait."""
        candidate = self._candidates.get(path)
        return None if candidate is None else candidate.stable_since

    def note(self, path: bytes, fingerprint: Fingerprint, *, whole: bool) -> None:
        """A file was seen with this fingerprint; `whole`: it was renamed into place."""
        now = time.monotonic()
        candidate = self._candidates.get(path)
        if candidate is None:
            candidate = self._candidates[path] = _Candidate(fingerprint, now, now, 0.0, whole=whole)
        elif candidate.fingerprint == fingerprint and not (whole and not candidate.whole):
            return
        else:
            candidate.fingerprint, candidate.stable_since, candidate.tries = fingerprint, now, 0
            candidate.whole = whole
        self._schedule(path, candidate, now if whole else now + self._settle_seconds)

    def drop(self, path: bytes) -> None:
        """A file waits no longer."""
        self._candidates.pop(path, None)

    def retry(self, path: bytes) -> None:
        """A file could not be scored: it is ready again after a pause that grows, at the latest when it is old."""
        candidate = self._candidates.get(path)
        if candidate is None:
            return
        candidate.tries += 1
        candidate.whole = False
        now = time.monotonic()
        last = candidate.stable_since + self._retry_seconds
        wait = max(self._settle_seconds, 0.5) * 2 ** min(candidate.tries - 1, 10)
        self._schedule(path, candidate, min(now + wait, max(last, now)))

    def settle(self, now: float) -> None:
        """Makes ready what is stable; what changed meanwhile starts anew."""
        while self._due and self._due[0][0] <= now:
            due, path = heapq.heappop(self._due)
            candidate = self._candidates.get(path)
            if candidate is None or candidate.due != due:
                continue  # an older appointment of this path
            try:
                fingerprint = Fingerprint.of(os.lstat(path))
            except OSError:
                del self._candidates[path]
                continue
            if fingerprint == candidate.fingerprint:
                candidate.ready = True
                heapq.heappush(self._ready, (fingerprint.mtime_ns, path))
            else:
                self.note(path, fingerprint, whole=False)

    def first_ready(self) -> tuple[bytes, Fingerprint, float] | None:
        """Of the files that have settled the one that was written first: path, fingerprint, when it was found."""
        while self._ready:
            path = self._ready[0][1]
            candidate = self._candidates.get(path)
            if candidate is not None and candidate.ready:
                return path, candidate.fingerprint, candidate.found_at
            heapq.heappop(self._ready)
        return None

    def took_ready(self) -> None:
        """What `first_ready` gave was taken."""
        heapq.heappop(self._ready)

    def next_due(self) -> float | None:
        """When `settle` has something to look at."""
        return self._due[0][0] if self._due else None

    def _schedule(self, path: bytes, candidate: _Candidate, due: float) -> None:
        candidate.due, candidate.ready = due, False
        heapq.heappush(self._due, (due, path))

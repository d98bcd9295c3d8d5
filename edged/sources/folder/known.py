"""Which files were scored already: a set of fingerprints that stays small for a million kept files."""

from array import array
from bisect import bisect_left
from collections.abc import Iterable
from typing import Final

import numpy as np

_MERGE_AT: Final = 20_000


class KnownFiles:
    """Fingerprints of (path, size, mtime_ns), 8 bytes each in one sorted array.

    Two states of files have the same fingerprint with a chance of n / 2^61; the hash is keyed by process, so a
    producer cannot aim at it.
    """

    def __init__(self) -> None:
        self._sorted = array("q")
        self._recent: set[int] = set()

    @classmethod
    def of(cls, states: Iterable[tuple[bytes, int, int]]) -> "KnownFiles":
        """A set of different states of files (path, size, mtime_ns); never more memory than what it ends with."""
        known = cls()
        known._sorted.extend(hash(state) for state in states)
        np.frombuffer(known._sorted, dtype=np.int64).sort()
        return known

    def add(self, path: bytes, size: int, mtime_ns: int) -> None:
        """Adds one state of a file."""
        if (path, size, mtime_ns) in self:
            return
        self._recent.add(hash((path, size, mtime_ns)))
        if len(self._recent) >= _MERGE_AT:
            self._sorted.extend(self._recent)
            np.frombuffer(self._sorted, dtype=np.int64).sort()  # in place
            self._recent.clear()

    def discard(self, path: bytes, size: int, mtime_ns: int) -> None:
        """Takes one state of a file out."""
        fingerprint = hash((path, size, mtime_ns))
        self._recent.discard(fingerprint)
        index = bisect_left(self._sorted, fingerprint)
        if index < len(self._sorted) and self._sorted[index] == fingerprint:
            del self._sorted[index]

    def __contains__(self, state: tuple[bytes, int, int]) -> bool:
        fingerprint = hash(state)
        if fingerprint in self._recent:
            return True
        index = bisect_left(self._sorted, fingerprint)
        return index < len(self._sorted) and self._sorted[index] == fingerprint

    def __len__(self) -> int:
        return len(self._sorted) + len(self._recent)

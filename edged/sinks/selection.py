"""What a sink is given: `only`, `min_score` and `rate_limit`, the same for every type."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from edged.results import Record, Result
from edged.settings import SinkTable

_MINUTE_S: Final = 60.0


class Selection:
    """Which results a sink is given, and how many in any minute. For any thread."""

    def __init__(self, table: SinkTable, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepares it; `clock` gives seconds."""
        self._table, self._clock = table, clock
        self._given: deque[float] = deque()
        self._mutex = threading.Lock()

    def wants(self, result: Record | Result) -> bool:
        """Whether the sink is to be given this result at all."""
        if self._table.only == "anomalies" and not result.is_anomaly:
            return False
        least = self._table.min_score
        return least is None or (result.score is not None and result.score >= least)

    def room(self) -> int | None:
        """How many results may be given now; None for any number."""
        with self._mutex:
            return self._room()

    def claim(self) -> bool:
        """Counts one result as given, if there is room for it."""
        with self._mutex:
            room = self._room()
            if room is not None and room > 0:
                self._given.append(self._clock())
            return room is None or room > 0

    def given(self, count: int) -> None:
        """Counts results that were given."""
        if self._table.rate_limit is not None:
            with self._mutex:
                self._given.extend([self._clock()] * count)

    def pause_s(self) -> float | None:
        """In how many seconds there is room again; None while there is."""
        with self._mutex:
            return None if self._room() != 0 else max(0.0, self._given[0] + _MINUTE_S - self._clock())

    def _room(self) -> int | None:
        if self._table.rate_limit is None:
            return None
        while self._given and self._given[0] <= self._clock() - _MINUTE_S:
            self._given.popleft()
        return max(0, self._table.rate_limit - len(self._given))

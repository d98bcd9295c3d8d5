"""Bounded claims of several sources, taken in turn: a flood on one does not starve another."""

import threading
from collections import deque
from collections.abc import Collection

from edged.sources.folder.arrivals import Arrival


class Intake:
    """One short queue a source. A full queue refuses, and its source stops claiming until there is room."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queues: dict[str, deque[Arrival]] = {}
        self._rooms: dict[str, threading.Event] = {}
        self._in_work: dict[str, int] = {}
        self._turn: deque[str] = deque()
        self._paused: set[str] = set()
        self._changed = threading.Condition()
        self._closed = False

    def add_source(self, source: str, wake: threading.Event) -> None:
        """Adds a source; `wake` is set when its queue, once full, has room again."""
        with self._changed:
            self._queues[source] = deque()
            self._in_work[source] = 0
            self._rooms[source] = wake
            self._turn.append(source)

    def drain(self, sources: Collection[str], patience_s: float) -> bool:
        """Refuses arrivals of these sources and waits for those in work.

        Returns:
            Whether none is left in work; if not, all of them go on.
        """
        with self._changed:
            self._paused.update(sources)
            drained = self._changed.wait_for(lambda: not any(self._in_work[name] for name in sources), patience_s)
            if not drained:
                self._paused.difference_update(sources)
                for name in sources:
                    self._rooms[name].set()
            self._changed.notify_all()
            return drained

    def remove_source(self, source: str) -> None:
        """Forgets a drained source and what it has waiting, whose files are where they were."""
        with self._changed:
            del self._queues[source], self._rooms[source], self._in_work[source]
            self._turn.remove(source)
            self._paused.discard(source)

    def offer(self, arrival: Arrival) -> bool:
        """Claims an arrival; False when its source's queue is full or intake has ended."""
        with self._changed:
            queue = self._queues.get(arrival.source)
            if self._closed or queue is None or arrival.source in self._paused or len(queue) >= self._capacity:
                return False
            queue.append(arrival)
            self._changed.notify_all()  # one waiter alone could be the one that drains
            return True

    def take(self) -> Arrival | None:
        """The next arrival, the sources in turn; waits for one, and counts it as in work until `done`.

        Returns:
            None when intake has ended.
        """
        with self._changed:
            while True:
                if self._closed:
                    return None
                for _ in range(len(self._turn)):
                    source = self._turn[0]
                    self._turn.rotate(-1)
                    queue = self._queues[source]
                    if queue and source not in self._paused:
                        if len(queue) == self._capacity // 2:
                            self._rooms[source].set()
                        self._in_work[source] += 1
                        return queue.popleft()
                self._changed.wait()

    def done(self, source: str) -> None:
        """Counts one arrival of a source as no longer in work."""
        with self._changed:
            self._in_work[source] -= 1
            self._changed.notify_all()

    def close(self) -> None:
        """Ends intake: nothing more is taken; what waits stays in its folder and is found at the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

"""Bounded claims of several sources, taken in turn: a flood on one does not starve another."""

import threading
from collections import deque
from collections.abc import Mapping

from edged.arrivals import Arrival


class Intake:
    """One short queue a source. A full queue refuses, and its source stops claiming until there is room."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._queues: dict[str, deque[Arrival]] = {}
        self._rooms: dict[str, threading.Event] = {}
        self._turn: deque[str] = deque()
        self._changed = threading.Condition()
        self._closed = False

    def add_source(self, source: str, wake: threading.Event) -> None:
        """Adds a source; `wake` is set when its queue, once full, has room again."""
        with self._changed:
            self._queues[source] = deque()
            self._rooms[source] = wake
            self._turn.append(source)

    def remove_source(self, source: str) -> None:
        """Forgets a source and what it has waiting; its files are where they were."""
        with self._changed:
            self._queues.pop(source, None)
            self._rooms.pop(source, None)
            if source in self._turn:
                self._turn.remove(source)

    def offer(self, arrival: Arrival) -> bool:
        """Claims an arrival; False when its source's queue is full or intake has ended."""
        with self._changed:
            queue = self._queues.get(arrival.source)
            if self._closed or queue is None or len(queue) >= self._capacity:
                return False
            queue.append(arrival)
            self._changed.notify()
            return True

    def take(self) -> Arrival | None:
        """The next arrival, the sources in turn; waits for one. None when intake has ended."""
        with self._changed:
            while True:
                if self._closed:
                    return None
                for _ in range(len(self._turn)):
                    source = self._turn[0]
                    self._turn.rotate(-1)
                    queue = self._queues[source]
                    if queue:
                        if len(queue) == self._capacity // 2:
                            self._rooms[source].set()
                        return queue.popleft()
                self._changed.wait()

    def waiting(self) -> Mapping[str, int]:
        """How many claims wait, by source."""
        with self._changed:
            return {source: len(queue) for source, queue in self._queues.items()}

    def close(self) -> None:
        """Ends intake: nothing more is taken; what waits stays in its folder and is found at the next start."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

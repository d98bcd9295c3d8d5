"""Deliveries of several sources, bounded and taken in turn: a flood on one does not starve another."""

import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from edged.sources.contract import Delivery, Source


@dataclass(slots=True)
class _Queue:
    source: Source
    deliveries: deque[Delivery] = field(default_factory=deque)
    in_flight: int = 0
    paused: bool = False


class Intake:
    """One short queue a source. When it is full its source waits for room, or its oldest delivery makes room."""

    def __init__(self, capacity: int, dropped: Callable[[str], None] = lambda _: None) -> None:
        """Prepares it.

        Args:
            capacity: of one source's queue.
            dropped: told of every delivery that made room, by its source's name.
        """
        self._capacity, self._dropped = capacity, dropped
        self._queues: dict[str, _Queue] = {}
        self._turn: deque[str] = deque()
        self._mutex = threading.Lock()
        self._arrived, self._drained = threading.Condition(self._mutex), threading.Condition(self._mutex)
        self._closed = False

    def add_source(self, source: Source) -> None:
        """Adds a source; its `wake` is set when its queue, once full, has room again."""
        with self._mutex:
            self._queues[source.name] = _Queue(source)
            self._turn.append(source.name)

    def drain(self, sources: Collection[str], patience_s: float) -> bool:
        """Refuses deliveries of these sources and waits for those in flight.

        Returns:
            Whether none is left in flight; if not, all of them go on.
        """
        queues = [self._queues[name] for name in sources]
        with self._mutex:
            for queue in queues:
                queue.paused = True
            drained = self._drained.wait_for(lambda: not any(queue.in_flight for queue in queues), patience_s)
            if not drained:
                for queue in queues:
                    queue.paused = False
                    queue.source.wake.set()
            self._arrived.notify_all()
            return drained

    def remove_source(self, name: str) -> None:
        """Forgets a drained source, and gives back what it has waiting."""
        with self._mutex:
            waiting = self._queues.pop(name).deliveries
            self._turn.remove(name)
        for delivery in waiting:
            delivery.give_back()

    def hand_over(self, delivery: Delivery) -> bool:
        """Takes a delivery in; False when its source is to wait for room, or intake has ended."""
        oldest = None
        with self._mutex:
            queue = self._queues.get(delivery.source)
            if self._closed or queue is None or queue.paused:
                return False
            if len(queue.deliveries) >= self._capacity:
                if queue.source.when_full == "wait":
                    return False
                oldest = queue.deliveries.popleft()
            queue.deliveries.append(delivery)
            self._arrived.notify()
        if oldest is not None:
            oldest.give_back()
            self._dropped(oldest.source)
        return True

    def take(self) -> Delivery | None:
        """The next delivery, the sources in turn; waits for one, and counts it as in flight until `done`.

        Returns:
            None when intake has ended.
        """
        with self._mutex:
            while not self._closed:
                for _ in range(len(self._turn)):
                    queue = self._queues[self._turn[0]]
                    self._turn.rotate(-1)
                    if queue.deliveries and not queue.paused:
                        if len(queue.deliveries) == self._capacity // 2:
                            queue.source.wake.set()
                        queue.in_flight += 1
                        return queue.deliveries.popleft()
                self._arrived.wait()
            return None

    def has_waiting(self) -> bool:
        """Whether any delivery waits to be taken."""
        with self._mutex:
            return any(queue.deliveries for queue in self._queues.values())

    def done(self, source: str) -> None:
        """Counts one delivery of a source as no longer in flight."""
        with self._mutex:
            queue = self._queues[source]
            queue.in_flight -= 1
            if queue.paused and not queue.in_flight:
                self._drained.notify_all()

    def close(self) -> None:
        """Ends intake: nothing more is taken; what waits is found again at the next start."""
        with self._mutex:
            self._closed = True
            self._arrived.notify_all()

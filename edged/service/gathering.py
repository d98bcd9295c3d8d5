"""What many threads hand to one that works best on many at a time: bounded, with few wake-ups."""

import threading
import time
from typing import Generic, TypeVar

_T = TypeVar("_T")


class Gatherer(Generic[_T]):
    """A short queue. Its one reader is woken for the first item, and sees the others when its pause is over."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: list[_T] = []
        self._closed = self._hurry = False
        self._mutex = threading.Lock()
        self._filled, self._room = threading.Condition(self._mutex), threading.Condition(self._mutex)

    def put(self, item: _T, *, hurry: bool = True) -> None:
        """Adds an item, which may be in a hurry; waits while there is no room."""
        with self._mutex:
            self._room.wait_for(lambda: len(self._items) < self._capacity)
            self._items.append(item)
            hurries, self._hurry = hurry and not self._hurry, hurry or self._hurry
            if hurries or len(self._items) in {1, self._capacity}:
                self._filled.notify()

    def close(self) -> None:
        """Nothing more will be added."""
        with self._mutex:
            self._closed = True
            self._filled.notify()

    def take(self, not_before: float, unhurried: float) -> list[_T]:
        """All there is, once there is something, or earlier when it is full.

        Args:
            not_before: monotonic seconds; when something is in a hurry.
            unhurried: monotonic seconds; when nothing is.

        Returns:
            Nothing when it is closed and empty.
        """
        with self._mutex:
            self._filled.wait_for(lambda: self._items or self._closed)
            while not self._closed and len(self._items) < self._capacity:
                pause = (not_before if self._hurry else unhurried) - time.monotonic()
                if pause <= 0:
                    break
                self._filled.wait(pause)
            taken, self._items, self._hurry = self._items, [], False
            self._room.notify_all()
            return taken

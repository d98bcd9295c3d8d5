"""CPU time that answering may take, so that no crowd and no flood of clients takes the machine from scoring."""

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

from starlette.types import ASGIApp, Receive, Scope, Send

_SHARE: Final = 0.02
"""Of the machine, in the long run. Scoring is to lose 5 % at most, and answers cost it twice their own CPU time: they
hold the interpreter's lock. Whoever looks at the page takes less than half of this."""
_SAVED_S: Final = 2.0
"""CPU time that may be used at once after a quiet while: people open a page, and notice nothing of this."""
_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 0.5
_LONGEST_DEBT_S: Final = 10.0
"""Until something is left again, whatever was used up: what nobody can have wait, such as connections, may be much."""


class Allowance:
    """A share of the CPUs that answers use; those beyond it wait."""

    def __init__(self, share: float = _SHARE, saved_s: float = _SAVED_S) -> None:
        """Prepares it, full.

        Args:
            share: of all CPUs that this process may use, 0 to 1.
            saved_s: CPU time that may be used at once.
        """
        self._per_s, self._saved_s = share * len(os.sched_getaffinity(0)), saved_s
        self._mutex, self._queue = threading.Lock(), asyncio.Lock()
        self._left_s, self._filled_at = saved_s, time.monotonic()
        self._loop_s: float | None = None
        self._uncounted = 0

    def spend(self, cpu_s: float) -> None:
        """Notes CPU time that a thread has taken for an answer."""
        with self._mutex:
            self._left_s = self._bounded(self._left_s - cpu_s)

    async def wait(self) -> None:
        """Returns once there is something left; to be called in the thread of the event loop, whose CPU time counts."""
        async with self._queue:  # else all who wait wake up together, again and again, and use up what there is
            while (left_s := self._renew()) < 0:
                await asyncio.sleep(min(max(-left_s / self._per_s, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S))

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """What the loop does meanwhile is no answer, and not counted."""
        self._renew()
        self._uncounted += 1
        try:
            yield
        finally:
            self._renew()
            self._uncounted -= 1

    def _renew(self) -> float:
        loop_s, now = time.thread_time(), time.monotonic()
        with self._mutex:
            spent_s = 0.0 if self._loop_s is None or self._uncounted else loop_s - self._loop_s
            earned_s = (now - self._filled_at) * self._per_s
            self._loop_s, self._filled_at = loop_s, now
            self._left_s = self._bounded(self._left_s - spent_s + earned_s)
            return self._left_s

    def _bounded(self, left_s: float) -> float:
        return max(-_LONGEST_DEBT_S * self._per_s, min(self._saved_s, left_s))


class Paced:
    """Middleware: a request begins once there is CPU time left for it. What is work goes on."""

    def __init__(self, app: ASGIApp, allowance: Allowance, is_work: Callable[[Scope], bool]) -> None:
        """Prepares it; `is_work` says of a request whether it waits for nothing."""
        self._app, self._allowance, self._is_work = app, allowance, is_work

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Waits, and goes on."""
        if not self._is_work(scope):
            await self._allowance.wait()
        await self._app(scope, receive, send)

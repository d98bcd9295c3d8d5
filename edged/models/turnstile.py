"""Who may run a model: a few threads at a time, each with a picture of its own, or one with what all wait with.

On CPUs that is fastest with a picture a run: a batch costs more than its pictures do one by one, and two threads on one
picture cost more than one thread on each of two (docs/decisions/0005). A GPU is fastest with batches, and these make
themselves: while one runs, the next pictures wait, and go together.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from edged.models.runtime import worker_count

GPU_BATCH: Final = 8

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@dataclass(slots=True)
class _Ticket:
    item: Any
    done: bool = False
    result: Any = None
    error: Exception | None = None


class Turnstile:
    """Lets `slots` threads run at a time, each with its own item; or one, with up to `batch` of those that wait."""

    def __init__(self, *, slots: int = 1, batch: int = 1) -> None:
        assert slots == 1 or batch == 1
        self.slots, self.batch = slots, batch
        # Tokens: the semaphores of `threading` are Python, and cost several times as much in every picture.
        self._slots: SimpleQueue[None] = SimpleQueue()
        for _ in range(slots):
            self._slots.put(None)
        self._waiting: deque[_Ticket] = deque()

    @classmethod
    def on_cpus(cls, threads: int) -> "Turnstile":
        """For a model of which one run uses so many threads: as many runs as the workers' CPUs are for."""
        return cls(slots=max(1, worker_count() // threads))

    @classmethod
    def on_gpu(cls) -> "Turnstile":
        """For a model on a GPU: one run at a time, with what has come meanwhile."""
        return cls(batch=GPU_BATCH)

    def another(self) -> "Turnstile":
        """One like this, for another thing to run."""
        return Turnstile(slots=self.slots, batch=self.batch)

    def pass_through(self, item: _In, run: Callable[[Sequence[_In]], Sequence[_Out]]) -> _Out:
        """What `run` gives for `item`, which another thread may run together with others.

        Args:
            item: what to run.
            run: the same in every call; one result an item.

        Raises:
            Exception: what `run` raises, for every item that it was given.
        """
        ticket = _Ticket(item)
        if self.batch > 1:
            self._waiting.append(ticket)
        self._slots.get()
        try:
            if self.batch == 1:
                return run([item])[0]
            while not ticket.done:  # else a thread before us took it along
                self._run_next(run)
        finally:
            self._slots.put(None)
        if ticket.error is not None:
            raise ticket.error
        result: _Out = ticket.result
        return result

    def _run_next(self, run: Callable[[Sequence[Any]], Sequence[Any]]) -> None:
        tickets = [self._waiting.popleft() for _ in range(min(self.batch, len(self._waiting)))]
        try:
            for ticket, result in zip(tickets, run([ticket.item for ticket in tickets]), strict=True):
                ticket.result = result
        except Exception as error:  # noqa: BLE001 -- it belongs to those who wait
            for ticket in tickets:
                ticket.error = error
        finally:
            for ticket in tickets:
                ticket.done = True

"""What the pipeline's threads are at: what fails just now, in words, and who has been at one piece of work for long."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

import structlog

from edged.backoff import Backoff
from edged.errors import is_expected

_T = TypeVar("_T")


def of_source(name: str) -> str:
    """Where a source works: its thread, and what is wrong with it."""
    return f"source-{name}"


class Health:
    """Problems, by where they are: logged when they begin and when they end, not every time."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        """Set when the daemon ends: nothing is tried again."""

        self._problems: dict[str, str] = {}
        self._busy_since: dict[str, float] = {}
        self._log = structlog.get_logger()

    def problems(self) -> dict[str, str]:
        """What fails just now, in words, by where that is."""
        return dict(sorted(self._problems.copy().items(), key=lambda item: item[1]))

    def report(self, where: str, what: str, error: Exception, **about: str) -> None:
        """`what` failed at `where` by an error, about which there is more to log."""
        # Without the file's name, for a fault of the system is one fault and not one a file.
        text = f"{what}: {(isinstance(error, OSError) and error.strerror) or error}"
        if self._problems.get(where) != text:
            self._log.error(what, error=str(error), exc_info=not is_expected(error), **about)
        self.problem(where, text)

    def problem(self, where: str, text: str | None) -> None:
        """What is wrong at `where`; None when nothing is any more."""
        if text is not None:
            self._problems[where] = text
        elif self._problems.pop(where, None) is not None:
            self._log.info("works again", worker=where)

    def begin(self, worker: str) -> None:
        """A worker begins with a piece of work."""
        self._busy_since[worker] = time.monotonic()

    def end(self, worker: str) -> None:
        """It has ended, or waits for what may take its time."""
        self._busy_since.pop(worker, None)

    def busy_for_longer_than(self, seconds: float) -> list[str]:
        """Workers that have been at one piece of work for so long."""
        latest = time.monotonic() - seconds
        return [worker for worker, since in self._busy_since.copy().items() if since < latest]

    def stubbornly(self, worker: str, what: str, work: Callable[[], _T]) -> _T | None:
        """What `work` returns, again and again if need be; None when the daemon stops meanwhile: nothing is lost."""
        backoff = Backoff()
        while True:
            self.begin(worker)
            try:
                done = work()
            except Exception as error:  # noqa: BLE001
                self.report(worker, what, error)
                self.end(worker)  # waiting is not being stuck
                if self.stopping.wait(backoff.pause_s()):
                    return None
            else:
                self.problem(worker, None)
                return done

"""The end of patience with a process: it is killed when it is late."""

import subprocess
import threading
import time


class Watchdog:
    """Kills what is late: one thread for a whole pool, which sleeps until the next deadline, and without one for good.

    A picture costs it no wake-up: it is woken only when it has nothing to wait for, and so once in `seconds` at most.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._changed = threading.Condition()
        self._deadlines: dict[subprocess.Popen[bytes], float] = {}
        self._thread: threading.Thread | None = None
        self._has_nothing = self._closed = False

    def begin(self, child: "subprocess.Popen[bytes]") -> None:
        """From now on the process has its seconds."""
        with self._changed:
            self._deadlines[child] = time.monotonic() + self._seconds
            if self._thread is None:
                self._closed = False
                self._thread = threading.Thread(target=self._run, name="decoders", daemon=True)
                self._thread.start()
            elif self._has_nothing:
                self._changed.notify()

    def end(self, child: "subprocess.Popen[bytes]") -> bool:
        """It has answered or died; returns whether it was killed for being late."""
        with self._changed:
            return self._deadlines.pop(child, None) is None

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                for child in [child for child, deadline in self._deadlines.items() if deadline <= now]:
                    del self._deadlines[child]
                    child.kill()
                self._has_nothing = not self._deadlines
                self._changed.wait(None if self._has_nothing else min(self._deadlines.values()) - now)
            self._has_nothing = False

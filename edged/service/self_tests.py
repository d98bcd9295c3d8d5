"""Self-tests while the daemon runs: again and again, with the outcome as metrics."""

import threading

import structlog

from edged.media.decoding import DecodingAborted
from edged.models.self_test import Decode, SelfTest
from edged.service.metrics import Metrics


class SelfTestRunner:
    """Runs one self-test again and again, in a thread of its own, and exports the outcome."""

    def __init__(self, model: str, self_test: SelfTest, interval_s: float, decode: Decode, metrics: Metrics) -> None:
        """Prepares it; `start` starts the thread."""
        self._test, self._interval_s, self._decode = self_test, interval_s, decode
        self._set_ok, self._set_ratio = metrics.self_test(model)
        self._log = structlog.get_logger().bind(model=model)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"self-test-{model}")
        self.start = self._thread.start

    def join(self) -> None:
        """Waits for the thread, if it ever ran."""
        if self._thread.ident is not None:
            self._thread.join()

    def ask_to_stop(self) -> None:
        """Ends the thread after the check that is under way."""
        self._stopping.set()

    def _loop(self) -> None:
        seed, was_ok = 0, True
        while True:
            try:
                self._set_ratio(self._test.check(self._decode, seed))
                is_ok = True
            except DecodingAborted:
                return
            except Exception as error:  # noqa: BLE001
                is_ok = False
                if was_ok:
                    self._log.error("the self-test failed: the path from file to score is broken", error=str(error))
            if is_ok and not was_ok:
                self._log.info("the self-test passes again")
            self._set_ok(is_ok)
            was_ok = is_ok
            seed += 1
            if self._stopping.wait(self._interval_s):
                return

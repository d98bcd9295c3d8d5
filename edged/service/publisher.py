"""Feeding a sink from the journal's outbox: at least once, in order."""

import threading
import time
from typing import Final

import structlog

from edged import failpoints
from edged.errors import is_expected
from edged.journal.journal import Journal
from edged.service.metrics import Metrics
from edged.sinks.contract import RecordSink

_PAGE: Final = 500
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 60.0


class Publisher:
    """Feeds one sink from the outbox, in a thread of its own: a sink that is down delays nobody else."""

    def __init__(self, sink: RecordSink, journal: Journal, metrics: Metrics) -> None:
        """Prepares it; `start` starts the thread."""
        self._sink, self._journal, self._metrics = sink, journal, metrics
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._log = structlog.get_logger().bind(sink=sink.name)
        self.thread = threading.Thread(target=self._loop, name=f"sink-{sink.name}")
        self._failing = False
        self.wake = self._wake.set
        """There is more; from any thread."""

    def start(self) -> None:
        """Gives the sink its place in the outbox, and begins with what waits there."""
        self._journal.add_sink(self._sink.name)
        self._wake.set()
        self.thread.start()

    def stop(self) -> None:
        """Gives the sink what is left, once, and ends the thread."""
        self._stopping.set()
        self._wake.set()
        if self.thread.ident is not None:  # a start that failed half-way never ran it
            self.thread.join()
        self._sink.close()

    def _loop(self) -> None:
        pause = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            while not self._publish():
                if self._stopping.wait(pause):
                    return
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            pause = _FIRST_PAUSE_S
        self._publish()

    def _publish(self) -> bool:
        """Gives the sink all that the outbox holds; False when it or the journal failed."""
        try:
            while rows := self._journal.undelivered(self._sink.name, _PAGE):
                began = time.perf_counter()
                self._sink.publish([record for _, record in rows])
                failpoints.reach("published")
                self._journal.delivered(self._sink.name, rows[-1][0])
                failpoints.reach("delivered")
                self._metrics.stage_seconds.labels("publish").observe(time.perf_counter() - began)
        except Exception as error:  # noqa: BLE001
            self._metrics.sink_failures.labels(self._sink.name).inc()
            if not self._failing:
                self._log.error("the sink failed; it is tried again", error=str(error), exc_info=not is_expected(error))
            self._failing = True
            return False
        if self._failing:
            self._log.info("the sink works again")
        self._failing = False
        return True

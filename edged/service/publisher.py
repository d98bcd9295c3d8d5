"""Feeding a sink from the journal's outbox: at least once, in order, within bounds of time and of what may wait.

A sink's `only` and `min_score` pass rows over, its `rate_limit` lets them wait.
"""

import threading
import time
from collections.abc import Sequence
from typing import Final

import structlog

from edged import failpoints
from edged.backoff import Backoff
from edged.errors import RecordRefusedError, SinkError, is_expected
from edged.journal.journal import Journal
from edged.results import Record
from edged.service.metrics import Metrics
from edged.settings import SinkTable
from edged.sinks.contract import RecordSink
from edged.sinks.selection import Selection

_PAGE: Final = 500
_BROKEN_TRIES: Final = 3
"""How often a sink may break on one record alone, not on what it meant to raise, before that record is set aside."""


class Publisher:
    """Feeds one sink, in a thread of its own: a sink that is down delays nobody else.

    The thread is a daemon's: a sink that hangs beyond its timeout is left behind when edged stops, and what it was not
    given stays in the outbox.
    """

    def __init__(self, sink: RecordSink, table: SinkTable, journal: Journal, metrics: Metrics) -> None:
        """Prepares it; `start` starts the thread."""
        self.name = sink.name
        self._sink, self._table, self._journal, self._metrics = sink, table, journal, metrics
        self._selection = Selection(table)
        self._wake, self._stopping = threading.Event(), threading.Event()
        self._deadline = float("inf")
        self._log = structlog.get_logger().bind(sink=sink.name)
        self.thread = threading.Thread(target=self._loop, name=f"sink-{sink.name}", daemon=True)
        self._failing = False
        self._most, self._broken = _PAGE, 0
        self.wake = self._wake.set
        """There is more; from any thread."""

    def start(self) -> None:
        """Gives the sink its cursor in the outbox, and begins with what waits there."""
        self._journal.add_sink(self._sink.name)
        self._wake.set()
        self.thread.start()

    def ask_to_stop(self) -> None:
        """Gives the sink what is left, for as long as its timeout, and ends the thread."""
        self._deadline = time.monotonic() + self._table.timeout_seconds
        self._stopping.set()
        self._wake.set()

    def join(self) -> None:
        """Waits for the thread, at most until its sink's timeout is over."""
        if self.thread.ident is None:  # a start that failed half-way never ran it
            self._sink.close()
            return
        self.thread.join(max(0.0, self._deadline - time.monotonic()) + 1.0)
        if self.thread.is_alive():
            self._log.error("the sink hangs and is left behind; what it was not given comes after the next start")

    def _loop(self) -> None:
        backoff = Backoff()
        while not self._stopping.is_set():
            self._wait()
            while not self._publish():
                self._drop_excess()
                if self._stopping.wait(backoff.pause_s()):
                    break
            else:
                backoff.reset()
        self._publish()
        self._sink.close()

    def _wait(self) -> None:
        """Until there is more, and the sink may be given it."""
        paused = self._selection.pause_s()
        if paused is None:
            self._wake.wait()
        else:
            self._stopping.wait(paused)
        self._wake.clear()

    def _publish(self) -> bool:
        """Gives the sink all that the outbox holds and it may be given; False when it or the journal failed.

        True when time is over, too.
        """
        try:
            while (left := self._time_left()) > 0 and (rows := self._next_rows()):
                waits = not self._offer(rows, left)
                if waits or len(rows) == _PAGE:  # slower than its records come, or just back
                    self._drop_excess()
                if waits:
                    break
        except Exception as error:  # noqa: BLE001
            self._report(error)
            return False
        if self._failing:
            self._log.info("the sink works again")
        self._failing = False
        return True

    def _report(self, error: Exception) -> None:
        self._metrics.sink_failures.labels(self._sink.name).inc()
        if not self._failing:
            self._log.error("the sink failed; it is tried again", error=str(error), exc_info=not is_expected(error))
        self._failing = True

    def _time_left(self) -> float:
        return min(self._table.timeout_seconds, self._deadline - time.monotonic())

    def _next_rows(self) -> list[tuple[int, Record]]:
        return self._journal.undelivered(self._sink.name, self._most)

    def _offer(self, rows: Sequence[tuple[int, Record]], timeout_s: float) -> bool:
        """Gives the sink those of the next rows that it wants, passes the others over; False when it has to wait."""
        wanted = [row for row in rows if self._selection.wants(row[1])]
        passed_over = rows[-1][0] if not wanted else wanted[0][0] - 1
        if passed_over >= rows[0][0]:
            self._journal.delivered(self._sink.name, passed_over)
        if wanted:
            room = self._selection.room()
            if room == 0:
                return False
            self._give(wanted[:room], timeout_s)
        return True

    def _give(self, rows: Sequence[tuple[int, Record]], timeout_s: float) -> None:
        began = time.perf_counter()
        try:
            taken = self._sink.publish([record for _, record in rows], timeout_s)
        except RecordRefusedError as error:
            self._set_dead(rows[0], str(error))
            return
        except SinkError:
            raise
        except Exception as error:  # a fault of the sink's: is it one record's?
            if len(rows) > 1:
                self._most = 1
                self._report(error)
                return
            self._broken += 1
            if self._broken < _BROKEN_TRIES:
                raise
            self._set_dead(rows[0], f"{type(error).__name__}: {error}")
            return
        if taken <= 0:
            raise SinkError(f"the sink {self._sink.name} took none of {len(rows)} records")
        self._broken, self._most = 0, _PAGE
        self._selection.given(min(taken, len(rows)))
        failpoints.reach("published")
        self._journal.delivered(self._sink.name, rows[min(taken, len(rows)) - 1][0])
        failpoints.reach("delivered")
        self._metrics.stage_seconds.labels("publish").observe(time.perf_counter() - began)

    def _set_dead(self, row: tuple[int, Record], error: str) -> None:
        seq, record = row
        self._journal.set_dead(self._sink.name, seq, record, error)
        self._broken, self._most = 0, _PAGE
        self._metrics.sink_dead_letters.labels(self._sink.name).inc()
        self._log.error(
            "the sink refused a record for good; it is set aside (edged results --dead-letters)",
            id=record.id,
            error=error,
        )

    def _drop_excess(self) -> None:
        """Beyond its bound the oldest records are dropped for a sink, lest the journal grow without end."""
        try:
            dropped = self._journal.drop_backlog(self._sink.name, self._table.max_backlog)
        except Exception as error:  # noqa: BLE001 -- of the journal, which others report as well
            self._log.error("the backlog cannot be cut", error=str(error))
            return
        if dropped:
            self._metrics.sink_dropped.labels(self._sink.name).inc(dropped)
            self._log.error(
                "records were dropped for the sink: more than max_backlog wait for it",
                records=dropped,
                max_backlog=self._table.max_backlog,
            )

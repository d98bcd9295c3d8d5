"""The exec sink: a program is started for every result, with the record on its standard input."""

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Sequence
from typing import Annotated, Final, Literal

from pydantic import Field

from edged.errors import RecordRefusedError, SinkError
from edged.results import Record, printable
from edged.settings import SinkTable
from edged.sinks.contract import SinkType
from edged.sinks.one_by_one import one_by_one

REFUSES: Final = os.EX_DATAERR
"""What a program exits with that will never take a record: 65, of sysexits.h."""

_OURS: Final = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")
_CHUNK: Final = 1 << 16
_SHOWN: Final = 200


class ExecTable(SinkTable):
    """Starts a program for every record, without a shell."""

    type: Literal["exec"]
    command: tuple[Annotated[str, Field(pattern=r"^[^\x00]*$")], ...] = Field(min_length=1)

    def problems(self) -> list[str]:
        """Whether there is such a program."""
        program = self.command[0]
        if not program.startswith("/"):
            return [f"command: {program} must be an absolute path; no shell looks for it"]
        if not os.path.isfile(program) or not os.access(program, os.X_OK):
            return [f"command: {program} is not a program that can be started; check the path and its permissions"]
        return []


class ExecSink:
    """Starts one program at a time. It has taken a record when it exits with 0; what takes too long is killed."""

    def __init__(self, table: ExecTable) -> None:
        self.name, self._command = table.name, table.command
        self._environment = {key: value for key, value in os.environ.items() if key not in _OURS}

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Runs the program for as many records as go within the time.

        Raises:
            SinkError: it cannot be started, fails, or takes too long.
            RecordRefusedError: it exits with `REFUSES`.
        """
        return one_by_one(records, timeout_s, self._run)

    def close(self) -> None:
        """There is nothing to let go of."""

    def _run(self, record: Record, timeout_s: float) -> None:
        ends = time.monotonic() + timeout_s
        try:
            # A file without a name: unlike a pipe it waits for no program that does not read.
            with open(os.memfd_create("record"), "w+b", buffering=0) as given:
                given.write(record.to_json().encode("ascii") + b"\n")
                given.seek(0)
                process = subprocess.Popen(
                    self._command,
                    stdin=given,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    cwd="/",
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise SinkError(f"{self._command[0]} cannot be started: {error.strerror}") from error
        with process:
            try:
                said = _follow(process, ends)
            finally:
                if process.poll() is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(process.pid, signal.SIGKILL)  # and what it has started
        self._judge(process.returncode, said, timeout_s)

    def _judge(self, code: int, said: str | None, timeout_s: float) -> None:
        if said is None:
            raise SinkError(f"{self._command[0]} took longer than {timeout_s:.1f} s and was killed")
        why = f": {printable(said)}" if said else ""
        if code == REFUSES:
            raise RecordRefusedError(f"{self._command[0]} refuses it with exit code {code}{why}")
        if code < 0:
            raise SinkError(f"{self._command[0]} died by signal {-code}{why}")
        if code:
            raise SinkError(f"{self._command[0]} failed with exit code {code}{why}")


def _follow(process: "subprocess.Popen[bytes]", ends: float) -> str | None:
    """The beginning of what a program says on standard error until it ends; None when it has not ended by then.

    What it has started may live on, with the same standard error.
    """
    assert process.stderr is not None
    says, ended, said = process.stderr.fileno(), os.pidfd_open(process.pid), b""
    os.set_blocking(says, False)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(ended, selectors.EVENT_READ)
            selector.register(says, selectors.EVENT_READ)
            while (left := ends - time.monotonic()) > 0:
                ready = [key.fd for key, _ in selector.select(left)]
                if says in ready:
                    chunk = os.read(says, _CHUNK)
                    said += chunk[: _SHOWN - len(said)]
                    if not chunk:
                        selector.unregister(says)
                elif ended in ready:
                    return said.decode("utf-8", "replace").strip()
    finally:
        os.close(ended)
    return None


TYPE: Final = SinkType(ExecTable, lambda table, _: ExecSink(table))

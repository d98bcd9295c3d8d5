"""sd_notify: what the daemon tells systemd (see sd_notify(3) and systemd.service(5))."""

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

_EXTENSION_US: Final = 60_000_000


class Notifier:
    """Sends state to the service manager; does nothing outside of one."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watchdog_us = int(environment.get("WATCHDOG_USEC", "0") or 0)
        if environment.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
            self._watchdog_us = 0

    @property
    def watchdog_interval_s(self) -> float | None:
        """How often `alive` is due: half of what the unit allows. None when there is no watchdog."""
        return self._watchdog_us / 2e6 if self._watchdog_us else None

    def ready(self, status: str) -> None:
        """The daemon is up, or has reloaded."""
        self._send(f"READY=1\nSTATUS={status}")

    @contextmanager
    def starting(self) -> Iterator[None]:
        """Has the manager wait for a part of the start that may take minutes, for as long as it takes."""
        done = threading.Event()

        def extend() -> None:
            self._send(f"EXTEND_TIMEOUT_USEC={_EXTENSION_US}")
            while not done.wait(_EXTENSION_US / 4e6):
                self._send(f"EXTEND_TIMEOUT_USEC={_EXTENSION_US}")

        thread = threading.Thread(target=extend, name="notify-starting")
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def reloading(self) -> None:
        """The daemon reads its configuration again."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The daemon shuts down."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """Every worker is alive: holds off the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
                connection.sendto(state.encode(), address)
        except OSError:  # the manager went away; there is nobody left to tell
            return

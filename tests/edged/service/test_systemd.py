import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.service.systemd import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
        one.bind(str(tmp_path / "notify"))
        one.settimeout(30)
        yield one


def test_what_systemd_is_told(manager: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": manager.getsockname()})
    notifier.ready("watching 1 source(s)")
    notifier.alive()
    notifier.stopping()
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    told = [manager.recv(4096).decode() for _ in range(4)]
    assert told[:3] == ["READY=1\nSTATUS=watching 1 source(s)", "WATCHDOG=1", "STOPPING=1"]
    first, second = told[3].split("\n")
    assert first == "RELOADING=1"
    assert 0 <= int(second.removeprefix("MONOTONIC_USEC=")) - before < 60_000_000


def test_an_abstract_socket() -> None:
    name = f"edged-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + name)
        manager.settimeout(30)
        Notifier({"NOTIFY_SOCKET": "@" + name}).alive()
        assert manager.recv(4096) == b"WATCHDOG=1"


def test_nobody_to_tell(tmp_path: Path) -> None:
    Notifier({}).ready("x")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nowhere")}).ready("x")


@pytest.mark.parametrize(
    ("environment", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": ""}, None),
    ],
)
def test_watchdog(environment: dict[str, str], interval: float | None) -> None:
    assert Notifier(environment).watchdog_interval_s == interval

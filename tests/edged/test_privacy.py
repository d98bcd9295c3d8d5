"""Nothing is sent anywhere: what every command opens, as the kernel sees it."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import drop, good, until

TRACE = ("strace", "-f", "-q", "-e", "trace=socket,connect,sendto,sendmsg,bind")

# What a program of an ordinary user would find: nobody has switched anything off for it.
SWITCH = "ORT_DISABLE_TELEMETRY"
AMBIENT = {SWITCH, "CI"}
"""What silences the runtime where these tests run, and not where it is used."""


@pytest.fixture(autouse=True)
def strace() -> None:
    if shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed; CI installs it")
        pytest.skip("strace is not installed (Debian: apt install strace)")


def home(folder: Path) -> dict[str, str]:
    """An environment with an empty home of its own."""
    (folder / "home").mkdir()
    return {**{key: value for key, value in os.environ.items() if key not in AMBIENT}, "HOME": str(folder / "home")}


def calls(trace: Path) -> list[str]:
    """What was called for sockets that reach beyond this process."""
    return [
        line for line in trace.read_text().splitlines() if re.search(r"AF_INET|sin_addr|sin6_addr|AF_NETLINK", line)
    ]


def run(arguments: Sequence[object], folder: Path) -> list[str]:
    trace, environment = folder / "trace", home(folder)
    command = [*TRACE, "-o", trace, sys.executable, "-m", *arguments]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert list((folder / "home").rglob("*")) == []
    return calls(trace)


def test_without_the_switch_the_runtime_would_write_about_us(tmp_path: Path) -> None:
    """If it does so no longer, the test below proves nothing."""
    environment = home(tmp_path)
    code = f"import onnxruntime; onnxruntime.InferenceSession({str(TINY / 'model.onnx')!r})"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert list((tmp_path / "home").rglob("deviceid")) != []


def test_scoring_opens_no_socket_and_leaves_nothing_at_home(tmp_path: Path) -> None:
    drop(tmp_path / "a.png", good())
    assert run(("edged", "score", TINY, tmp_path / "a.png"), tmp_path) == []


def test_a_daemon_opens_its_own_socket_and_no_other(site: Site, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    # -D: the daemon is our child, and gets our signals.
    site.start(prefix=(*TRACE, "-D", "-o", str(trace)), environment=home(tmp_path) | {SWITCH: ""})
    drop(site.inbox / "a.png", good())
    site.wait_for_rows(1)
    port = site.url.rpartition(":")[2]
    assert site.get("/readyz").status_code == 200
    pid = site.pid
    assert site.stop() == 0
    until(lambda: re.search(rf"^{pid} +\+\+\+ exited", trace.read_text(), re.MULTILINE), "strace to end")
    assert list((tmp_path / "home").rglob("*")) == []
    opened = [line for line in calls(trace) if not re.search(r"socket\(AF_INET, SOCK_STREAM", line)]
    assert opened == [line for line in opened if f"htons({port})" in line or "bind(" in line]
    assert [line for line in opened if "connect(" in line] == []

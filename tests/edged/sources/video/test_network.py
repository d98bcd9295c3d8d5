"""A camera behind a network that is cut: in a network namespace, whose link goes down and comes back."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edged.daemons import Site
from tests.edged.making import until
from tests.edged.sources.video.making import SERVER
from tests.edged.sources.video.test_video import configure, state

NAME, HERE, THERE = f"edged{os.getpid()}", "10.203.77.1", "10.203.77.2"


def ip(*words: str, check: bool = True) -> int:
    return subprocess.run(["ip", *words], check=check, capture_output=True).returncode


@pytest.fixture
def wire() -> Iterator[str]:
    """The near end of a cable into another network."""
    near, far = f"en{os.getpid()}", f"ef{os.getpid()}"
    try:
        allowed = os.geteuid() == 0 and ip("netns", "add", NAME, check=False) == 0
    except FileNotFoundError:
        allowed = False
    if not allowed:
        if os.environ.get("CI"):
            pytest.fail("no network namespace can be made; CI is root and has iproute2")
        pytest.skip("making a network namespace takes root and ip (Debian: apt install iproute2)")
    try:
        ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", NAME)
        ip("addr", "add", f"{HERE}/30", "dev", near)
        ip("link", "set", near, "up")
        ip("-n", NAME, "addr", "add", f"{THERE}/30", "dev", far)
        ip("-n", NAME, "link", "set", far, "up")
        yield near
    finally:
        ip("link", "del", near, check=False)
        ip("netns", "del", NAME, check=False)


def test_a_network_that_is_cut_is_noticed_in_time_and_the_camera_comes_back(wire: str, tmp_path: Path) -> None:
    (tmp_path / "what").write_text("good")
    program = SERVER.replace("127.0.0.1", THERE)
    arguments = ["ip", "netns", "exec", NAME, sys.executable, "-c", program, "0", str(tmp_path / "what"), "25"]
    server = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    site = Site(tmp_path)
    try:
        port = until(
            lambda: (tmp_path / "port").exists() and (tmp_path / "port").read_text(), "the camera to be there", 60
        )
        configure(site, f"http://{THERE}:{port}/stream.mjpg", "stall_seconds = 2")
        site.start()
        until(lambda: state(site) == "live", "the camera", 60)
        ip("link", "set", wire, "down")
        until(lambda: state(site) in {"stalled", "backoff"}, "the cut to be noticed", 15)
        assert site.get("/readyz").status_code == 503
        ip("link", "set", wire, "up")
        until(lambda: state(site) == "live", "the camera to be back", 90)
        assert site.get("/readyz").status_code == 200
        assert site.stop() == 0
    finally:
        site.clean_up()
        server.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(10)

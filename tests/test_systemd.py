"""The units: valid, hardened, and in step with what the daemon does."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from edged.service import daemon

SYSTEMD = Path(__file__).parent.parent / "systemd"
UNIT = SYSTEMD / "edged.service"


@pytest.fixture
def analyze() -> str:
    """The program systemd-analyze."""
    program = shutil.which("systemd-analyze")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("systemd-analyze is not installed; CI installs it")
        pytest.skip("systemd-analyze is not installed (Debian: apt install systemd)")
    return program


def install(folder: Path, *, gpu: bool) -> Path:
    """The unit in a folder, with a program that is there."""
    program = Path(sys.executable).with_name("edged")
    unit = folder / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/edged/bin/edged", str(program)))
    if gpu:
        shutil.copytree(SYSTEMD / "edged.service.d", folder / "edged.service.d")
    return unit


def settings(key: str) -> list[str]:
    """Every value that the unit gives a key."""
    lines = UNIT.read_text().splitlines()
    return [line.partition("=")[2] for line in lines if line.partition("=")[0] == key]


def run(program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("gpu", [False, True])
def test_verify_has_nothing_to_say(analyze: str, tmp_path: Path, gpu: bool) -> None:
    done = run(analyze, "verify", "--man=no", install(tmp_path, gpu=gpu))
    about_it = [line for line in (done.stdout + done.stderr).splitlines() if "edged" in line]
    assert (done.returncode, about_it) == (0, [])


@pytest.mark.parametrize(("gpu", "tenths"), [(False, 13), (True, 15)])
def test_exposure_is_low(analyze: str, tmp_path: Path, gpu: bool, tenths: int) -> None:
    unit = install(tmp_path, gpu=gpu)
    done = run(analyze, "security", "--offline=true", "--no-pager", f"--threshold={tenths}", unit)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("Type", ["notify"]),
        ("User", ["edged"]),
        (
            "ExecReload",
            [
                '+/bin/sh -c "exec /opt/edged/bin/edged check -c /etc/edged/%N.toml --as-service >/dev/null"',
                '/bin/sh -c "kill -HUP ${MAINPID}"',
            ],
        ),
        ("Environment", ["ORT_DISABLE_TELEMETRY=1"]),
        ("Restart", ["on-failure"]),
        ("RestartPreventExitStatus", ["2"]),
        ("KillMode", ["mixed"]),
        ("OOMPolicy", ["continue"]),
        ("StateDirectory", ["%N"]),
        ("ReadWritePaths", ["/srv/edged"]),
        ("ProtectSystem", ["strict"]),
        ("CapabilityBoundingSet", [""]),
        ("IPAddressDeny", ["any"]),
        ("IPAddressAllow", ["localhost"]),
        ("SystemCallFilter", ["@system-service", "~@privileged @resources"]),
    ],
)
def test_the_unit_says(key: str, values: Sequence[str]) -> None:
    assert settings(key) == values


def test_times_leave_the_daemon_what_it_takes() -> None:
    (stop,), (watchdog,) = settings("TimeoutStopSec"), settings("WatchdogSec")
    assert int(stop) >= 45 > daemon._DECODE_PATIENCE_S
    # The last sign of life may be half an interval old when a reload begins to wait.
    assert int(watchdog) / 2 > daemon._DRAIN_PATIENCE_S


def test_the_user_of_the_unit_is_made() -> None:
    lines = (SYSTEMD / "sysusers.d" / "edged.conf").read_text().splitlines()
    assert [line.split()[:2] for line in lines if not line.startswith("#")] == [["u", "edged"], ["g", "edged-drop"]]


def test_folders_are_made_and_never_cleaned_up() -> None:
    lines = (SYSTEMD / "tmpfiles.d" / "edged.conf").read_text().splitlines()
    made = [line.split() for line in lines if not line.startswith("#")]
    folders, acls = ([line for line in made if line[0] == kind] for kind in ("d", "a"))
    assert all(len(line) == 6 and line[5] == "-" for line in folders)
    assert [line[1] for line in acls] == [line[1] for line in folders if line[3:5] == ["edged", "edged-drop"]]
    paths = {line[1] for line in folders}
    assert {"/srv/edged", "/srv/edged/line1", "/srv/edged/done", "/srv/edged/quarantine", "/etc/edged"} <= paths

"""A Debian with a systemd of its own as PID 1: a container that is booted, worked in and powered off.

It has no network but loopback and a wire that leads nowhere, `wire0`, on which everything that would leave is counted.
"""

import os
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

PROGRAMS = {"mmdebstrap": "mmdebstrap", "systemd-nspawn": "systemd-container", "nsenter": "util-linux"}
SOURCES = (Path("/etc/apt/sources.list.d/debian.sources"), Path("/etc/apt/sources.list"))
INSIDE = "systemd-sysv,dbus,python3-venv,sudo,curl,openssl,iproute2"
OPERATOR = "keeper"  # who installs and looks after edged, by sudo
_V1_CONTROLLERS = ("memory", "pids", "devices")


def needs() -> str:
    """What is missing for a box here; empty when nothing is."""
    missing = sorted(package for program, package in PROGRAMS.items() if shutil.which(program) is None)
    if os.getuid() != 0:
        return "only root can boot a container"
    if missing:
        return f"a box cannot be booted (Debian: apt install {' '.join(missing)})"
    if not any(path.exists() for path in SOURCES) or "debian" not in _os_release().values():
        return "a box is made from this machine's own Debian sources, and there are none"
    return ""


def require() -> None:
    """Skips the test where no box can be booted; in CI that is a failure."""
    if reason := needs():
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


def _os_release() -> dict[str, str]:
    lines = Path("/etc/os-release").read_text().splitlines()
    return {key: value.strip('"') for key, _, value in (line.partition("=") for line in lines)}


class Box:
    """One such Debian, in a folder."""

    def __init__(self, root: Path) -> None:
        """Makes it, from the packages of this machine's release; nothing runs in it yet."""
        self.root, self._log = root, root.with_suffix(".log")
        self._container: subprocess.Popen[bytes] | None = None
        self._init = 0
        sources = next(path for path in SOURCES if path.exists())
        command = ["mmdebstrap", "--variant=minbase", f"--include={INSIDE}", "--dpkgopt=force-unsafe-io", "--quiet"]
        command += ["--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*"]
        self._outside([*command, _os_release()["VERSION_CODENAME"], root, sources])
        (root / "var/log/journal").mkdir(exist_ok=True)
        # What a person would wait for or be asked, and what a minimal Debian has no use for.
        self._outside(["systemctl", f"--root={root}", "mask", "systemd-resolved", "getty.target"])
        self.chroot(f"useradd --create-home --shell /bin/sh {OPERATOR}")
        self.write("/etc/sudoers.d/keeper", f"{OPERATOR} ALL=(ALL) NOPASSWD: ALL\n")
        self.write("/etc/resolv.conf", "nameserver 192.0.2.53\n")  # nobody; sudo looks its own host up, so:
        self.write("/etc/hosts", "127.0.0.1 localhost box\n")
        self.write("/etc/hostname", "box\n")

    def write(self, path: str, text: str) -> None:
        """A file of root's, in a folder that may have to be made."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def chroot(self, script: str) -> None:
        """Runs a script in it while it is not booted."""
        self._outside(["chroot", self.root, "sh", "-ec", script])

    def boot(self) -> None:
        """Starts it, and waits until systemd says that it is up."""
        # bpf makes IPAddressDeny real. No registration: there may be no machined, nor a D-Bus, on this side.
        options = ["--register=no", "--keep-unit", "--console=pipe", "--private-network", "--resolv-conf=off"]
        options += ["--timezone=off", "--capability=all", "--system-call-filter=bpf", "--hostname=box"]
        # A name that was never used: what nspawn keeps of the last one may be in the way.
        options.append(f"--machine=edged-{uuid.uuid4().hex}")
        with self._log.open("ab") as log:
            self._container = subprocess.Popen(
                ["systemd-nspawn", "--quiet", "-D", self.root, *options, "--boot"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for_init()

    def reboot(self) -> None:
        """Shuts it down as `reboot` would, and starts it again."""
        self.power_off()
        self.boot()

    def _wait_for_init(self) -> None:
        assert self._container is not None
        children = Path(f"/proc/{self._container.pid}/task/{self._container.pid}/children")

        def is_up() -> bool:
            assert self._container is not None
            assert self._container.poll() is None, self._log.read_text()
            # Asked anew each time: nspawn's first child only makes the second, which is the container's PID 1.
            self._init = int(next(iter(children.read_text().split()), 0))
            # `is-system-running` cannot be asked before systemd has its socket.
            return bool(self._init) and self.done("systemctl is-system-running --wait | grep -qE 'running|degraded'")

        try:
            until(is_up, "the boot", 90)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self._log.read_text()}") from None
        for controller in _V1_CONTROLLERS:  # where the host has them, nspawn mounts them read-only: no limit would hold
            if self.done(f"mountpoint -q /sys/fs/cgroup/{controller}"):
                self.run(f"mount -o remount,bind,rw /sys/fs/cgroup/{controller}")
        self.run("systemctl daemon-reexec")
        # Nothing is plugged in at the other end: what wire0 sends is lost, and counted.
        self.run(
            "ip link add wire0 type veth peer name wire1\n"
            "for end in wire0 wire1; do echo 1 > /proc/sys/net/ipv6/conf/$end/disable_ipv6; ip link set $end up; done\n"
            "ip address add 192.0.2.1/24 dev wire0; ip route add default dev wire0"
        )

    def power_off(self) -> None:
        """Shuts it down, or ends it."""
        if self._container is None:
            return
        self.run("systemctl poweroff", check=False)
        try:
            self._container.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self._container.pid, signal.SIGKILL)
            self._container.wait()
        self._container = None

    def run(self, script: str, *, user: str = "root", check: bool = True, timeout: float = 120) -> str:
        """Runs a script in it as a user, in their home; what it printed, on both outputs."""
        done = self._run(script, user, timeout)
        assert not check or done.returncode == 0, f"{script}\nexit code {done.returncode}\n{done.stdout}"
        return done.stdout

    def done(self, script: str, *, user: str = "root") -> bool:
        """Whether a script ends with 0."""
        return self._run(script, user, 120).returncode == 0

    def _run(self, script: str, user: str, timeout: float) -> "subprocess.CompletedProcess[str]":
        enter = ["nsenter", "-t", str(self._init), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w", "--"]
        become = ["env", "-i", "PATH=/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"]
        if user != "root":
            become += ["runuser", "-u", user, "--"]
        return subprocess.run(
            [*enter, *become, "sh", "-ec", f"cd ~{user}\n{script}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
        )

    def left(self) -> int:
        """How many packets would have left it since it was booted."""
        return int(self.run("cat /sys/class/net/wire0/statistics/tx_packets"))

    def _outside(self, command: Sequence[object]) -> None:
        done = subprocess.run(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}"


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """What `condition` returns once that is true; as tests.edged.making.until, at a pace for commands."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)
    return found

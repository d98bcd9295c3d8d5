"""A box with what an operator carries to it: a checkout, the wheels, a bundle; and a user who drops pictures."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from edged import __version__
from tests.boot.box import OPERATOR, Box, require
from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
CHECKOUT = f"home/{OPERATOR}"


@pytest.fixture(scope="session")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Box]:
    """Booted, with nothing of edged installed."""
    require()
    box = Box(tmp_path_factory.mktemp("box") / "debian")
    checkout = box.root / CHECKOUT
    for folder in ("systemd", "configs"):
        shutil.copytree(ROOT / folder, checkout / folder)
    shutil.copytree(TINY, checkout / "bundles" / "parts")
    _collect_wheels(box, checkout / "dist")
    _build_package(checkout / "dist")
    # pip finds in a folder what it would find on the network.
    box.write("/etc/pip.conf", f"[global]\nno-index = true\nfind-links = /{CHECKOUT}/dist\n")
    box.chroot(f"chown -R {OPERATOR}: /{CHECKOUT}; useradd --create-home --shell /bin/sh camera")
    try:
        box.boot()
        yield box
    finally:
        box.power_off()


def _build_package(dist: Path) -> None:
    """`make deb` on this machine, which has the box's Debian, from the wheels in a folder; and a later version."""
    build = ROOT / "debian" / "build.sh"
    pip = Path(sys.executable).with_name("pip")
    wheel = dist / f"edged-{__version__}-py3-none-any.whl"
    _run([build, wheel, dist, "--no-index", "--find-links", dist], PIP=str(pip))
    (package,) = dist.glob("*.deb")
    unpacked = dist.parent / "unpacked"
    _run(["dpkg-deb", "-R", package, unpacked])
    control = unpacked / "DEBIAN" / "control"
    control.write_text(control.read_text().replace(f"Version: {__version__}", f"Version: {__version__}.post1"))
    for name in ("etc/edged/edged.toml", "usr/share/edged/gpu.conf"):
        with (unpacked / name).open("a") as file:
            file.write("# of a later version\n")
    later = package.with_name(package.name.replace(__version__, f"{__version__}.post1"))
    _run(["dpkg-deb", "--root-owner-group", "-Znone", "--build", unpacked, later])
    shutil.rmtree(unpacked)


def _run(command: Sequence[object], **environment: str) -> None:
    done = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _collect_wheels(box: Box, dist: Path) -> None:
    """The wheel of this checkout, and those that it needs, for the Python of the box."""
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", dist, ROOT]
    python = next((box.root / "usr/bin").glob("python3.*[0-9]")).name.removeprefix("python")
    download = ["download", "--only-binary=:all:", "--python-version", python, "--dest", dist]
    wheel = dist / f"edged-{__version__}-py3-none-any.whl"
    with_extras = f"{wheel}[cpu,video,mqtt,opcua,webhook]"
    for arguments in (build, [*download, "--constraint", ROOT / "constraints.txt", with_extras]):
        _run([*pip, *arguments])

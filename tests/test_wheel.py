"""The wheel holds `edged` alone, and runs where nothing of training is installed."""

import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from edged import __version__
from tests.conftest import TINY
from tests.edged.making import bad, good

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [*pip, "--disable-pip-version-check", "--wheel-dir", str(out), str(ROOT)], check=True, capture_output=True
    )
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_edged_alone(wheel: Path) -> None:
    assert wheel.stat().st_size <= 1_000_000
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        scripts = archive.read(f"edged-{__version__}.dist-info/entry_points.txt").decode()
    assert {name.split("/")[0] for name in names} == {"edged", f"edged-{__version__}.dist-info"}
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "edged").rglob("*.py")}
    assert sources <= set(names)
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert "edged = edged.cli:main" in scripts


def closure(requirement: str, extras: frozenset[str] = frozenset()) -> Iterator[str]:
    """Names of the installed distributions that one needs, itself included."""
    from packaging.requirements import Requirement

    todo, done = [(requirement, extras)], set[tuple[str, frozenset[str]]]()
    while todo:
        name, wanted = todo.pop()
        name = re.sub(r"[-_.]+", "-", name).lower()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        yield name
        for text in metadata.distribution(name).requires or ():
            needed = Requirement(text)
            environments = [{"extra": extra} for extra in ("", *wanted)]
            if needed.marker is None or any(needed.marker.evaluate(one) for one in environments):
                todo.append((needed.name, frozenset(needed.extras)))


@pytest.fixture(scope="module")
def clean(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel and links to what `edged[cpu]` depends on: no more, and no network."""
    home = tmp_path_factory.mktemp("clean") / "venv"
    venv.create(home, symlinks=True, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    for name in set(closure("edged", frozenset({"cpu"}))) - {"edged"}:
        distribution = metadata.distribution(name)
        for top in {Path(str(file)).parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            target = Path(str(distribution.locate_file(top)))
            if target.exists() and not (site / top).exists():
                (site / top).symlink_to(target)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*pip, "--target", str(site), str(wheel)], check=True, capture_output=True)
    return home / "bin" / "python"


def run(clean: Path, *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(
        [str(clean), *arguments], capture_output=True, text=True, cwd=cwd, env=environment, timeout=120, check=False
    )


def test_the_clean_environment_is_clean(clean: Path, tmp_path: Path) -> None:
    for module in ("torch", "onnx", "scipy", "pytest", "train", "export"):
        assert "ModuleNotFoundError" in run(clean, "-c", f"import {module}", cwd=tmp_path).stderr
    where = run(clean, "-c", "import edged; print(edged.__file__)", cwd=tmp_path)
    assert where.stdout.startswith(str(clean.parents[1]))


def test_it_scores_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(good())
    (tmp_path / "bad.png").write_bytes(bad())
    done = run(clean, "-m", "edged", "score", str(TINY), "good.png", "bad.png", "--fail-on-anomaly", cwd=tmp_path)
    assert done.returncode == 3, done.stderr
    first, second = done.stdout.splitlines()
    assert first.startswith("ok ")
    assert second.startswith("ANOMALY")
    assert "1.9944" in second


def test_every_module_imports_in_a_clean_environment(clean: Path, tmp_path: Path) -> None:
    program = (
        "import importlib, pkgutil, edged\n"
        "names = [module.name for module in pkgutil.walk_packages(edged.__path__, 'edged.')]\n"
        "[importlib.import_module(name) for name in names if name != 'edged.__main__']\n"
        "print(len(names))\n"
    )
    done = run(clean, "-c", program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 25


def test_a_check_says_which_extra_is_missing(clean: Path, tmp_path: Path) -> None:
    broker = 'type = "mqtt"\nurl = "mqtt://localhost"\ntopic = "a"'
    (tmp_path / "edged.toml").write_text(
        f'[service]\nstate_dir = "{tmp_path}/state"\n[models.tiny]\npath = "{TINY}"\n'
        f'[[sources]]\nname = "cell"\nmodel = "tiny"\n{broker}\n[[sinks]]\nname = "out"\n{broker}\n'
    )
    done = run(clean, "-m", "edged", "check", "-c", "edged.toml", cwd=tmp_path)
    assert done.returncode == 2
    for where in ("sources.cell", "sinks.out"):
        assert f'{where}.type: needs the package paho, which is not installed: pip install "edged[mqtt]"' in done.stderr

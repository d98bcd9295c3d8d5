"""What every test may use: the tiny bundle, and folders."""

import shutil
from pathlib import Path

import pytest

from train.threads import wait_asleep

wait_asleep()  # before any test imports torch

TINY = Path(__file__).parent / "data" / "tiny"


@pytest.fixture(scope="session")
def tiny() -> Path:
    """A real bundle of a few kB; not to be changed."""
    return TINY


@pytest.fixture
def tiny_copy(tmp_path: Path) -> Path:
    """A copy of the tiny bundle that a test may change."""
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))

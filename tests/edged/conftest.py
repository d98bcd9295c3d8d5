"""Daemons for tests, which end with them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edged.brokers import Broker
from tests.edged.daemons import Site
from tests.edged.killing import Line, other_file_system


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """A daemon that is not started, with one inbox."""
    one = Site(tmp_path)
    yield one
    one.clean_up()


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    """A daemon that is not started, with an inbox for each `after`, and one that moves to another file system."""
    far = other_file_system(tmp_path)
    one = Line(tmp_path, seed=1, far=far)
    yield one
    one.clean_up()
    if far is not None:
        shutil.rmtree(far)


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    """An MQTT broker that runs, and remembers across kills."""
    one = Broker(tmp_path)
    yield one
    one.close()

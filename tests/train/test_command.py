"""How the command lines of training and export talk."""

from pathlib import Path

import pytest

from train import command
from train.errors import TrainError


def test_what_somebody_wrote_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def work(_: object) -> None:
        raise TrainError("--groups time:abc: [red]a\x1b[0m:100:")

    assert command.run("train", tmp_path, work) == 2
    assert capsys.readouterr().err == "train: --groups time:abc: [red]a\\x1b[0m:100:\n"

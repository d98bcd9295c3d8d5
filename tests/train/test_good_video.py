"""`python -m train ae --good VIDEO:START-END...`: frames of videos as good pictures."""

import json
from pathlib import Path

import pytest

from edged.models.scorer import Scorer
from export.__main__ import main as export
from tests.edged.sources.video.making import FPS, write_h264
from tests.train.plates import folder, part
from train import run
from train.__main__ import main

QUICK = [word for setting in ("size=64", "epochs=2", "width=8", "latent=4") for word in ("--set", setting)]


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve seconds."""
    pictures = (part(number, size=32) for number in range(12 * FPS))
    return write_h264(tmp_path_factory.mktemp("film") / "shift.mkv", pictures)


def test_stretches_are_groups_of_frames_that_the_run_keeps(film, tmp_path, capsys):
    out = tmp_path / "run"
    stretches = [f"{film}:0-3", f"{film}:4-0:07", f"{film}:8-12"]
    assert main(["ae", "--good", *stretches, "--fps", "4", "--set", "target_fpr=0.1", *QUICK, "--out", str(out)]) == 0
    said = capsys.readouterr().err
    assert "40 frames in 3 stretches, of which 40 differ" in said
    assert "least like the others: " in said
    assert "sequence:" not in said
    trained = run.load(out)
    pictures = trained.part("fit")
    assert len(pictures) == 40
    assert {picture.group for picture in pictures} == {
        str(out / "frames" / "shift" / name) for name in ("0-3", "4-7", "8-12")
    }
    assert all(Path(picture.path).is_file() for picture in pictures)
    assert 1 <= trained.facts["out_of_fold"]["margin"] <= 2

    assert export([str(out), "--out", str(tmp_path / "bundle")]) == 0
    scorer = Scorer.load(tmp_path / "bundle", device="cpu")
    assert scorer.threshold.n == 40
    assert scorer.threshold.value == pytest.approx(
        sorted(trained.facts["out_of_fold"]["scores"])[-4], rel=0.05
    )  # the 37th of 40
    # And more of it later.
    words = ["ae", "--update", str(out), "--good", f"{film}:3-4", "--fps", "4", "--out", str(tmp_path / "more")]
    assert main(words) == 0
    assert len(run.load(tmp_path / "more").part("fit")) == 44


def test_a_lone_stretch_is_held_out_in_ten_pieces(film, tmp_path):
    assert main(["ae", "--good", str(film), *QUICK, "--out", str(tmp_path / "run")]) == 0
    pictures = json.loads((tmp_path / "run" / "pictures.json").read_text())
    assert len(pictures) == 60
    assert len({picture["group"] for picture in pictures}) == 10


def test_what_good_may_not_name(film, tmp_path, capsys):
    pictures = str(folder(tmp_path / "good", 3))
    for good, more, message in (
        ([str(film), pictures], [], "is no video; name one folder, or videos alone"),
        ([pictures, pictures], [], "is no video; name one folder, or videos alone"),
        ([f"{film}:5-4"], [], "write seconds, or minutes:seconds"),
        ([f"{film}:50-60"], [], "no frames from 50-60 s"),
        ([str(film)], ["--set", "input=signal"], "this model takes signals"),
    ):
        assert main(["ae", "--good", *good, *more, "--out", str(tmp_path / "run")]) == 2
        assert message in capsys.readouterr().err
        assert not list(tmp_path.glob("*run*"))
    with pytest.raises(SystemExit):
        main(["ae", "--good", str(film), "--fps", "-1", "--out", str(tmp_path / "run")])
    assert "0 to 1000" in capsys.readouterr().err

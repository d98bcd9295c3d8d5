"""`python -m train ae`, whole: a folder of pictures -> a run directory."""

import json

import numpy as np
import pytest
import torch

from tests.train.plates import folder, part
from train import run
from train.__main__ import main

TINY = ["--set", "backbone=pixels", "--set", "size=32", "--set", "channels=1", "--set", "width=8", "--set", "latent=4"]
QUICK = [*TINY, "--set", "epochs=4", "--set", "target_fpr=0.1"]


def train(good, out, *more):
    return main(["ae", "--good", str(good), "--out", str(out), *more])


def scores(trained, pictures):
    image = np.stack([np.repeat(picture[..., None], trained.config.channels, axis=2) for picture in pictures])
    return trained.detector(torch.from_numpy(image))[0].numpy()


def test_a_run_holds_everything_that_export_needs(tmp_path):
    bad = folder(tmp_path / "bad", 5, first=900, blot=True)
    assert train(folder(tmp_path / "good", 60), tmp_path / "run", *QUICK, "--bad", str(bad)) == 0
    loaded = run.load(tmp_path / "run")
    counts = {name: len(loaded.part(name)) for name in ("fit", "statistics", "calibration", "bad")}
    assert counts == {"fit": 43, "statistics": 8, "calibration": 9, "bad": 5}
    assert loaded.facts["kind"] == "ae"
    assert loaded.facts["packages"]["torch"] == torch.__version__
    metrics = [json.loads(line) for line in (tmp_path / "run" / run.METRICS).read_text().splitlines()]
    assert [line["event"] for line in metrics] == ["epoch"] * 4 + ["head"]
    assert metrics[-2]["loss_statistics"] < metrics[0]["loss_statistics"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bad", "good", "run"]


def test_it_tells_a_blot_from_a_good_part(tmp_path):
    assert train(folder(tmp_path / "good", 60), tmp_path / "run", *QUICK) == 0
    loaded = run.load(tmp_path / "run")
    good = scores(loaded, [part(500 + index, size=32) for index in range(20)])
    bad = scores(loaded, [part(600 + index, size=32, blot=True) for index in range(20)])
    assert (good > 0).all()
    assert np.mean(bad[:, None] > good) > 0.95


def test_the_same_seed_gives_the_same_run(tmp_path):
    good = folder(tmp_path / "good", 40)
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert train(good, tmp_path / name, *QUICK, "--set", f"seed={seed}") == 0
    one, two, other = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two", "other")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["head.mean"], other["head.mean"])


@pytest.mark.parametrize(
    ("prepare", "more", "message"),
    [
        (lambda root: None, [], "there is no such folder"),
        (lambda root: folder(root / "good", 3), [], "training takes 12"),
        (lambda root: [folder(root / "good", 12), (root / "run").mkdir()], [], "exists already"),
        (lambda root: folder(root / "good", 12), ["--set", "epoch=2"], "did you mean epochs"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(tmp_path, capsys, prepare, more, message):
    prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert train(tmp_path / "good", tmp_path / "run", *QUICK, *more) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_warnings_are_shown_and_kept(tmp_path, capsys):
    good = folder(tmp_path / "good", 30)
    (good / "broken\x1b[31m.png").write_bytes(b"x")
    assert train(good, tmp_path / "run", *QUICK, "--set", "target_fpr=0.01") == 0
    shown = capsys.readouterr().err
    assert "warning: unreadable: 1 of 31" in shown
    assert "\x1b" not in shown
    assert "next: python -m export" in shown
    assert [line.split(":")[0] for line in run.load(tmp_path / "run").facts["warnings"]] == ["unreadable", "too-few"]


@pytest.mark.parametrize("damage", ["config.json", "weights.pt", "run.json"])
def test_a_damaged_run_is_refused(tmp_path, damage):
    assert train(folder(tmp_path / "good", 20), tmp_path / "run", *QUICK) == 0
    (tmp_path / "run" / damage).write_bytes(b"{}")
    with pytest.raises(run.TrainError, match="train again"):
        run.load(tmp_path / "run")

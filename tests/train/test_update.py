"""`python -m train ae --update`: more good pictures for a run."""

import json

import numpy as np
import pytest
import torch

from edged.models.scorer import Scorer
from export.__main__ import main as export
from tests.train.plates import folder
from train import run
from train.__main__ import main

QUICK = [word for setting in ("size=64", "epochs=2", "width=8", "latent=4") for word in ("--set", setting)]


def train(good, out, *more):
    return main(["ae", "--good", str(good), "--out", str(out), *more])


@pytest.mark.parametrize("calibration", ["split", "cross"])
def test_more_pictures_fit_and_calibrate_and_the_network_stays(tmp_path, calibration):
    good, more = folder(tmp_path / "good", 20), folder(tmp_path / "more", 20, first=500)
    bad = folder(tmp_path / "bad", 4, first=900, blot=True)
    options = [*QUICK, "--set", "target_fpr=0.1", "--set", f"calibration={calibration}", "--bad", str(bad)]
    assert train(good, tmp_path / "run", *options) == 0
    assert main(["ae", "--update", str(tmp_path / "run"), "--good", str(more), "--out", str(tmp_path / "new")]) == 0
    before, after = run.load(tmp_path / "run"), run.load(tmp_path / "new")

    counts = {name: len(after.part(name)) for name in ("fit", "statistics", "calibration", "bad")}
    whole = {"fit": 40, "statistics": 0, "calibration": 0, "bad": 4}
    assert counts == (whole if calibration == "cross" else {"fit": 26, "statistics": 5, "calibration": 9, "bad": 4})
    # What was fitted on never calibrates.
    parts = {picture.content: picture.part for picture in after.pictures}
    assert all(parts[picture.content] == picture.part for picture in before.pictures)
    for name in ("extractor", "autoencoder"):
        old, new = (getattr(one.detector, name).state_dict() for one in (before, after))
        assert all(torch.equal(old[key], new[key]) for key in old)
    assert not torch.equal(before.detector.head.mean, after.detector.head.mean)
    page = tmp_path / "new" / "suspects.html"
    if calibration == "split":
        assert not page.exists()
    else:  # of those that were there before and of new ones
        assert page.read_text().count("data:image/png;base64,") == 8
    assert after.facts["updated_from"]["pictures"] == after.facts["updated_from"]["added"] == 20

    assert export([str(tmp_path / "new"), "--out", str(tmp_path / "bundle")]) == 0
    scorer = Scorer.load(tmp_path / "bundle", device="cpu")
    assert scorer.threshold.n == (40 if calibration == "cross" else 9)
    assert scorer.bundle.manifest.provenance["updated_from"]["run"] == "run"
    assert "update of the run `run`" in (tmp_path / "bundle" / "card.md").read_text()
    # And again: features of all of them are kept.
    again = folder(tmp_path / "again", 5, first=700)
    assert main(["ae", "--update", str(tmp_path / "new"), "--good", str(again), "--out", str(tmp_path / "newer")]) == 0
    assert run.load(tmp_path / "newer").facts["updated_from"]["before"]["added"] == 20


def test_an_update_is_fitted_as_all_at_once_would_be(tmp_path):
    """With the same network, the head of an update is that of its features, whatever order they came in."""
    good, more = folder(tmp_path / "good", 20), folder(tmp_path / "more", 12, first=500)
    options = [*QUICK, "--set", "target_fpr=0.1", "--set", "calibration=cross", "--set", "brightness=0"]
    assert train(good, tmp_path / "run", *options) == 0
    assert main(["ae", "--update", str(tmp_path / "run"), "--good", str(more), "--out", str(tmp_path / "new")]) == 0
    after = run.load(tmp_path / "new")
    values = np.load(tmp_path / "new" / run.FEATURES)
    assert values.shape[0] == len(after.part("fit")) == 32
    with torch.no_grad():
        standard = (torch.from_numpy(values).float() - after.detector.center) / after.detector.scale
        residual = standard - after.detector.autoencoder(standard)
    torch.testing.assert_close(after.detector.head.mean, residual.mean(dim=0), rtol=1e-3, atol=1e-3)


def test_what_cannot_be_updated(tmp_path, capsys):
    good = folder(tmp_path / "good", 12)
    assert train(good, tmp_path / "run", *QUICK) == 0
    capsys.readouterr()
    for more, message in (
        ([], "has all of these pictures already; nothing"),
        (["--set", "size=128"], "--set: --update keeps what the run was trained with"),
        (["--denoiser", str(tmp_path / "run")], "is no bundle"),
    ):
        words = ["ae", "--update", str(tmp_path / "run"), "--good", str(good), "--out", str(tmp_path / "new"), *more]
        assert main(words) == 2
        assert message in capsys.readouterr().err
        assert not (tmp_path / "new").exists()
    bad = folder(tmp_path / "bad", 3, first=900, blot=True)
    assert train(good, tmp_path / "with-bad", *QUICK, "--bad", str(bad)) == 0
    words = ["ae", "--update", str(tmp_path / "with-bad"), "--good", str(bad), "--out", str(tmp_path / "new")]
    assert main(words) == 2
    assert "already, and 3 of them as bad ones, such as " in capsys.readouterr().err
    pixels = ["--set", "backbone=pixels", "--set", "size=32", "--set", "width=8", "--set", "epochs=1"]
    assert train(good, tmp_path / "pixels", *pixels) == 0
    words = ["ae", "--update", str(tmp_path / "pixels"), "--good", str(good), "--out", str(tmp_path / "new")]
    assert main(words) == 2
    assert "only autoencoders on features can be updated" in capsys.readouterr().err
    assert json.loads((tmp_path / "run" / "run.json").read_text())["regions_follow"] is True

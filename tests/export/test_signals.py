"""Signals, whole: files -> run -> bundle -> `edged score`, `calibrate`, `inspect`, and the daemon."""

import json

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from edged.cli import app
from edged.media.signals import SignalInput
from edged.models import bundle as bundles
from edged.models.scorer import Scorer
from export.__main__ import main as export
from tests.edged.daemons import Site
from tests.train.beats import beat, folder
from train import run
from train.__main__ import main as train

SETTINGS = ["input=signal", "width=8", "latent=3", "epochs=40", "batch_size=8", "target_fpr=0.1", "patch=6"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Good and bad signals, a run and a bundle; not to be changed."""
    root = tmp_path_factory.mktemp("signals")
    good, bad = folder(root / "good", 60), folder(root / "bad", 6, first=900, bad=True)
    given = [item for setting in SETTINGS for item in ("--set", setting)]
    assert train(["ae", "--good", str(good), "--bad", str(bad), *given, "--out", str(root / "run")]) == 0
    assert export([str(root / "run"), "--out", str(root / "beats")]) == 0
    return root


def edged(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_what_a_bundle_of_signals_holds(root):
    bundle = bundles.load(root / "beats")
    assert bundle.manifest.input == SignalInput(1, 50)
    assert bundle.manifest.backbone == "samples"
    assert {name: (output.dtype, output.shape) for name, output in bundle.manifest.outputs.items()} == {
        "score": ("float32", ["N"]),
        "anomaly_map": ("float32", ["N", 1, 9]),
        "reconstruction": ("float32", ["N", 1, 50]),
    }
    (signal,) = onnx.load(root / "beats" / "model.onnx").graph.input
    assert signal.name == "signal"
    assert [d.dim_param or d.dim_value for d in signal.type.tensor_type.shape.dim] == ["N", 1, 50]
    golden = bundle.golden()
    assert (golden.image.dtype, golden.image.shape) == (np.float32, (3, 1, 50))
    assert bundle.manifest.provenance["metrics"]["recall"] == 1
    card = (root / "beats" / "card.md").read_text()
    assert "An autoencoder that scores signals" in card
    assert "1 channel(s) of 50 samples" in card
    assert "stands for 6 samples" in card
    assert "picture" not in card
    with Image.open(root / "beats" / "examples.png") as image:
        assert min(image.size) > 300


def test_edged_scores_as_torch_does(root):
    served, trained = Scorer.load(root / "beats", device="cpu"), run.load(root / "run")
    signals = np.stack([beat(700 + n, bad=n > 2) for n in range(5)])
    expected = [output.numpy() for output in trained.detector(torch.from_numpy(signals))]
    got = (*served.scores(signals), served.reconstruct(signals))
    for ours, torchs in zip(got, expected, strict=True):
        np.testing.assert_allclose(ours, torchs, rtol=1e-3, atol=1e-3)


def test_half_precision_keeps_a_signals_unit(tmp_path):
    """A patch of 256 samples or more has so many centres and scales that they count as large."""
    (tmp_path / "good").mkdir()
    for number in range(20):
        np.save(tmp_path / "good" / f"{number}.npy", beat(number, length=600) * 1e-8)
    given = [item for setting in SETTINGS[:-1] for item in ("--set", setting)]
    good = ["--good", str(tmp_path / "good"), "--set", "patch=300", "--out", str(tmp_path / "run")]
    assert train(["ae", *given, *good]) == 0
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "b"), "--precision", "fp16"]) == 0
    served, signals = Scorer.load(tmp_path / "b", device="cpu"), np.stack([beat(500, length=600) * np.float32(1e-8)])
    expected = run.load(tmp_path / "run").detector(torch.from_numpy(signals))[2].numpy()
    np.testing.assert_allclose(served.reconstruct(signals), expected, atol=0.02e-8)


@pytest.mark.parametrize("seed", [3, 45])
def test_few_signals_give_scores_above_zero(tmp_path, seed):
    folder(tmp_path / "good", 12)
    given = ["input=signal", "width=4", "epochs=2", f"seed={seed}"]
    settings = [item for setting in given for item in ("--set", setting)]
    assert train(["ae", "--good", str(tmp_path / "good"), *settings, "--out", str(tmp_path / "run")]) == 0
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "b")]) == 0
    assert min(bundles.load(tmp_path / "b").calibration.scores) > 0


def test_int8_has_nothing_to_quantise(root, tmp_path, capsys):
    assert export([str(root / "run"), "--out", str(tmp_path / "b"), "--precision", "int8"]) == 2
    assert "use fp16" in capsys.readouterr().err


def test_score_takes_good_and_bad_files_and_names_the_broken(root, tmp_path):
    new = folder(tmp_path / "new", 10, first=500)
    np.save(new / "bad.npy", beat(901, bad=True))
    np.save(new / "nan.npy", np.full(50, np.inf))
    np.save(new / "long.npy", np.zeros(51))
    (new / "text.csv").write_text("no\nnumbers\n")
    (new / "readme.txt").write_text("not looked at")
    done = edged("score", root / "beats", new, "--json", "--heatmaps", tmp_path / "maps")
    assert done.exit_code == 1
    rows = {line["path"].rsplit("/")[-1]: line for line in map(json.loads, done.stdout.splitlines())}
    assert len(rows) == 14
    assert rows["bad.npy"]["is_anomaly"]
    assert sum(bool(row["is_anomaly"]) for row in rows.values()) <= 4
    assert [rows[name]["reason"] for name in ("nan.npy", "long.npy", "text.csv")] == [
        "unsupported",
        "unsupported",
        "undecodable",
    ]
    assert len(list((tmp_path / "maps").glob("*.png"))) == 11


def test_calibrate_and_inspect(root, tmp_path):
    assert export([str(root / "run"), "--out", str(tmp_path / "b")]) == 0
    done = edged("calibrate", tmp_path / "b", "--good", folder(tmp_path / "new", 20, first=300), "--target-fpr", "0.05")
    assert done.exit_code == 0, done.output
    assert "from 20 signals" in done.stdout
    shown = edged("inspect", tmp_path / "b").stdout
    assert "ae on samples, fp32" in shown
    assert "input: signals of 1 channel(s) of 50 samples" in shown
    assert "calibration: 20 good signals" in shown


def test_what_only_pictures_have_is_refused(root, tmp_path):
    done = edged("denoise", root / "beats", root / "good", "--out", tmp_path / "clean")
    assert done.exit_code == 2
    assert "takes signals, and only pictures can be cleaned" in done.output
    done = edged("sample", root / "beats", "--out", tmp_path / "grid.png")
    assert done.exit_code == 2
    assert "cannot sample" in done.output


def test_the_daemon_takes_signals_by_pattern(root, tmp_path):
    site = Site(tmp_path)
    overlays = f'[[sinks]]\nname = "maps"\ntype = "images"\ndir = "{site.overlays}"\n'
    site.configure('patterns = ["*.npy", "*.csv"]', bundle=root / "beats", rest=overlays)
    try:
        site.start()
        np.savetxt(site.inbox / "good.csv", beat(501)[0])
        np.save(site.inbox / "bad.npy", beat(901, bad=True))
        np.save(site.inbox / "objects.npy", np.array([{}] * 50, dtype=object), allow_pickle=True)
        Image.new("L", (50, 50)).save(site.inbox / "picture.png")
        rows = {row.path.rsplit("/")[-1]: row for row in site.wait_for_rows(3)}
        assert rows["good.csv"].is_anomaly is False
        assert rows["bad.npy"].is_anomaly is True
        assert (rows["objects.npy"].status, rows["objects.npy"].reason) == ("quarantined", "unsupported")
        assert site.stop() == 0
    finally:
        site.clean_up()
    (overlay,) = site.overlays.rglob("*.png")
    with Image.open(overlay) as image:
        assert image.size == (320, 120 + 54)

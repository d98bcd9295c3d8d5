"""Denoisers, VAEs and detectors behind a denoiser, whole: pictures -> run -> bundle -> edged."""

import json
import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from edged.cli import app
from edged.errors import BundleError
from edged.models import bundle as bundles
from edged.models.sampling import Sampler
from edged.models.scorer import Scorer
from export.__main__ import main as export
from tests.train.making import save, stripes
from train import run
from train.__main__ import main as train
from train.nets.vae import Decoder

SMALL = ["size=32", "channels=1", "width=8", "epochs=2", "target_fpr=0.1"]
SETTINGS = {
    "ae": ["backbone=pixels", "latent=4"],
    "denoiser": ["depth=2", "crop=32", "noise=0.1"],
    "vae": ["latent=4", "score=elbo", "elbo_samples=2"],
}


def make(root, kind, *more, through=None):
    """Trains and exports; returns the run and the bundle."""
    torch.set_num_threads(1)
    settings = [item for setting in (*SMALL, *SETTINGS[kind], *more) for item in ("--set", setting)]
    behind = ["--denoiser", str(through)] if through else []
    assert train([kind, "--good", str(root / "good"), *settings, *behind, "--out", str(root / f"{kind}-run")]) == 0
    assert export([str(root / f"{kind}-run"), *behind, "--out", str(root / kind)]) == 0
    return root / f"{kind}-run", root / kind


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    save(folder / "good", stripes(60))
    return folder


@pytest.fixture(scope="module")
def denoiser(root):
    return make(root, "denoiser")


@pytest.fixture(scope="module")
def vae(root):
    return make(root, "vae")


@pytest.fixture(scope="module")
def behind(root, denoiser):
    """An autoencoder that was fitted and calibrated behind the denoiser."""
    return make(root, "ae", through=denoiser[1])


def both(made, image):
    """Torch's outputs, and what edged gives for them."""
    source, bundle = made
    detector = run.load(source).detector
    expected = [value.numpy() for value in detector(torch.from_numpy(image))]
    served = Scorer.load(bundle, device="cpu", threads=1)
    return expected, served.session.run(list(detector.output_names), image)


@pytest.mark.parametrize("kind", ["denoiser", "vae"])
def test_edged_computes_what_torch_does(request, kind):
    expected, got = both(request.getfixturevalue(kind), stripes(5, seed=7))
    assert len(got) == {"denoiser": 3, "vae": 5}[kind]
    for ours, torchs in zip(got, expected, strict=True):
        assert (ours.dtype, ours.shape) == (torchs.dtype, torchs.shape)
        if ours.dtype == np.uint8:
            assert np.abs(ours.astype(int) - torchs.astype(int)).max() <= 1  # what lies between two levels
        else:
            np.testing.assert_allclose(ours, torchs, rtol=1e-3, atol=1e-3)


def test_a_denoisers_manifest(denoiser):
    bundle = bundles.load(denoiser[1])
    assert (bundle.manifest.kind, bundle.manifest.backbone, bundle.manifest.denoiser) == ("denoiser", "pixels", None)
    assert {name: output.shape for name, output in bundle.manifest.outputs.items()} == {
        "score": ["N"],
        "anomaly_map": ["N", 8, 8],
        "reconstruction": ["N", 32, 32, 1],
    }
    assert bundle.manifest.provenance["config"]["noise"] == [0.1, 0.1]
    card = (denoiser[1] / "card.md").read_text()
    assert "denoiser that cleans" in card
    assert "dB before" in card
    assert "golden.npz`, `examples.png`, `reconstructions.png` and `suspects.html` hold" in card


def test_a_vaes_manifest_and_decoder(vae):
    bundle = bundles.load(vae[1])
    assert bundle.manifest.kind == "vae"
    assert bundle.manifest.outputs["latent_mean"].shape == ["N", 4]
    assert bundle.manifest.outputs["latent_logvar"].shape == ["N", 4]
    assert bundle.manifest.outputs["latent_logvar"].dtype == "float32"
    assert bundle.manifest.outputs["reconstruction"].shape == ["N", 32, 32, 1]
    assert {"model.onnx", "decoder.onnx", "samples.png", "reconstructions.png", "learning.png"} <= set(
        bundle.manifest.files
    )
    assert "how many defects it finds is not known" in (vae[1] / "card.md").read_text()


def test_the_decoder_draws_what_torch_draws(vae):
    source, bundle = vae
    sampler = Sampler.load(Scorer.load(bundle, device="cpu"), device="cpu", threads=1)
    assert sampler.latent == 4
    z = np.random.default_rng(0).standard_normal((5, 4), dtype=np.float32)
    expected = Decoder(run.load(source).detector)(torch.from_numpy(z)).numpy()
    got = sampler.decode(z)
    assert (got.dtype, got.shape) == (np.uint8, (5, 32, 32, 1))
    assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1
    np.testing.assert_array_equal(sampler.prior(9, seed=3), sampler.prior(9, seed=3))
    two = Sampler.load(Scorer.load(bundle, device="cpu"), device="cpu", threads=2)
    assert np.abs(two.prior(9, seed=3).astype(int) - sampler.prior(9, seed=3).astype(int)).max() <= 1
    assert (sampler.prior(9, seed=3) != sampler.prior(9, seed=4)).any()


def test_the_elbo_is_the_score_and_the_same_every_time(vae):
    served = Scorer.load(vae[1], device="cpu", threads=1)
    image = stripes(6, seed=7)
    np.testing.assert_array_equal(served.scores(image)[0], served.scores(image)[0])
    strange = np.random.default_rng(0).integers(0, 256, image.shape, dtype=np.uint8)
    assert served.scores(strange)[0].min() > served.scores(image)[0].max()


def test_a_detector_behind_a_denoiser_says_which(denoiser, behind):
    served = Scorer.load(behind[1], device="cpu", threads=1)
    first = Scorer.load(denoiser[1], device="cpu", threads=1)
    wanted = served.bundle.manifest.denoiser
    assert (wanted.name, wanted.sha256) == ("denoiser", first.bundle.model_sha256)
    assert json.loads((behind[0] / "run.json").read_text())["denoiser"] == {"name": "denoiser", "sha256": wanted.sha256}
    assert served.with_denoiser(first).denoiser is first
    with pytest.raises(BundleError, match="calibrated behind the denoiser denoiser"):
        served.with_denoiser(None)


def test_it_was_calibrated_on_what_the_denoiser_gives(root, denoiser, behind):
    from PIL import Image

    served = Scorer.load(behind[1], device="cpu", threads=1)
    first = Scorer.load(denoiser[1], device="cpu", threads=1)
    paths = [picture.path for picture in run.load(behind[0]).part("calibration")]
    image = np.stack([np.asarray(Image.open(path))[..., None] for path in paths])
    cleaned = np.sort(served.scores(first.reconstruct(image))[0])
    np.testing.assert_allclose(cleaned, served.bundle.calibration.scores, rtol=1e-4)
    assert np.abs(np.sort(served.scores(image)[0]) - cleaned).max() > 1e-3


def test_pictures_that_the_denoiser_was_fitted_on_are_no_calibration(root, denoiser, tmp_path, capsys):
    settings = [item for setting in (*SMALL, *SETTINGS["ae"], "seed=1") for item in ("--set", setting)]
    command = ["ae", "--good", str(root / "good"), *settings, "--denoiser", str(denoiser[1]), "--out"]
    assert train([*command, str(tmp_path / "run")]) == 0
    assert "warning: denoiser-fit: the denoiser was fitted on " in capsys.readouterr().err
    assert export([str(tmp_path / "run"), "--denoiser", str(denoiser[1]), "--out", str(tmp_path / "b")]) == 0
    assert "denoiser-fit" in (tmp_path / "b" / "card.md").read_text()
    # Those that the denoiser was fitted on and the detector was not.
    fit = {item["path"] for item in json.loads((denoiser[0] / "pictures.json").read_text()) if item["part"] == "fit"}
    parts = {item["path"]: item["part"] for item in json.loads((tmp_path / "run" / "pictures.json").read_text())}
    (tmp_path / "again").mkdir()
    for path in fit:
        if parts[path] == "calibration":
            shutil.copy(path, tmp_path / "again")
    told = CliRunner().invoke(
        app, ["calibrate", str(tmp_path / "b"), "--denoiser", str(denoiser[1]), "--good", str(tmp_path / "again")]
    )
    known = len(list((tmp_path / "again").iterdir()))
    assert f"the model or its denoiser was fitted on {known} of these pictures" in told.stderr
    assert told.exit_code == 2  # none is left


def test_with_the_same_seed_both_set_the_same_pictures_aside(behind):
    assert json.loads((behind[0] / "run.json").read_text())["warnings"] == []


def test_another_denoiser_or_none_is_refused(root, denoiser, behind, vae, tmp_path, capsys):
    assert export([str(behind[0]), "--out", str(tmp_path / "b")]) == 2
    assert "was trained behind the denoiser denoiser" in capsys.readouterr().err
    assert export([str(vae[0]), "--denoiser", str(denoiser[1]), "--out", str(tmp_path / "b")]) == 2
    assert "was trained without a denoiser" in capsys.readouterr().err
    assert export([str(behind[0]), "--denoiser", str(vae[1]), "--out", str(tmp_path / "b")]) == 2
    assert "is of the kind vae" in capsys.readouterr().err
    good = str(root / "good")
    size = ["--set", "backbone=pixels", "--set", "size=64", "--set", "channels=1"]
    assert train(["ae", "--good", good, *size, "--denoiser", str(denoiser[1]), "--out", str(tmp_path / "b")]) == 2
    assert "set size, channels, resize and filter" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_half_precision(vae, tmp_path):
    assert export([str(vae[0]), "--out", str(tmp_path / "half"), "--precision", "fp16"]) == 0
    half, full = (Scorer.load(path, device="cpu", threads=1) for path in (tmp_path / "half", vae[1]))
    assert (tmp_path / "half" / "decoder.onnx").stat().st_size < (vae[1] / "decoder.onnx").stat().st_size
    image = stripes(5, seed=7)
    np.testing.assert_allclose(half.scores(image)[0], full.scores(image)[0], rtol=0.05)


def test_a_vae_on_features_has_no_pictures_to_give(root, tmp_path):
    settings = ["backbone=efficientnet-lite0", "size=64", "width=8", "latent=4", "epochs=1", "target_fpr=0.1"]
    more = [item for setting in settings for item in ("--set", setting)]
    assert train(["vae", "--good", str(root / "good"), *more, "--out", str(tmp_path / "run")]) == 0
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "b")]) == 0
    bundle = bundles.load(tmp_path / "b")
    assert set(bundle.manifest.outputs) == {"score", "anomaly_map", "latent_mean", "latent_logvar"}
    assert not {"samples.png", "reconstructions.png"} & set(bundle.manifest.files)
    assert "decoder.onnx" not in bundle.manifest.files

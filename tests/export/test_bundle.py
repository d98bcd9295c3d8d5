"""`python -m export`, whole: a run directory -> a bundle that edged takes."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from edged.cli import app
from edged.media.imaging import Limits, decode
from edged.models import bundle as bundles
from edged.models.manifest import NAME, Tolerance
from edged.models.scorer import Scorer
from edged.reports import about_bundle
from export.__main__ import main
from export.onnx import parity
from export.report import describe
from tests.train.plates import folder, part
from train import run
from train.__main__ import main as train
from train.errors import TrainError

PIXELS = ["backbone=pixels", "size=32", "channels=1", "width=8", "latent=4"]
FEATURES = ["size=64", "width=8", "latent=4"]


def make_run(root, settings):
    root.mkdir(exist_ok=True)
    good, bad = folder(root / "good", 40), folder(root / "bad", 6, first=900, blot=True)
    more = [item for setting in [*settings, "epochs=2", "target_fpr=0.1"] for item in ("--set", setting)]
    assert train(["ae", "--good", str(good), "--bad", str(bad), "--out", str(root / "run"), *more]) == 0
    return root / "run"


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("pixels"), PIXELS)


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("features"), FEATURES)


@pytest.fixture(scope="module")
def exported(pixels):
    """A bundle of the pixel model; not to be changed."""
    assert main([str(pixels), "--out", str(pixels.parent / "plate")]) == 0
    return pixels.parent / "plate"


@pytest.fixture
def moving(tmp_path, pixels):
    """A run whose pictures a test may take away."""
    shutil.copytree(pixels.parent, tmp_path / "moving")
    listed = tmp_path / "moving" / "run" / "pictures.json"
    listed.write_text(listed.read_text().replace(str(pixels.parent), str(tmp_path / "moving")))
    return tmp_path / "moving" / "run"


@pytest.mark.parametrize(("kind", "precision"), [("pixels", "fp32"), ("features", "fp16")])
def test_edged_scores_as_torch_does(tmp_path, request, kind, precision):
    source = request.getfixturevalue(kind)
    assert main([str(source), "--out", str(tmp_path / "b"), "--precision", precision]) == 0
    served, trained = Scorer.load(tmp_path / "b", device="cpu"), run.load(source)
    size, channels = trained.config.size[0], trained.config.channels
    image = np.stack([np.repeat(part(700 + n, size=size, blot=n > 2)[..., None], channels, axis=2) for n in range(5)])
    score, anomaly_map, *_ = trained.detector(torch.from_numpy(image))
    tolerance = 1e-3 if precision == "fp32" else 5e-2
    np.testing.assert_allclose(served.scores(image)[0], score.numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(served.scores(image)[1], anomaly_map.numpy(), rtol=tolerance, atol=tolerance)
    np.testing.assert_allclose(served.scores(image[3:4])[0], served.scores(image)[0][3:4], rtol=1e-4)
    assert served.golden.worst < 1


@pytest.mark.parametrize("settings", ["preset=fast", "preset=accurate", "stages=[3,4,5,6] stride=8 regions=4"])
def test_every_way_to_join_features_is_exported(tmp_path, settings):
    source = make_run(tmp_path, [*FEATURES, *settings.split()])
    assert main([str(source), "--out", str(tmp_path / "b")]) == 0
    served, trained = Scorer.load(tmp_path / "b", device="cpu"), run.load(source)
    image = np.stack([np.repeat(part(700 + n, size=64)[..., None], 3, axis=2) for n in range(2)])
    np.testing.assert_allclose(
        served.scores(image)[0], trained.detector(torch.from_numpy(image))[0].numpy(), rtol=1e-3, atol=1e-3
    )


def test_a_bundle_calibrated_on_a_part_of_its_own(tmp_path):
    source = make_run(tmp_path, [*FEATURES, "calibration=split"])
    assert main([str(source), "--out", str(tmp_path / "b")]) == 0
    bundle = bundles.load(tmp_path / "b")
    assert (bundle.calibration.n, bundle.calibration.method) == (9, "split")
    assert bundle.manifest.provenance["pictures"] == {"fit": 26, "statistics": 5, "calibration": 9, "bad": 6}
    assert len(bundle.manifest.fitted) == 26 + 5
    card = (tmp_path / "b" / "card.md").read_text()
    assert "| calibration | 9 |" in card
    # Beta(1, 9): a tenth on average, 1 - 0.05^(1/9) = 28 % with confidence.
    assert "calibrated on 9 good pictures: a false-positive rate of 10 % can be promised on average" in card
    assert "with 95 % confidence the true rate is below 28 %" in card


def test_what_a_bundle_holds(tmp_path, features):
    assert main([str(features), "--out", str(tmp_path / "solar")]) == 0
    bundle = bundles.load(tmp_path / "solar")
    assert (bundle.manifest.name, bundle.manifest.kind, bundle.manifest.backbone) == (
        "solar",
        "ae",
        "efficientnet-lite0",
    )
    assert bundle.manifest.licences["weights"].startswith("Apache-2.0")
    assert set(bundle.manifest.files) == {
        "model.onnx",
        "golden.npz",
        "card.md",
        "scores.png",
        "thresholds.png",
        "suspects.html",
        "roc.png",
        "examples.png",
        "learning.png",
        "LICENSE-weights.txt",
    }
    assert (bundle.calibration.n, bundle.calibration.method) == (40, "cross")
    assert bundle.manifest.provenance["pictures"] == {"fit": 40, "statistics": 0, "calibration": 0, "bad": 6}
    assert len(bundle.manifest.fitted) == 40
    assert 0.5 < bundle.manifest.provenance["metrics"]["auroc"] <= 1
    assert bundle.manifest.tolerance.rtol == 1e-3
    for name in ("scores.png", "thresholds.png", "roc.png", "examples.png", "learning.png"):
        with Image.open(tmp_path / "solar" / name) as image:
            assert min(image.size) > 100
    card = (tmp_path / "solar" / "card.md").read_text()
    assert "| fit | 40 | weights, covariances; the threshold, out of fold |" in card
    assert "| statistics |" not in card
    assert "epochs were trained, on all good pictures: none are held out" in card
    assert "All are judged together, by what each scores out of fold." in card
    assert "calibrated out of fold on all 40 good pictures, for a false-positive rate of 10 %. The promise is" in card
    assert "of the 6 bad pictures are flagged" in card
    finds = re.search(r"Your threshold finds (\d) of 6 of your bad pictures", card)
    assert finds
    assert f" | 3 of 40 (1.6 % to 20 %) | {finds[1]} | `target_fpr = 0.1` |" in card
    assert "| 10 %, in force | " in card
    assert "0.001, 0.005, 0.01 and 0.02 have the same threshold" in card
    assert "40 scores are too few to tell them apart; 99 good pictures begin to" in card
    assert bundle.manifest.map_reference.top == 3
    for page in (tmp_path / "solar" / "suspects.html", features / "suspects.html"):
        assert page.read_text().count("<figure>") == 8
        assert re.search(r"<strong>/.*/good/\d+\.png</strong>", page.read_text())
        assert "without it: threshold" in page.read_text()
        # What raises the highest score is coloured, though the model has learnt that picture.
        first = io.BytesIO(base64.b64decode(page.read_text().split("data:image/png;base64,")[1].split('"')[0]))
        left, right = np.split(np.asarray(Image.open(first)), 2, axis=1)
        assert not np.array_equal(left, right)
    assert ", finds" in (tmp_path / "solar" / "suspects.html").read_text()
    assert len(bundle.manifest.bad_scores) == 6
    assert "`golden.npz`, `examples.png` and `suspects.html` hold some of the pictures" in card


def test_an_outlier_in_the_good_folder_is_named(tmp_path, moving, capsys):
    outlier, *_ = pictures_of(moving, "statistics")
    listed = json.loads((moving / "pictures.json").read_text())
    Image.fromarray(part(900, blot=True)).save(outlier)
    for item in listed:
        if item["path"] == outlier:
            item["sha256"] = hashlib.sha256(Path(outlier).read_bytes()).hexdigest()
    (moving / "pictures.json").write_text(json.dumps(listed))
    assert main([str(moving), "--out", str(tmp_path / "b")]) == 0
    told = capsys.readouterr().err
    assert f"1 good picture looks like an outlier; look at it: {outlier}" in told
    assert "suspects.html shows them); what shows no good part goes into a list for --exclude" in told
    card = (tmp_path / "b" / "card.md").read_text()
    assert f"look at these:** `{Path(outlier).name}` (statistics, score" in card


def test_a_run_without_metrics_has_no_curves(tmp_path, moving):
    (moving / "metrics.jsonl").unlink()
    assert main([str(moving), "--out", str(tmp_path / "b")]) == 0
    assert not (tmp_path / "b" / "learning.png").exists()
    assert "Learning curves" not in (tmp_path / "b" / "card.md").read_text()
    assert "![Reconstructions](reconstructions.png)" in (tmp_path / "b" / "card.md").read_text()


def test_inspect_says_which_calibration_the_card_describes(tmp_path, exported):
    copy = shutil.copytree(exported, tmp_path / "plate")
    about = list(about_bundle(Scorer.load(copy, device="cpu")))
    assert "card: card.md and its pictures describe this calibration, which was made at export" in about
    told = CliRunner().invoke(app, ["calibrate", str(copy), "--good", str(exported.parent / "good")])
    assert told.exit_code == 0
    assert "card.md and its pictures still describe the calibration of the export" in told.stderr
    about = "\n".join(about_bundle(Scorer.load(copy, device="cpu")))
    assert "card: card.md and its pictures describe the calibration of the export, not this one" in about


def test_the_graph(exported):
    data = (exported / "model.onnx").read_bytes()
    model = onnx.load_from_string(data)
    assert model.opset_import[0].version >= 18
    (image,) = model.graph.input
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["N", 32, 32, 1]
    assert [item.name for item in model.graph.output] == ["score", "anomaly_map", "reconstruction"]
    assert b".py" not in data  # the exporter's notes on where each node comes from are not for customers


def test_calibration_scores_are_those_that_edged_gives(exported, pixels):
    served, trained = Scorer.load(exported, device="cpu"), run.load(pixels)
    spec = trained.config.spec
    pictures = [Path(picture.path).read_bytes() for picture in trained.part("calibration")]
    again = served.scores(np.stack([decode(data, spec, Limits()).pixels for data in pictures]))[0]
    np.testing.assert_allclose(np.sort(again), served.bundle.calibration.scores, rtol=1e-5)


def test_a_parity_failure_writes_nothing(tmp_path, pixels, capsys, monkeypatch):
    monkeypatch.setitem(parity.TOLERANCES, "fp32", Tolerance(rtol=0, atol=1e-12))
    assert main([str(pixels), "--out", str(tmp_path / "b")]) == 2
    assert "differ by" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["score", "anomaly_map", "reconstruction"])
def test_every_output_is_compared_with_torch(exported, pixels, name):
    trained, spec = run.load(pixels), run.load(pixels).config.spec
    image = np.stack([part(700 + n, size=spec.width)[..., None] for n in range(3)])
    expected = parity.reference(trained.detector, image)
    model = (exported / "model.onnx").read_bytes()
    assert parity.check(model, expected, parity.TOLERANCES["fp32"]) < 1
    wrong = expected.outputs[name].copy()
    wrong.flat[-1] += 2
    with pytest.raises(TrainError, match=rf"differ by .* in {name} on 3 inputs"):
        parity.check(model, replace(expected, outputs={**expected.outputs, name: wrong}), parity.TOLERANCES["fp32"])


def test_a_model_that_gives_no_numbers_is_refused(tmp_path, moving, capsys):
    weights = torch.load(moving / "weights.pt", weights_only=True)
    torch.save({**weights, "head.level": torch.tensor(math.nan)}, moving / "weights.pt")
    assert main([str(moving), "--out", str(tmp_path / "b")]) == 2
    assert "the model's score is not finite for some of 5 inputs; train again" in capsys.readouterr().err
    assert not list(tmp_path.glob("*b*"))


def test_what_a_killed_export_leaves_is_no_bundle(tmp_path, pixels, monkeypatch):
    seen, real = [], describe.describe

    def looking(folder, *arguments, **named):
        with pytest.raises(bundles.BundleError):
            bundles.load(folder)
        seen.append(folder)
        return real(folder, *arguments, **named)

    monkeypatch.setattr(describe, "describe", looking)
    assert main([str(pixels), "--out", str(tmp_path / "b")]) == 0
    assert len(seen) == 1


@pytest.mark.parametrize("name", ["my bundle", "Prüfstand", "_solar", "a" * 120, "-x"])
def test_a_name_that_no_model_may_have_is_refused_before_the_work(tmp_path, pixels, capsys, name):
    assert main([str(pixels), "--out", str(tmp_path / name)]) == 2
    told = capsys.readouterr().err
    assert "cannot be a model's name" in told
    assert list(tmp_path.iterdir()) == []
    better = told.rpartition("--name ")[2].strip()
    assert re.fullmatch(NAME, better)


def test_a_bundle_may_lie_anywhere_under_a_name_of_its_own(tmp_path, pixels, capsys):
    assert main([str(pixels), "--out", str(tmp_path / "my bundle"), "--name", "plate"]) == 0
    assert f"edged score '{tmp_path / 'my bundle'}' PICTURES" in capsys.readouterr().err
    assert bundles.load(tmp_path / "my bundle").manifest.name == "plate"


def test_int8_needs_a_trunk(tmp_path, pixels, capsys):
    assert main([str(pixels), "--out", str(tmp_path / "b"), "--precision", "int8"]) == 2
    assert "this model has none; use fp16" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_existing_bundle_is_left_alone(tmp_path, pixels, capsys):
    (tmp_path / "b").mkdir()
    assert main([str(pixels), "--out", str(tmp_path / "b")]) == 2
    assert "exists already" in capsys.readouterr().err


def pictures_of(source, name):
    return [item["path"] for item in json.loads((source / "pictures.json").read_text()) if item["part"] == name]


def test_fit_pictures_that_have_gone_or_changed_are_named(tmp_path, moving, capsys):
    gone, changed, *_ = pictures_of(moving, "fit")
    (tmp_path / "x").write_bytes(b"")
    shutil.move(gone, tmp_path / "x")
    Image.new("L", (48, 48)).save(changed)
    assert main([str(moving), "--out", str(tmp_path / "b")]) == 0
    shown = capsys.readouterr().err
    assert f"{gone}: has gone since training (fit)" in shown
    assert f"{changed}: has changed since training (fit)" in shown


def test_a_lost_calibration_picture_breaks_the_promise(tmp_path, moving, capsys):
    lost, *_ = pictures_of(moving, "calibration")
    shutil.move(lost, tmp_path / "x")
    assert main([str(moving), "--out", str(tmp_path / "b")]) == 2
    assert "8 of 9 calibration pictures are left" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


def test_no_run(tmp_path, capsys):
    assert main([str(tmp_path / "absent"), "--out", str(tmp_path / "b")]) == 2
    assert "there is no run directory" in capsys.readouterr().err

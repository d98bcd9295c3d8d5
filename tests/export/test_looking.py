"""Where a model looks, from the command line to its scores."""

import numpy as np
import pytest
from PIL import Image

from edged.errors import ConfigError
from edged.media import overlays
from edged.media.imaging import Limits, decode
from edged.models.scorer import Scorer
from edged.results import Frame, Result
from export.__main__ import main as export
from train.__main__ import main as train


@pytest.mark.parametrize("kind", ["ae", "vae"])
def test_what_is_outside_roi_and_mask_changes_nothing(tmp_path, kind):
    random, good = np.random.default_rng(0), tmp_path / "good"
    good.mkdir()
    for index in range(24):
        Image.fromarray(random.normal(120, 6, (40, 60)).clip(0, 255).astype(np.uint8)).save(good / f"{index}.png")
    mask = np.full((20, 30), 255, np.uint8)
    mask[:, :14] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    settings = ["backbone=pixels", "size=32", "channels=1", "width=8", "latent=2", "epochs=2", "target_fpr=0.2"]
    options = [word for setting in settings for word in ("--set", setting)]
    where = ["--roi", "10,0,40,40", "--mask", str(tmp_path / "mask.png")]
    run, out = str(tmp_path / "run"), tmp_path / "bundle"
    assert train([kind, "--good", str(good), *options, *where, "--out", run]) == 0
    assert export([run, "--out", str(out)]) == 0

    detector = Scorer.load(out, device="cpu")
    spec = detector.bundle.manifest.input
    assert (spec.roi, spec.source) == ((10, 0, 40, 40), (60, 40))
    assert detector.bundle.manifest.mask == "mask.png"
    assert (out / "mask.png").is_file()
    assert "the 40 x 40 px at 10,0" in (out / "card.md").read_text()
    assert "(where.png)" in (out / "card.md").read_text()

    def score(left, right):
        pixels = np.asarray(Image.open(good / "0.png")).copy()
        pixels[:, left:right] = 255
        file = tmp_path / "changed.png"
        Image.fromarray(pixels).save(file)
        return detector.scores(decode(file.read_bytes(), spec, Limits()).pixels[None])

    plain, outside, ignored, seen = score(0, 0), score(52, 60), score(12, 22), score(36, 44)
    assert outside[0] == pytest.approx(plain[0])
    assert ignored[0] == pytest.approx(plain[0], rel=1e-4)
    assert seen[0] > 2 * plain[0]
    assert (plain[1][0, :, 0] < 1e-20).all()
    assert seen[1][0, :, -2].max() > 1


def test_a_source_looks_at_a_part_of_its_own(tmp_path):
    random, good = np.random.default_rng(0), tmp_path / "good"
    good.mkdir()
    for index in range(24):
        Image.fromarray(random.normal(120, 6, (40, 40)).clip(0, 255).astype(np.uint8)).save(good / f"{index}.png")
    settings = ["backbone=pixels", "size=32", "channels=1", "width=8", "latent=2", "epochs=2", "target_fpr=0.2"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert train(["ae", "--good", str(good), *options, "--out", str(tmp_path / "run")]) == 0
    assert export([str(tmp_path / "run"), "--out", str(tmp_path / "bundle")]) == 0
    detector = Scorer.load(tmp_path / "bundle", device="cpu")
    assert not (tmp_path / "bundle" / "where.png").exists()

    part = np.asarray(Image.open(good / "0.png")).copy()
    wide = np.zeros((60, 100), np.uint8)
    wide[10:50, 30:70] = part
    mask = np.full((60, 100), 255, np.uint8)
    mask[:, 50:] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")

    def result(scorer, pixels):
        Image.fromarray(pixels).save(tmp_path / "picture.png")
        decoded = decode((tmp_path / "picture.png").read_bytes(), scorer.view.input, Limits())
        found = scorer.score(Frame("line1", "id", 0.0, decoded.pixels))
        assert isinstance(found, Result)
        return found

    plain = result(detector, part)
    at_roi = detector.looking_at(roi=(30, 10, 40, 40), mask=None)
    assert result(at_roi, wide).score == pytest.approx(plain.score)
    assert at_roi.view.other_shape(100, 60) is None
    assert "another shape" in detector.view.other_shape(100, 60)

    spoilt = wide.copy()
    spoilt[20:30, 60:68] = 255
    masked = detector.looking_at(roi=(30, 10, 40, 40), mask=tmp_path / "mask.png")
    assert result(at_roi, spoilt).is_anomaly
    found = result(masked, spoilt)
    assert not found.is_anomaly
    assert found.ignored.shape == (8, 8)
    assert found.ignored[:, 4:].all()
    assert not found.ignored[:, :4].any()
    drawn = np.asarray(overlays.render(part[..., None], found.anomaly_map, ignored=found.ignored))
    assert (drawn[:, 40:60] == drawn[:, :20]).all()
    assert (drawn[:, 60:] < drawn[:, 20:40]).any()

    spoilt[20:30, 35:43] = 255
    assert result(masked, spoilt).is_anomaly
    # Where nothing is ignored, the score made of the map is the graph's.
    Image.fromarray(np.full_like(mask, 255)).save(tmp_path / "white.png")
    white = detector.looking_at(roi=None, mask=tmp_path / "white.png")
    assert result(white, part).score == pytest.approx(plain.score, rel=1e-5)
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    with pytest.raises(ConfigError, match="black everywhere"):
        detector.looking_at(roi=None, mask=tmp_path / "black.png")

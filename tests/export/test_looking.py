"""Where a model looks, from the command line to its scores."""

import numpy as np
import pytest
from PIL import Image

from edged.media.imaging import Limits, decode
from edged.models.scorer import Scorer
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
    assert "(mask.png)" in (out / "card.md").read_text()

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

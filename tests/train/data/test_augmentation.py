"""Changed copies: what a copy may be of its picture, and what learning from them does to a detector."""

import numpy as np
import pytest
import torch

from export.report.metrics import auroc
from tests.train.making import as_set
from train.config.kinds import AutoencoderConfig, load
from train.config.signal import SignalConfig
from train.data.augmentation import Augmentation, Mixture, augmentation, with_copies
from train.fit.ae import train_detector
from train.progress import nowhere, silent


def noise(side=40):
    return np.random.default_rng(3).integers(0, 256, (side, side, 3), dtype=np.uint8)


def copies(change, picture, n=60):
    random = np.random.default_rng(0)
    return [change(picture, random) for _ in range(n)]


def test_without_a_change_there_are_no_copies():
    good = as_set(np.stack([noise()] * 4))
    config = load(AutoencoderConfig, None, ["backbone=pixels"])
    assert augmentation(config, good) is None
    assert augmentation(SignalConfig(), good) is None
    assert augmentation(SignalConfig(mix=0.5), good)
    assert augmentation(config.model_copy(update={"flips": "both"}), good)


def test_a_shifted_copy_is_the_picture_elsewhere():
    picture, found = noise(), set()
    padded = np.pad(picture, ((4, 4), (4, 4), (0, 0)), mode="reflect")
    for copy in copies(Augmentation(shift=0.1), picture, 400):
        assert copy.shape == picture.shape
        places = [(y, x) for y in range(9) for x in range(9) if np.array_equal(padded[y : y + 40, x : x + 40], copy)]
        assert len(places) == 1
        found.add(places[0])
    assert {y for y, _ in found} == {x for _, x in found} == set(range(9))


def test_a_brighter_copy_is_clipped_and_keeps_its_shape():
    picture = np.full((8, 8, 1), 200, np.uint8)
    levels = [int(copy[0, 0, 0]) for copy in copies(Augmentation(brightness=0.5), picture, 400)]
    assert min(levels) in range(100, 104)
    assert max(levels) == 255
    assert 0.3 < np.mean(np.array(levels) < 200) < 0.7


@pytest.mark.parametrize(
    ("flips", "expected"), [("horizontal", {(0, 0), (0, 1)}), ("vertical", {(0, 0), (1, 0)}), ("both", None)]
)
def test_flips_are_those_that_are_named(flips, expected):
    picture = noise()
    mirrored = {(v, h): picture[:: -1 if v else 1, :: -1 if h else 1] for v in (0, 1) for h in (0, 1)}
    found = set()
    for copy in copies(Augmentation(flips=flips), picture):
        found |= {key for key, value in mirrored.items() if np.array_equal(value, copy)}
    assert found == (expected or set(mirrored))


def test_a_mixture_lies_between_a_signal_and_another_good_one_nearer_to_the_first():
    signals = np.float32([[[0, 0]], [[1, 2]], [[90, 90]]])
    change = Mixture(0.5, signals, np.array([0, 1]))
    mixed = np.stack(copies(change, signals[0], 400))
    assert mixed.dtype == np.float32
    assert mixed.shape == (400, 1, 2)
    assert np.array_equal(mixed[:, 0, 1], 2 * mixed[:, 0, 0])
    assert 0.3 < np.mean(mixed == 0) < 0.7  # mixed with itself, or with the other; never with what is not good
    assert 0.45 < mixed[:, 0, 0].max() <= 0.5
    assert mixed.min() == 0


def test_what_is_learnt_from_gets_copies_and_the_same_seed_gives_the_same(tmp_path):
    good = as_set(np.stack([noise()] * 20) // np.arange(1, 21, dtype=np.uint8)[:, None, None, None])
    one, two, other = (
        with_copies(good, Augmentation(shift=0.1), seed=seed, store=tmp_path / str(index), advance=silent)
        for index, seed in enumerate((5, 5, 6))
    )
    assert [len(one.part(part)) for part in ("fit", "statistics", "copies", "calibration")] == [28, 4, 4, 0]
    for part, among in (("fit", ["fit"]), ("statistics", ["statistics", "copies"])):
        originals = good.pixels[good.rows(part)]
        pixels = np.concatenate([one.pixels[one.rows(name)] for name in among])
        assert np.array_equal(pixels[: len(originals)], originals)
        assert not np.array_equal(pixels[len(originals) :], originals)
        assert np.array_equal(pixels[len(originals) :].max(axis=(1, 2, 3)), originals.max(axis=(1, 2, 3)))
    assert np.array_equal(one.pixels, two.pixels)
    assert not np.array_equal(one.pixels, other.pixels)


def test_the_head_learns_from_all_copies_and_is_measured_on_none(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 32, 32, 1), dtype=np.uint8)
    good = as_set(pixels)
    settings = ["backbone=pixels", "size=32", "channels=1", "width=8", "latent=4", "epochs=1", "brightness=0.5"]
    config = load(AutoencoderConfig, None, settings).for_pictures(30)
    trained = train_detector(config, good, cache=tmp_path, log=lambda _: None, track=nowhere)
    change = augmentation(config, good)
    copied = with_copies(good, change, seed=config.seed, store=tmp_path / "again.npy", advance=silent)
    assert {picture.part for picture in copied.pictures} == {"fit", "statistics", "copies"}
    with torch.no_grad():
        residual = trained.detector.residual(torch.from_numpy(np.array(copied.pixels)))
    torch.testing.assert_close(trained.detector.head.mean, residual.mean(dim=0), rtol=1e-2, atol=2e-3)
    assert len(trained.report.statistics_scores) == len(good.part("statistics"))


def test_a_detector_that_learnt_from_moved_copies_forgives_moved_parts(tmp_path):
    """Parts with an edge at one place: without copies, one that lies 2 px off looks as bad as one with a blot."""
    random = np.random.default_rng(1)

    def parts(n, moved=0, blot=False):
        pixels = np.full((n, 32, 32, 1), 60.0)
        for picture in pixels:
            at = 12 + (random.integers(-moved, moved, endpoint=True) if moved else 0)
            picture[:, at : at + 8] = 180
            if blot:
                y, x = random.integers(0, 28, 2)
                picture[y : y + 4, x : x + 4] += 50
        return np.clip(pixels + random.normal(0, 4, pixels.shape), 0, 255).astype(np.uint8)

    good = as_set(parts(80))
    moved, bad = parts(40, moved=2), parts(40, moved=2, blot=True)
    found = {}
    for shift in (0.0, 0.07):
        settings = ["backbone=pixels", "size=32", "channels=1", "width=8", "latent=4", "epochs=4", f"shift={shift}"]
        config = load(AutoencoderConfig, None, settings).for_pictures(70)
        folder = tmp_path / str(shift)
        folder.mkdir()
        log = []
        trained = train_detector(config, good, cache=folder, log=log.append, track=nowhere)
        with torch.no_grad():
            scores = [trained.detector(torch.from_numpy(pixels))[0].numpy() for pixels in (moved, bad)]
        found[shift] = auroc(*scores)
    assert found[0.07] > found[0.0] + 0.1, found

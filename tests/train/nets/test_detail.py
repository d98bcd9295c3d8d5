"""The finer map: where within a position, and the score as it was."""

import numpy as np
import torch

from train.config.kinds import AutoencoderConfig
from train.nets.detail import Detail
from train.nets.detector import make_detector
from train.nets.features import Tiled, TrunkFeatures


def fitted(channels=6, top=3):
    random = np.random.default_rng(0)
    mixed = random.normal(size=(channels, channels))
    x = random.normal(size=(100_000, channels)) @ mixed + np.arange(channels)
    detail = Detail(channels, top)
    detail.fit(x.mean(axis=0), np.cov(x.T))
    return detail, torch.from_numpy(x.astype(np.float32))


def test_distances_are_mahalanobis_distances_of_good_pictures():
    detail, x = fitted()
    squares = ((x - detail.mean.flatten()) @ detail.factor.T).square().sum(dim=1)
    assert 4.5 < float(squares.mean()) < 6.0  # 6, but for the shrinkage


def test_it_says_where_within_a_position_and_keeps_the_score():
    detail, x = fitted()
    finest = x[: 2 * 16 * 16].reshape(2, 16, 16, 6).permute(0, 3, 1, 2).clone()
    excess = torch.full((2, 8, 8), 0.5)
    excess[:, 2, 3] = 9.0
    score = excess.flatten(1).topk(3).values.mean(dim=1)
    finest[:, :, 5, 6] += 30.0
    found = detail(excess, score, finest, None)
    assert found.shape == (2, 16, 16)
    assert found.flatten(1).argmax(dim=1).tolist() == [5 * 16 + 6] * 2
    torch.testing.assert_close(found.flatten(1).topk(3).values.mean(dim=1), score)
    assert (found > 0).all()
    # What is ignored has no share in it.
    kept = torch.ones(8, 8)
    kept[2, 3] = 0
    masked = detail(excess * kept + 1e-30, torch.tensor([0.5, 0.5]), finest, kept)
    assert (masked[:, 4:6, 6:8] < 1e-20).all()
    torch.testing.assert_close(masked.flatten(1).topk(3).values.mean(dim=1), torch.tensor([0.5, 0.5]))


def test_maps_are_finer_where_a_stage_is():
    for settings, finer in (({}, 2), ({"stages": (3, 6)}, 4), ({"stride": 8}, None), ({"stages": (5, 6)}, None)):
        detector = make_detector(AutoencoderConfig(size=(64, 96), width=8, latent=4, **settings)).eval()
        names = ("score", "anomaly_map", *(("score_map",) if finer else ()))
        assert detector.output_names == names
        if finer:
            with torch.no_grad():
                found = dict(zip(names, detector(torch.zeros(1, 64, 96, 3, dtype=torch.uint8)), strict=True))
            assert found["score_map"].shape == (1, 4, 6)
            assert found["anomaly_map"].shape == (1, 4 * finer, 6 * finer)


@torch.no_grad()
def test_tiles_give_both_maps():
    plain = TrunkFeatures((4, 6), 16)
    joined, finest = Tiled(plain, (256, 320), (2, 2)).both(torch.rand(1, 3, 256, 320) * 255)
    assert joined.shape == (1, 152, 16, 20)
    assert finest.shape == (1, 40, 32, 40)

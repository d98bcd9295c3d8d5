"""Scores out of fold are those of a head that has never seen the picture, nor its copies, nor its group."""

import numpy as np
import pytest
import torch

from train.fit.head import covariances, whitening_factors
from train.fit.out_of_fold import fit_head_on_all, left_out_distances
from train.nets.head import Head, from_regions, to_regions

C, H, W = 6, 4, 4


def made(n, k, regions, seed=0):
    random = np.random.default_rng(seed)
    mixing = random.normal(0, 1, (H, W, C, C))
    x = np.einsum("yxcd,ndyx->ncyx", mixing, random.normal(0, 1, (n, C, H, W)))
    copies = [x, *(x * random.uniform(0.8, 1.2, (n, 1, 1, 1)) for _ in range(k - 1))]
    values = torch.from_numpy(np.concatenate(copies).astype(np.float32))
    head = Head(channels=C, height=H, width=W, regions=regions, smoothing=0.0, top=3)
    return head, values, np.arange(k * n).reshape(k, n)


def whitened_by(head, values, shrinkage):
    head.mean.copy_(values.mean(dim=0))
    factors = whitening_factors(covariances(head, [values]), shrinkage)
    head.store(factors)
    return torch.from_numpy(factors.astype(np.float32)).transpose(1, 2)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("regions", [1, 2, 4])
@pytest.mark.parametrize("size", [1, 3])
def test_lengths_are_those_of_a_head_fitted_without_the_group(k, regions, size):
    head, values, versions = made(40, k, regions)
    whitening = whitened_by(head, values, 1e-6)
    groups = np.array([np.arange(5, 5 + size), np.arange(30, 30 + size)])
    leaving = versions[:, groups].transpose(1, 0, 2)
    found = left_out_distances(head, whitening, values[leaving.reshape(-1)], leaving.shape, versions.size)
    for members, distances in zip(groups, found.split(size), strict=True):
        others = np.setdiff1d(np.arange(40), members)
        other = made(40, k, regions)[0]
        exact = whitened_by(other, values[versions[:, others].reshape(-1)], 1e-6)
        expected = (to_regions(values[members] - other.mean, regions) @ exact).norm(dim=2, keepdim=True)
        torch.testing.assert_close(distances, from_regions(expected, regions, H, W).squeeze(1), rtol=1e-3, atol=1e-3)


def test_new_pictures_score_as_pictures_out_of_fold_do_and_fitted_ones_lower():
    head, values, versions = made(60, 2, 4)
    report, found = fit_head_on_all(
        head, lambda rows: values[rows], versions, [np.array([i]) for i in range(60)], shrinkage=0.02
    )
    new = made(660, 1, 4)[1]
    with torch.no_grad():
        scores = head(new[60:])[0].numpy()  # of the same process as the first ones
    assert found.fitted.mean() < found.scores.mean()
    assert report.held_out_ratio > 1.05
    assert np.array_equal(report.statistics_scores, found.scores)
    above = [np.mean(scores > np.quantile(found.scores, level)) for level in (0.5, 0.8, 0.9)]
    np.testing.assert_allclose(above, [0.5, 0.2, 0.1], atol=0.1)


def test_near_copies_in_a_group_do_not_vouch_for_each_other():
    head, values, _ = made(30, 1, 4)
    frames = values.repeat(3, 1, 1, 1) + 0.01 * torch.randn(90, C, H, W, generator=torch.Generator().manual_seed(0))
    versions = np.arange(90)[None]
    alone = [np.array([i]) for i in range(90)]
    together = [np.array([i, i + 30, i + 60]) for i in range(30)]
    by_group = {
        name: fit_head_on_all(head, lambda rows: frames[rows], versions, groups, shrinkage=0.02)[0].held_out_ratio
        for name, groups in (("alone", alone), ("together", together))
    }
    assert by_group["together"] > 1.05 * by_group["alone"]

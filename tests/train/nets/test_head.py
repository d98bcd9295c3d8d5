import math

import numpy as np
import pytest
import torch

from train.errors import TrainError
from train.fit.head import fit_head, whitening_factors
from train.nets.head import Head, above_zero, from_regions, to_regions

C, H, W, G = 5, 6, 8, 2


def head(**changes):
    return Head(**{"channels": C, "height": H, "width": W, "regions": G, "smoothing": 0.5, "top": 3, **changes})


def residuals(seed, n):
    return torch.from_numpy(np.random.default_rng(seed).normal(1.0, 2.0, (n, C, H, W)).astype(np.float32))


def plain_numpy(fit, statistics, image, shrinkage):
    """The head's definition, written position by position."""

    def shape_from(pictures):
        """The standardised distance, with everything in it taken from these pictures."""
        mean = pictures.mean(axis=0)
        factors = {}
        for i in range(G):
            for j in range(G):
                rows, columns = slice(i * H // G, (i + 1) * H // G), slice(j * W // G, (j + 1) * W // G)
                samples = (pictures - mean)[:, :, rows, columns].transpose(0, 2, 3, 1).reshape(-1, C)
                covariance = samples.T @ samples / len(samples)
                covariance += (shrinkage * np.trace(covariance) / C + 1e-6) * np.eye(C)
                factors[i, j] = np.linalg.inv(np.linalg.cholesky(covariance))

        def length(r):
            out = np.empty((len(r), H, W))
            for y in range(H):
                for x in range(W):
                    whitening = factors[y * G // H, x * G // W]
                    out[:, y, x] = np.linalg.norm((r[:, :, y, x] - mean[:, y, x]) @ whitening.T, axis=1)
            return out

        distances = length(pictures)
        return lambda r: (length(r) - distances.mean(axis=0)) / distances.std(axis=0, ddof=1)

    def smooth(z):
        x = np.arange(-2, 3)
        kernel = np.exp(-0.5 * (x / 0.5) ** 2)
        kernel /= kernel.sum()
        padded = np.pad(z, ((0, 0), (2, 2), (2, 2)), mode="edge")
        rows = sum(kernel[k] * padded[:, k : k + H, :] for k in range(5))
        return sum(kernel[k] * rows[:, :, k : k + W] for k in range(5))

    held_out = shape_from(fit)(statistics)
    level, spread = held_out.mean(), held_out.std(ddof=1)
    excess = lambda shape: np.log1p(np.exp(smooth((shape - level) / spread)))  # noqa: E731
    reference = np.quantile(excess(held_out), 0.999)
    found = excess(shape_from(np.concatenate([fit, statistics]))(image))
    top = np.sort(found.reshape(len(image), -1), axis=1)[:, -3:]
    return top.mean(axis=1), found / reference


def test_the_head_is_its_definition():
    fit, statistics, image = residuals(0, 60), residuals(1, 20), residuals(2, 4)
    fitted = head()
    batches = lambda x: lambda: x.split(7)  # noqa: E731
    report = fit_head(fitted, batches(fit), batches(statistics), shrinkage=0.03)
    score, anomaly_map = fitted(image)
    expected_score, expected_map = plain_numpy(*(x.double().numpy() for x in (fit, statistics, image)), 0.03)
    # The factors are stored in 8 bits.
    np.testing.assert_allclose(score.numpy(), expected_score, rtol=3e-2, atol=2e-2)
    np.testing.assert_allclose(anomaly_map.numpy(), expected_map, rtol=6e-2, atol=2e-2)
    assert 0.95 < report.held_out_ratio < 1.15


def test_one_pixel_in_a_thousand_of_good_pictures_exceeds_one():
    fitted = head()
    fit_head(fitted, lambda: [residuals(0, 400)], lambda: [residuals(1, 400)], shrinkage=0.03)
    _, anomaly_map = fitted(residuals(2, 2000))
    assert float((anomaly_map > 1).float().mean()) == pytest.approx(0.001, abs=4e-4)


def test_copies_are_learnt_from_and_move_neither_level_nor_reference():
    fit, statistics, copies = (lambda seed=seed: [residuals(seed, 30)] for seed in (0, 1, 2))
    plain, copied = head(), head()
    fit_head(plain, fit, statistics, shrinkage=0.03)
    report = fit_head(copied, fit, statistics, lambda: [x + 20 for x in copies()], shrinkage=0.03)
    for name in ("level", "spread", "reference"):
        assert torch.equal(getattr(copied, name), getattr(plain, name))
    assert len(report.statistics_scores) == 30
    torch.testing.assert_close(copied.mean, torch.cat([*fit(), *statistics(), *(x + 20 for x in copies())]).mean(0))


def test_scores_are_above_zero_and_grow_with_a_defect():
    fit = residuals(0, 60)
    fitted = head()
    fit_head(fitted, lambda: [fit], lambda: [residuals(1, 20)], shrinkage=0.03)
    good = residuals(2, 5)
    bad = good.clone()
    bad[:, :, 2:4, 3:5] += 8
    assert (fitted(good)[0] > 0).all()
    assert (fitted(bad)[0] > fitted(good)[0]).all()
    assert (fitted(torch.zeros(1, C, H, W))[0] > 0).all()


def test_a_map_one_position_high_has_regions_along_it():
    x = torch.arange(2.0 * C * 6).reshape(2, C, 1, 6)
    assert to_regions(x, 3).shape == (3, 2 * 2, C)
    assert to_regions(x, 3)[1, :, 0].tolist() == [2, 3, 6 * C + 2, 6 * C + 3]
    torch.testing.assert_close(from_regions(to_regions(x, 3), 3, 1, 6), x, rtol=0, atol=0)
    assert head(height=1, width=6, regions=3).factors.shape[0] == 3


def test_regions_there_and_back():
    x = residuals(3, 2)
    assert to_regions(x, G).shape == (G * G, 2 * H * W // (G * G), C)
    torch.testing.assert_close(from_regions(to_regions(x, G), G, H, W), x, rtol=0, atol=0)


def test_factors_whiten():
    rng = np.random.default_rng(0)
    mixed = rng.normal(size=(3, 200, C)) @ rng.normal(size=(3, C, C))
    covariances = np.einsum("gni,gnj->gij", mixed, mixed) / 200
    factors = whitening_factors(covariances, 1e-9)
    np.testing.assert_allclose(factors @ covariances @ factors.transpose(0, 2, 1), [np.eye(C)] * 3, atol=1e-3)


@pytest.mark.parametrize("channels", [1, C, 100, 152])
def test_factors_are_stored_within_half_a_step(channels):
    factors = np.tril(np.random.default_rng(0).normal(size=(G * G, channels, channels)))
    room = head(channels=channels)
    room.store(factors)
    stored = np.zeros_like(factors)
    for number, (begin, end) in enumerate(room.strips):
        stored[:, begin:end, :end] = room.transposed_strip(number).numpy().transpose(0, 2, 1)
    assert end == channels
    largest = np.abs(factors).max(axis=2, keepdims=True)
    assert (np.abs(stored - factors) <= largest / 127 / 2 + 1e-6).all()
    residual = torch.from_numpy(np.random.default_rng(1).normal(size=(2, channels, H, W)).astype(np.float32))
    by_region = to_regions(residual, G).numpy()
    distances = np.linalg.norm(by_region @ stored.transpose(0, 2, 1), axis=2, keepdims=True)
    expected = from_regions(torch.from_numpy(distances), G, H, W)[:, 0]
    np.testing.assert_allclose(room.distance(residual).numpy(), expected.numpy(), rtol=1e-5)


def test_a_residual_that_never_moves_stays_finite():
    half_still = residuals(0, 8)
    half_still[:, :, :, : W // 2] = 0
    fitted = head(smoothing=0.0)
    fit_head(fitted, lambda: [half_still], lambda: [half_still], shrinkage=0.03)
    score, anomaly_map = fitted(residuals(1, 2))
    assert torch.isfinite(score).all()
    assert torch.isfinite(anomaly_map).all()


@pytest.mark.parametrize("value", [0.0, math.nan, math.inf])
def test_a_model_that_says_nothing_of_any_picture_is_refused(value):
    dead = torch.full((8, C, H, W), value)
    with pytest.raises(TrainError, match="training has diverged, or what is good does not differ"):
        fit_head(head(smoothing=0.0), lambda: [dead], lambda: [dead], shrinkage=0.03)


def test_a_score_is_above_zero_however_ordinary_the_picture():
    z = torch.tensor([-1e30, -105.0, -80.0, -50.0, 0.0, 50.0])
    found = above_zero(z)
    assert (found > torch.finfo(torch.float32).tiny).all()
    torch.testing.assert_close(found[3:], torch.nn.functional.softplus(z[3:]), rtol=0, atol=0)
    assert (found.diff() >= 0).all()

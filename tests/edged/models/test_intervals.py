import numpy as np
import pytest

from edged.models.calibration import conformal_threshold
from edged.models.intervals import area, beta_quantile, share, true_rate


def test_beta_quantiles_are_those_of_closed_forms_and_tables():
    assert beta_quantile(0.95, 1, 99) == pytest.approx(1 - 0.05 ** (1 / 99))
    assert beta_quantile(0.5, 7, 7) == pytest.approx(0.5)
    assert beta_quantile(0.95, 10, 990) == pytest.approx(0.015668188, abs=1e-8)  # R: qbeta(0.95, 10, 990)


def test_a_share_of_none_or_all_still_has_a_width():
    assert (share(0, 10).low, share(10, 10).high) == (0, 1)
    assert share(0, 10).high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert share(10, 10).low == pytest.approx(0.025 ** (1 / 10))


def test_the_interval_of_an_area_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        good, bad = rng.normal(0, 1, 40), rng.normal(1.5, 1, 25)
        interval = area(float((bad[:, None] > good).mean()), 40, 25)
        covered += interval.low <= 0.85557784 <= interval.high  # of two normals 1.5 apart: Φ(1.5 / √2)
    assert 0.92 < covered / 400 <= 1
    perfect = area(1.0, 40, 25)
    assert perfect.high == 1
    assert 0.9 < perfect.low < 0.99


@pytest.mark.parametrize(("n", "target"), [(4, 0.01), (99, 0.01), (199, 0.02), (19, 0.05)])
def test_the_true_rate_is_distributed_as_said(n, target):
    """Scores that are uniform on 0 to 1: the true rate of a threshold is 1 minus it."""
    rng = np.random.default_rng(1)
    rates = np.array([1 - conformal_threshold(rng.random(n), target).value for _ in range(4000)])
    said = true_rate(conformal_threshold(np.linspace(0.1, 1, n), target))
    assert rates.mean() == pytest.approx(said.mean, rel=0.06)
    assert (rates <= said.limit).mean() == pytest.approx(0.95, abs=0.012)
    assert ((rates >= said.interval.low) & (rates <= said.interval.high)).mean() == pytest.approx(0.95, abs=0.012)

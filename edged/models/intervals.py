"""How sure a figure is: 95 % intervals of shares and areas, and what one calibration says of the true rate."""

from collections.abc import Callable
from dataclasses import dataclass
from math import lgamma, sqrt

import numpy as np

from edged.models.calibration import Threshold, conformal_rank

_Z = 1.959964  # of the standard normal distribution, for 95 %
_HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the true figure lies in 95 of 100 cases."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class TrueRate:
    """The false-positive rate that a threshold has on good pictures to come, as far as its calibration tells.

    Attributes:
        mean: over calibrations; what is promised.
        interval: in 95 of 100 calibrations the rate lies here.
        limit: in 95 of 100 calibrations the rate is at most this.
    """

    mean: float
    interval: Interval
    limit: float


def share(successes: int, n: int) -> Interval:
    """Of a share of n independent cases, n at least 1: exact, by Clopper and Pearson (1934)."""
    low = 0.0 if successes == 0 else beta_quantile(0.025, successes, n - successes + 1)
    high = 1.0 if successes == n else beta_quantile(0.975, successes + 1, n - successes)
    return Interval(low, high)


def area(auroc: float, n_good: int, n_bad: int) -> Interval:
    """Of an AUROC from n_good and n_bad pictures.

    Newcombe, *Confidence intervals for an effect size measure based on the Mann-Whitney statistic. Part 2*
    (Statistics in Medicine, 2006), method 5: the areas that lie within z of their own standard errors of the one
    measured. Unlike DeLong's and the bootstrap's it has a width where every bad picture scores above every good one.
    """
    extra = (n_good + n_bad) / 2 - 1

    def error(true: float) -> float:
        variance = true * (1 - true) * (1 + extra * ((1 - true) / (2 - true) + true / (1 + true)))
        return _Z * sqrt(variance / (n_good * n_bad))

    low = 0.0 if auroc == 0 else _first(lambda true: true + error(true) >= auroc, 0.0, auroc)
    high = 1.0 if auroc == 1 else _first(lambda true: true - error(true) >= auroc, auroc, 1.0)
    return Interval(low, high)


def true_rate(threshold: Threshold) -> TrueRate:
    """What a conformal threshold says of the rate on good pictures to come.

    With the k-th smallest of n exchangeable scores as the threshold, the rate is distributed over calibrations as
    Beta(n + 1 - k, k): Vovk, *Conditional validity of inductive conformal predictors* (2012); Angelopoulos and Bates,
    *A Gentle Introduction to Conformal Prediction* (2021), section 3.2. Equal scores only lower it.

    Args:
        threshold: with a target rate.
    """
    assert threshold.target_fpr is not None
    n = threshold.n
    rank = conformal_rank(n, threshold.target_fpr)
    above = n + 1 - rank
    low, high, limit = (beta_quantile(share, above, rank) for share in (0.025, 0.975, 0.95))
    return TrueRate(above / (n + 1), Interval(low, high), limit)


def beta_quantile(level: float, a: int, b: int) -> float:
    """Below which a Beta(a, b) variable lies with a probability of `level`; a and b whole and at least 1."""
    n = a + b - 1
    k = np.arange(a, n + 1)
    ways = np.array([lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) for i in k.tolist()])

    def below(x: float) -> float:
        # The same as the chance of a or more of n successes.
        return float(np.exp(ways + k * np.log(x) + (n - k) * np.log1p(-x)).sum())

    return _first(lambda x: below(x) >= level, 0.0, 1.0)


def _first(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The least x from which on `holds` is true, by bisection of an interval."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if holds(middle):
            high = middle
        else:
            low = middle
    return high

"""Scores of good pictures -> threshold and p-value, by split conformal prediction.

Vovk, Gammerman, Shafer, *Algorithmic Learning in a Random World* (2005), ch. 4; Angelopoulos, Bates, *A Gentle
Introduction to Conformal Prediction* (2021), section 1. The promise holds on average over calibration sets, when
the calibration pictures and the good pictures to come are exchangeable.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Threshold:
    """What separates good from anomalous: an anomaly is score > value.

    Attributes:
        value: in units of the score.
        target_fpr: the false-positive rate asked for, 0 to 1; None where the operator gave the value.
        n: calibration pictures behind it.
        needed: calibration pictures that the promise of `target_fpr` takes.
        confirmed: how many of the n were chosen for their scores, as false alarms that people confirmed: the threshold
            is no lower for them, but no promise rests on them.
    """

    value: float
    target_fpr: float | None
    n: int
    needed: int
    confirmed: int = 0

    @property
    def promised(self) -> bool:
        """Whether n is enough for `target_fpr`."""
        return self.target_fpr is not None and self.n - self.confirmed >= self.needed

    @property
    def shortfall(self) -> str | None:
        """What to tell a person when `target_fpr` cannot be promised; None when it can or was not asked for."""
        if self.target_fpr is None or self.promised:
            return None
        n = self.n - self.confirmed
        return (
            f"{n} calibration scores cannot promise a false-positive rate of {self.target_fpr:g}: that takes "
            f"{self.needed}. The largest calibration score is the threshold; the lowest rate that can be promised is "
            f"{1 / (n + 1):.3g}. Calibrate on more good parts (`edged calibrate`) or set a larger target_fpr"
        )


def pictures_needed(target_fpr: float) -> int:
    """Calibration pictures that it takes to promise `target_fpr`: ceil(1/α - 1)."""
    return ceil(1 / _exact(target_fpr) - 1)


def conformal_threshold(
    scores: Sequence[float] | NDArray[np.floating], target_fpr: float, *, confirmed: int = 0
) -> Threshold:
    """The ceil((n+1)(1-α))-th smallest of n calibration scores, or the largest when n is too small.

    Args:
        scores: of good pictures that nothing was fitted on, (n,), n ≥ 1, any order.
        target_fpr: α, above 0 and below 1.
        confirmed: how many of them are no random sample; see `Threshold`.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64))
    n = len(ordered)
    return Threshold(
        float(ordered[conformal_rank(n, target_fpr) - 1]), target_fpr, n, pictures_needed(target_fpr), confirmed
    )


def conformal_rank(n: int, target_fpr: float) -> int:
    """Which of n ascending scores is the threshold, from 1: ceil((n+1)(1-α)), or n when that is more."""
    return min(ceil((n + 1) * (1 - _exact(target_fpr))), n)


def p_value(ordered: NDArray[np.float64], score: float) -> float:
    """(1 + #{calibration scores ≥ score}) / (n + 1), 0 to 1; `ordered` (n,) is ascending."""
    at_least = len(ordered) - int(ordered.searchsorted(score))
    return (1 + at_least) / (len(ordered) + 1)


def _exact(rate: float) -> Fraction:
    # 0.01 as a float is a little more than 1/100: ceil() of its inverse would be one off.
    if not 0 < rate < 1:
        raise ValueError(f"a false-positive rate is above 0 and below 1, not {rate:g}")
    return Fraction(repr(float(rate)))

"""What more recall costs: thresholds of several target rates, and the good and bad pictures above each."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from math import ceil
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edged.models import intervals
from edged.models.calibration import Threshold, conformal_threshold
from edged.models.intervals import Interval

TARGETS: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1)

Scores = Sequence[float] | NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class RateChoice:
    """One target rate that an operator may choose.

    Attributes:
        target_fpr: α.
        threshold: that the calibration gives for it.
        flagged: calibration pictures above it.
        within: 95 % interval of their share.
        found: bad pictures above it; None where there were none.
        in_force: whether it is the bundle's own.
    """

    target_fpr: float
    threshold: Threshold
    flagged: int
    within: Interval
    found: int | None
    in_force: bool

    @property
    def line(self) -> str:
        """What `[models.NAME]` of edged.toml takes for it."""
        return f"target_fpr = {self.target_fpr:g}"


def choices(scores: Scores, bad: Scores, target_fpr: float) -> list[RateChoice]:
    """The usual targets and the bundle's own, ascending.

    Args:
        scores: that calibrate, (n,).
        bad: of bad pictures, (m,); m may be 0.
        target_fpr: the bundle's own.
    """
    good, defects = np.asarray(scores, dtype=np.float64), np.asarray(bad, dtype=np.float64)
    made = []
    for rate in sorted({*TARGETS, target_fpr}):
        threshold = conformal_threshold(good, rate)
        flagged = int((good > threshold.value).sum())
        found = int((defects > threshold.value).sum()) if len(defects) else None
        within = intervals.share(flagged, len(good))
        made.append(RateChoice(rate, threshold, flagged, within, found, rate == target_fpr))
    return made


def told_apart(made: Sequence[RateChoice], plural: str) -> list[str]:
    """Why some targets have the same threshold, and how many good pictures would tell them apart: a sentence each."""
    said = []
    for value, same in groupby(made, key=lambda choice: choice.threshold.value):
        together = list(same)
        if len(together) > 1:
            rates = [f"{choice.target_fpr:g}" for choice in together]
            said.append(
                f"{', '.join(rates[:-1])} and {rates[-1]} have the same threshold, {value:.4g}: {made[0].threshold.n} "
                f"scores are too few to tell them apart; {_telling_apart(*together[-2:])} good {plural} begin to"
            )
    return said


def _telling_apart(lower: RateChoice, higher: RateChoice) -> int:
    """How many scores it takes for the higher rate's rank to be below the highest, and below the lower rate's."""
    return max(ceil(2 / higher.target_fpr), ceil(1 / (higher.target_fpr - lower.target_fpr))) - 1

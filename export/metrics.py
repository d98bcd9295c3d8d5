"""What is reported of a model: AUROC, ROC, recall and false-positive rate; nothing here decides anything."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Report:
    """How a model separates the bad pictures that were given.

    Attributes:
        auroc: chance that a bad picture scores above a good one, ties counted half.
        recall: share of the bad pictures above the threshold.
        n_bad: bad pictures.
    """

    auroc: float
    recall: float
    n_bad: int


def report(good: Scores, bad: Scores, threshold: float) -> Report:
    """Good pictures (n,) against bad ones (m,), n and m at least 1."""
    return Report(auroc(good, bad), float(np.mean(bad > threshold)), len(bad))


def auroc(good: Scores, bad: Scores) -> float:
    """Area under the ROC by the Mann-Whitney statistic, 0 to 1."""
    ordered = np.sort(good)
    below = np.searchsorted(ordered, bad, side="left")
    ties = np.searchsorted(ordered, bad, side="right") - below
    return float((below + 0.5 * ties).mean() / len(good))


def roc(good: Scores, bad: Scores) -> tuple[Scores, Scores]:
    """False-positive and true-positive rates at every threshold, ascending, (0, 0) to (1, 1)."""
    thresholds = np.unique(np.concatenate([good, bad]))[::-1]
    false_positives = np.array([0.0, *[(good >= t).mean() for t in thresholds]])
    true_positives = np.array([0.0, *[(bad >= t).mean() for t in thresholds]])
    return false_positives, true_positives

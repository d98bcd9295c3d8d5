"""What is reported of a model on bad pictures, each figure with its interval; nothing here decides anything."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edged.models import intervals
from edged.models.intervals import Interval

Scores = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Report:
    """How a model separates the bad pictures that were given; intervals are of 95 %.

    Attributes:
        auroc: chance that a bad picture scores above a good one, ties counted half.
        auroc_interval: for other pictures of the same kinds.
        recall: share of the bad pictures above the threshold.
        recall_interval: for other bad pictures of the same kind.
        average_precision: area under precision and recall, at the share of bad pictures given.
        n_found: bad pictures above the threshold.
        n_bad: bad pictures.
    """

    auroc: float
    auroc_interval: Interval
    recall: float
    recall_interval: Interval
    average_precision: float
    n_found: int
    n_bad: int


def report(good: Scores, bad: Scores, threshold: float) -> Report:
    """Good pictures (n,) against bad ones (m,), n and m at least 1."""
    area, found = auroc(good, bad), int(np.sum(bad > threshold))
    precision, recall = precision_recall(good, bad)
    return Report(
        auroc=area,
        auroc_interval=intervals.area(area, len(good), len(bad)),
        recall=found / len(bad),
        recall_interval=intervals.share(found, len(bad)),
        average_precision=float(np.sum(np.diff(recall, prepend=0.0) * precision)),
        n_found=found,
        n_bad=len(bad),
    )


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


def precision_recall(good: Scores, bad: Scores) -> tuple[Scores, Scores]:
    """Precision and recall at every threshold, by ascending recall; precision at the share of bad pictures given."""
    thresholds = np.unique(np.concatenate([good, bad]))[::-1]
    flagged_bad = np.array([np.sum(bad >= t) for t in thresholds], dtype=np.float64)
    flagged_good = np.array([np.sum(good >= t) for t in thresholds], dtype=np.float64)
    return flagged_bad / (flagged_bad + flagged_good), flagged_bad / len(bad)

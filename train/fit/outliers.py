"""Which good pictures look like outliers among the others: a bad part in the good folder raises the threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edged.models.calibration import Threshold, conformal_threshold
from train.data.pictures import Part, Picture

Scores = NDArray[np.float64]

LIMIT: Final = 3.5
"""Modified z-score beyond which a picture is an outlier, as Iglewicz and Hoaglin recommend."""

_LEAST: Final = 5
_LEAST_SPREAD: Final = 0.01  # of the median: scores that hardly differ make nobody an outlier


@dataclass(frozen=True, slots=True)
class Outlier:
    """A good picture that scores far above its like.

    Attributes:
        path: of the file.
        part: that it is in.
        score: larger is worse.
        distance: from the median, in robust deviations of its group.
    """

    path: str
    part: Part
    score: float
    distance: float


def find(good: Mapping[Part, tuple[Sequence[Picture], Scores]]) -> list[Outlier]:
    """The outliers among the good pictures, the farthest first.

    The modified z-score, 0.6745 (score - median) / MAD, of Iglewicz and Hoaglin, *How to Detect and Handle Outliers*
    (1993), upwards. Pictures that the head was fitted on (fit and statistics) score lower than others, so they are
    judged among themselves, and those of calibration too. A group of fewer than five is not judged.

    Args:
        good: the pictures of each part and their scores (n,).
    """
    found: list[Outlier] = []
    groups: tuple[tuple[Part, ...], ...] = (("fit", "statistics"), ("calibration",))
    for group in groups:
        members = [(picture, part) for part in group for picture in good[part][0]]
        scores = np.concatenate([good[part][1] for part in group])
        if len(scores) < _LEAST:
            continue
        median = np.median(scores)
        spread = max(float(np.median(np.abs(scores - median))), _LEAST_SPREAD * float(median)) / 0.6745
        found += [
            Outlier(picture.path, part, float(score), float((score - median) / spread))
            for (picture, part), score in zip(members, scores, strict=True)
            if score - median > LIMIT * spread
        ]
    return sorted(found, key=lambda outlier: -outlier.distance)


def raised_from(
    found: Sequence[Outlier], scores: Scores, threshold: Threshold, calibrates: Part = "calibration"
) -> float | None:
    """What the threshold would be without the outliers of the calibration part; None where it is not one's score.

    Args:
        found: the outliers.
        scores: of the calibration part, (n,).
        threshold: that these give.
        calibrates: the part that these scores are of.
    """
    strange = [outlier.score for outlier in found if outlier.part == calibrates]
    if threshold.target_fpr is None or threshold.value not in strange:
        return None
    # They are the highest of all, for an outlier is one by its score.
    return conformal_threshold(np.sort(scores)[: len(scores) - len(strange)], threshold.target_fpr).value

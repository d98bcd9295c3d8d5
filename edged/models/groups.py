"""Good pictures in groups, such as the frames of a stretch of a video: few cases, however many pictures.

Pictures of one group are alike. A threshold that takes each for a case of its own is too low for the next group.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

_STUDENT: Final = (3.078, 1.886, 1.638, 1.533, 1.476, 1.440, 1.415, 1.397, 1.383, 1.372, 1.363, 1.356, 1.350, 1.345)
"""Quantiles at 90 % of Student's distribution with 1, 2, ... degrees of freedom."""

_MOST: Final = 2.0
_LITTLE: Final = 1.1
_FAR: Final = 2.0
"""Times the score of the next one, from which on a group is warned of."""


def members_of(names: Sequence[str]) -> list[NDArray[np.int64]]:
    """Which pictures, by their index, stand in each group, by the name of the group of each: one array a group."""
    groups: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        groups.setdefault(name, []).append(index)
    return [np.array(members, dtype=np.int64) for members in groups.values()]


def margin_of(scores: NDArray[np.floating], groups: Sequence[NDArray[np.int64]]) -> float:
    """By how much more than any group that is there the next one may score, as a factor from 1 to `_MOST`.

    Few groups are few cases: of three, the next one lies above all with a chance of one in four. The logarithms of the
    groups' median scores are taken for normal; below the upper limit of Student's prediction interval for one more,
    mean + t s √(1 + 1/G), lies the next with 90 %. Where groups are many, or pictures stand for themselves, the highest
    of them is above that limit already.

    Args:
        scores: of a model that was fitted on nothing of the same group, (n,), above 0.
        groups: which of the n stand in each; two or more.
    """
    levels = _levels_of(scores, groups)
    n = len(levels)
    t = _STUDENT[n - 2] if n - 2 < len(_STUDENT) else _STUDENT[-1]
    limit = levels.mean() + t * levels.std(ddof=1) * np.sqrt(1 + 1 / n)
    return float(np.clip(np.exp(limit - levels.max()), 1.0, _MOST))


def compare(names: Sequence[str], scores: NDArray[np.floating], margin: float) -> tuple[str, list[str]]:
    """Which group is least like the others, in words, and warnings.

    Args:
        names: of the group of each picture; two different ones or more.
        scores: (n,), as for `margin_of`.
        margin: of those.
    """
    groups = members_of(names)
    levels = np.exp(_levels_of(scores, groups))
    order = np.argsort(levels)
    first, second = (float(levels[index]) for index in order[[-1, -2]])
    words = (
        f"least like the others: {names[int(groups[int(order[-1])][0])]} scores {first:.3g} where it was not learnt, "
        f"the others {levels.min():.3g} to {second:.3g}"
    )
    warnings = []
    if first > _FAR * second:
        warnings.append(f"odd-group: {words}. Is all well in it? If so, add more like it")
    if margin > _LITTLE:
        warnings.append(
            f"few-groups: {len(groups)} groups that differ so much say little of the next one, so the threshold is "
            f"{margin:.2f} times what they give; add stretches of other times"
        )
    return words, warnings


def _levels_of(scores: NDArray[np.floating], groups: Sequence[NDArray[np.int64]]) -> NDArray[np.float64]:
    """The logarithm of the median score of each group, (G,)."""
    return np.log([float(np.median(scores[members])) for members in groups])

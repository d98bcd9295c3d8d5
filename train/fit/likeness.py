"""Which group of good pictures, such as a stretch of a video, is least like the others."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from train.data.groups import members_of_groups
from train.data.pictures import Picture
from train.fit.out_of_fold import OutOfFold, levels_of

_FAR: Final = 2.0
"""Times the score of the next one, from which on a group is warned of."""

_LITTLE: Final = 1.1


def compare(pictures: Sequence[Picture], out_of_fold: OutOfFold) -> tuple[str, list[str]]:
    """Which group of pictures is least like the others, in words, and warnings.

    Args:
        pictures: that were fitted, whose scores these are; in two groups or more.
        out_of_fold: a group's scores are those of a head that has not seen it.
    """
    groups = members_of_groups(pictures)
    levels = np.exp(levels_of(out_of_fold.scores, groups)) / out_of_fold.margin
    order = np.argsort(levels)
    first, second = (float(levels[index]) for index in order[[-1, -2]])
    one = pictures[int(groups[int(order[-1])][0])]
    words = (
        f"least like the others: {one.group or one.path} scores {first:.3g} where it was not learnt, the others "
        f"{levels.min():.3g} to {second:.3g}"
    )
    warnings = []
    if first > _FAR * second:
        warnings.append(f"odd-group: {words}. Is all well in it? If so, add more like it")
    if out_of_fold.margin > _LITTLE:
        warnings.append(
            f"few-groups: {len(groups)} groups that differ so much say little of the next one, so the threshold is "
            f"{out_of_fold.margin:.2f} times what they give; add stretches of other times"
        )
    return words, warnings

"""Which group of good pictures, such as a stretch of a video, is least like the others."""

from collections.abc import Sequence

from edged.models import groups
from train.data.pictures import Picture
from train.fit.out_of_fold import OutOfFold


def compare(pictures: Sequence[Picture], out_of_fold: OutOfFold) -> tuple[str, list[str]]:
    """Which group of pictures is least like the others, in words, and warnings.

    Args:
        pictures: that were fitted, whose scores these are; in two groups or more.
        out_of_fold: a group's scores are those of a head that has not seen it.
    """
    names = [picture.group or picture.path for picture in pictures]
    return groups.compare(names, out_of_fold.scores / out_of_fold.margin, out_of_fold.margin)

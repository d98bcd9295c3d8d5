"""Frames of videos as good pictures: how many different ones there are."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from train.data.groups import members_of_groups, shrunk
from train.data.pictures import PictureSet

_DIFFERS: Final = 1.0
"""Of 255, on average: what frames differ by where they are taken for different ones, as with `on_change`."""


def describe(found: PictureSet) -> str:
    """How many frames there are, in how many stretches, and how many of them differ from each other."""
    n, groups = len(found.pictures), len(members_of_groups(found.pictures))
    return (
        f"{n} frames in {groups} stretches, of which {different(found)} differ from each other by more than "
        f"{_DIFFERS:g} of 255 on average"
    )


def different(found: PictureSet) -> int:
    """How many pictures there are that none before them looks like."""
    kept: list[NDArray[np.float64]] = []
    for picture in found.pictures:
        one = shrunk(found.pixels[picture.row])
        # The last ones first: most look like the one before.
        if not any(np.abs(one - other).mean() <= _DIFFERS for other in reversed(kept)):
            kept.append(one)
    return len(kept)

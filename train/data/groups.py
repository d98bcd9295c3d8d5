"""Pictures that belong together, such as frames of one stretch of a video, and so leave together.

A near-copy of a picture among those that it is judged by makes its score too low, and a threshold of such scores a lie.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edged.media.groups import names_of, taken_at
from edged.models.groups import members_of
from train.data.pictures import Picture, PictureSet

SEQUENCE: Final = (
    "sequence: neighbours in the good folder are far more alike than others, as frames of a video are. Near-copies "
    "make the threshold too low: name what belongs together, such as --groups time:60 or --groups folder"
)
"""The warning where `looks_like_a_sequence`."""

_SHOWN: Final = 5
_ALIKE: Final = 0.3
"""Neighbours this much nearer than others, by the median, are taken for a sequence: frames of a fixed camera have 0.01
to 0.25, solar cells, whose neighbours are of one module, 0.37 to 0.6."""

_SIDE: Final = 32  # values a side that pictures are compared by
_COMPARED: Final = 500


def members_of_groups(pictures: Sequence[Picture]) -> list[NDArray[np.int64]]:
    """Which pictures, by their index, stand in each group: one array a group."""
    return members_of([picture.group or f"/{index}" for index, picture in enumerate(pictures)])


def grouped(found: PictureSet, rule: str, folder: Path, *, alone: bool = True) -> PictureSet:
    """The pictures with the names of their groups.

    Args:
        found: good pictures.
        rule: see `names_of`.
        folder: of the good pictures.
        alone: see `names_of`.

    Raises:
        ConfigError: the rule cannot be followed, or leaves all pictures in one group.
    """
    names = names_of([picture.path for picture in found.pictures], rule, folder, alone=alone)
    pictures = tuple(replace(picture, group=name) for picture, name in zip(found.pictures, names, strict=True))
    return replace(found, pictures=pictures)


def looks_like_a_sequence(found: PictureSet) -> bool:
    """Whether neighbours, in the order of their paths or of time, are far more alike than others are."""
    if len(found.pictures) < 3 * _SHOWN or found.pixels.ndim != 4:
        return False
    by_time = sorted(found.pictures, key=lambda picture: taken_at(Path(picture.path)))
    return any(_neighbours_alike(found.pixels, pictures) for pictures in (found.pictures, by_time))


def _neighbours_alike(pixels: NDArray[np.uint8], pictures: Sequence[Picture]) -> bool:
    first = np.arange(0, len(pictures) - 1, max(1, len(pictures) // _COMPARED))
    small = {i: shrunk(pixels[pictures[i].row]) for i in {*first.tolist(), *(first + 1).tolist()}}
    near = [np.abs(small[i] - small[i + 1]).mean() for i in first.tolist()]
    others = np.random.default_rng(0).permutation(first).tolist()
    far = [np.abs(small[a] - small[b]).mean() for a, b in zip(first.tolist(), others, strict=True) if abs(a - b) > 1]
    return bool(far) and float(np.median(near)) < _ALIKE * float(np.median(far))


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A picture, uint8 (H, W, C), as the means of blocks, about `_SIDE` a side: what pictures are compared by."""
    down, across = (max(1, side // _SIDE) for side in pixels.shape[:2])
    height, width = pixels.shape[0] // down * down, pixels.shape[1] // across * across
    blocks = pixels[:height, :width].reshape(height // down, down, width // across, across, -1)
    means: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return means

"""The shape of pictures before they are decoded, which the model's picture follows; what a size costs and misses."""

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Final

from edged.media.imaging import ImageInput, Size, looked_at, other_shape, upright_size
from train.config.base import ModelConfig
from train.data.pictures import Picture, find
from train.errors import OptionError, TrainError

_MOST: Final = 200
_COARSE: Final = 4.0
"""Source pixels a side in one model pixel above which small defects are likely to be missed."""
_LARGE: Final = 4 * 256 * 256
_BYTES_A_PIXEL: Final = 600  # of the trunk's maps, at most, while one picture passes


def source_of(folder: Path, spec: ImageInput) -> Size:
    """Width and height that pictures of a folder have: the median shape and the median number of pixels.

    Of 200 of them, evenly spaced; from their headers.

    Raises:
        TrainError: there is no folder, or no picture in it whose header can be read.
    """
    paths, _ = find(folder, spec)
    sizes = [size for path in paths[:: -(-len(paths) // _MOST)] if (size := upright_size(path)) is not None]
    if not sizes:
        raise TrainError(f"{folder}: none of its {len(paths)} pictures can be read; are they damaged?")
    pixels, aspect = median(w * h for w, h in sizes), median(w / h for w, h in sizes)
    return max(1, round(math.sqrt(pixels * aspect))), max(1, round(math.sqrt(pixels / aspect)))


def check_roi(config: ModelConfig, source: Size) -> None:
    """Refuses a part to look at that does not lie in the pictures.

    Raises:
        OptionError: it does not.
    """
    if config.roi is None:
        return
    x, y, width, height = config.roi
    if x + width > source[0] or y + height > source[1]:
        raise OptionError(
            [f"roi: {x},{y},{width},{height} reaches beyond the pictures, which are {source[0]}x{source[1]} px"]
        )


def pixels_covered(taken: ImageInput, source: tuple[float, float]) -> tuple[float, float]:
    """Width and height, in px of a file of this size, that one model pixel stands for; see `edged.media.imaging`."""
    left, top, right, bottom = looked_at(taken, round(source[0]), round(source[1]))
    across, down = (right - left) / taken.width, (bottom - top) / taken.height
    if taken.resize == "stretch":
        return across, down
    both = max(across, down) if taken.resize == "pad" else min(across, down)
    return both, both


def coarse(config: ModelConfig, source: Size) -> list[str]:
    """A warning where a model pixel covers so much that small defects are likely to be missed."""
    across, down = pixels_covered(config.spec_of(source), source)
    if across * down <= _COARSE**2:
        return []
    smallest = math.ceil(8 * math.sqrt(across * down))
    return [
        f"coarse: one model pixel covers {across:.2g} x {down:.2g} px of the pictures; defects below about {smallest} "
        "px are likely to be missed. Name the smallest that matters (--defect-px), or the part to look at (--roi)"
    ]


def cost(config: ModelConfig) -> str | None:
    """Memory that large pictures take, in words, before it is taken; None for sizes of everyday."""
    height, width = config.size
    if height * width < _LARGE:
        return None
    memory = height * width * _BYTES_A_PIXEL / 1e9
    return (
        f"pictures of {width}x{height} px: about {height * width / 256**2:.0f} times the time of 256x256, and "
        f"{memory:.1f} GB of memory a picture, in training and in service"
    )


def others(pictures: Sequence[Picture], spec: ImageInput) -> list[str]:
    """A warning where pictures have another shape or scale than the model follows."""
    found = [(p.path, words) for p in pictures if (words := other_shape(spec, *p.source_px)) is not None]
    if not found:
        return []
    what = "bad" if pictures[0].part == "bad" else "good"
    path, words = found[0]
    return [
        f"other-shape: {len(found)} of {len(pictures)} {what} pictures come to the model in another shape or scale "
        f"than most: {path} of {words}"
    ]

"""The shape of pictures before they are decoded, which the model's picture follows; what a size costs and misses."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from typing import Final

import torch

from edged.media.imaging import ImageInput, Size, looked_at
from edged.media.regions import other_shape, upright_size
from train.config.base import DEFECT_PX, ModelConfig
from train.data.pictures import Picture, find
from train.errors import OptionError, TrainError
from train.nets.features import OVERLAP, make_extractor

_MOST: Final = 200
_ALIKE: Final = 1.1  # as `edged.media.regions.other_shape`
_MOST_ALIKE: Final = 0.75
_ROUNDED: Final = 1.25  # sizes are multiples of 16
_COARSE: Final = 4.0
"""Source pixels a side in one model pixel above which small defects are likely to be missed."""
_LARGE: Final = 4 * 256 * 256
_BYTES_A_PIXEL: Final = 2000  # of a tile: measured with ONNX Runtime, which keeps more than the maps that it needs
_BYTES_A_TILE: Final = 14_000_000  # the trunk's weights, which ONNX Runtime arranges anew for each
_BYTES_A_VALUE: Final = 24  # of the joined features, a few times over: standardised, reconstructed, whitened
_BYTES_IN_TRAINING: Final = 120  # of the same, for each picture of a batch: with what it takes to go back


def source_of(folder: Path, spec: ImageInput) -> tuple[Size, int]:
    """Width and height that pictures of a folder have, a median number of pixels in their shape; and how many they are.

    The shape is the median too, where most have about that one; else half way between the tall and the wide, so that
    the few of a mixture are stretched no more than the many: lying and standing ones in one folder come to a square. Of
    200 of them, evenly spaced, by their headers.

    Raises:
        TrainError: there is no folder, or no picture in it whose header can be read.
    """
    paths, _ = find(folder, spec)
    sizes = [size for path in paths[:: -(-len(paths) // _MOST)] if (size := upright_size(path)) is not None]
    if not sizes:
        raise TrainError(f"{folder}: none of its {len(paths)} pictures can be read; are they damaged?")
    pixels, aspects = median(w * h for w, h in sizes), [w / h for w, h in sizes]
    aspect = median(aspects)
    if sum(max(one / aspect, aspect / one) <= _ALIKE for one in aspects) < _MOST_ALIKE * len(aspects):
        tallest, *_, widest = quantiles(aspects, n=20, method="inclusive")
        aspect = math.sqrt(tallest * widest)
    size = max(1, round(math.sqrt(pixels * aspect))), max(1, round(math.sqrt(pixels / aspect)))
    return size, len(paths)


def with_seen(spec: ImageInput, pictures: Sequence[Picture]) -> ImageInput:
    """What a model takes, with the shapes and scales of the pictures that it was trained on, where these differ."""
    aspects = [width / height for width, height in (picture.source_px for picture in pictures)]
    areas = [width * height for width, height in (picture.source_px for picture in pictures)]
    return replace(
        spec,
        aspects=None if max(aspects) <= _ALIKE * min(aspects) else (min(aspects), max(aspects)),
        areas=None if max(areas) <= _ALIKE * min(areas) else (min(areas), max(areas)),
    )


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
    smallest = math.ceil(DEFECT_PX * math.sqrt(across * down))
    likely = (
        f"coarse: one model pixel covers {across:.2g} x {down:.2g} px of the pictures; defects below about {smallest} "
        "px are likely to be missed"
    )
    if config.defect_px is not None:
        if smallest <= _ROUNDED * config.defect_px:
            return []
        return [
            f"{likely}, and so those of defect_px = {config.defect_px:g}: size, or the pictures, have too few pixels"
        ]
    if across * down <= _COARSE**2:
        return []
    return [f"{likely}. Name the smallest that matters (--defect-px), or the part to look at (--roi)"]


def of_mask(mask: Path, source: Size) -> list[str]:
    """A warning where a mask has another shape than the pictures, over which it is stretched."""
    size = upright_size(mask)
    if size is None or max(a := size[0] * source[1] / (size[1] * source[0]), 1 / a) <= _ALIKE:
        return []
    return [
        f"other-shape: the mask {mask} of {size[0]}x{size[1]} px has another shape than the pictures, "
        f"{source[0]}x{source[1]} px, and is stretched over each of them"
    ]


@torch.no_grad()
def cost(config: ModelConfig, n: int) -> str | None:
    """Time and memory that n large pictures take, in words, before they are taken; None for sizes of everyday.

    The time is that of one pass of a blank picture, here and now.
    """
    height, width = config.size
    if height * width < _LARGE:
        return None
    rows, columns = config.tiles or (1, 1)
    tile = min(height, height / rows + 2 * OVERLAP) * min(width, width / columns + 2 * OVERLAP)
    extractor = make_extractor(config)
    blank = torch.zeros(1, config.channels, height, width)
    began = time.monotonic()
    values = extractor(blank).numel()
    seconds = time.monotonic() - began
    whole = values * _BYTES_A_VALUE + height * width * 16
    memory = (tile * _BYTES_A_PIXEL + rows * columns * _BYTES_A_TILE + whole) / 1e9
    training = memory + values * _BYTES_IN_TRAINING * config.batch_size / 1e9
    parts = f" in {rows} x {columns} tiles" if rows * columns > 1 else ""
    return (
        f"pictures of {width}x{height} px{parts}: about {seconds:.1f} s a picture on this CPU, {_minutes(n * seconds)} "
        f"for one pass of {n} (learning from copies takes two, export one more), about {training:.1f} GB of memory in "
        f"training and {memory:.1f} GB in service for each picture at a time"
    )


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"


def others(pictures: Sequence[Picture], spec: ImageInput) -> list[str]:
    """A warning where pictures have another shape or scale than the model follows."""
    found = [(p.path, words) for p in pictures if (words := other_shape(spec, *p.source_px)) is not None]
    if not found:
        return []
    what = "bad" if pictures[0].part == "bad" else "good"
    path, words = found[0]
    have, come = ("has", "comes") if len(found) == 1 else ("have", "come")
    if 2 * len(found) > len(pictures):
        mixed = '; resize = "pad" keeps the shape of each' if spec.resize == "stretch" else ""
        return [
            f"other-shape: {len(found)} of {len(pictures)} {what} pictures {have} another shape or scale than that in "
            f"the middle of the good ones, which the model follows: {path} of {words}{mixed}"
        ]
    return [
        f"other-shape: {len(found)} of {len(pictures)} {what} pictures {come} to the model in another shape or scale "
        f"than most: {path} of {words}"
    ]

"""Defects drawn into good pictures: a first estimate of what would be found, for those who have no bad pictures.

The shapes are those of the denoiser's corruption. Sizes are in pixels of the file, drawn into the model's picture by
the share of each model pixel that they cover.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Generator, Tensor

from edged.models.scorer import Scorer
from export import calibrate
from train.data.corruption import blend, covered, cut_and_paste
from train.data.pictures import Picture
from train.data.reader import Reader, read_pixels

PICTURES: Final = 20
"""Good pictures that each defect is drawn into, at most."""
SHARE: Final = 0.9
CONTRASTS: Final = (0.1, 0.25, 0.5)
SCRATCH: Final = 10
"""A scratch is so many times as long as it is wide."""

_SIZES: Final = (1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32)  # of a dot, and a scratch's width, in model pixels
_FINER: Final = 4
_TRIES: Final = 100
_PIXELS: Final = 512 * 512
"""Of a model's picture: where it has more, fewer pictures are drawn into, which would take minutes."""
_LEAST: Final = 3


@dataclass(frozen=True, slots=True)
class Smallest:
    """The smallest defects of one contrast that are found with 90 %; None where the largest tried is not.

    Attributes:
        contrast: share of white by which they are darker or brighter than what they cover.
        dot_px: diameter, pixels of the file.
        scratch_px: width, pixels of the file.
    """

    contrast: float
    dot_px: float | None
    scratch_px: float | None


@dataclass(frozen=True, slots=True)
class Synthetic:
    """What is found of synthetic defects at the threshold.

    Attributes:
        n: good pictures that each was drawn into.
        smallest: by contrast, ascending.
        pasted: of n pictures with a piece of another one, found.
        blended: of n pictures that another one shines through, found.
    """

    n: int
    smallest: tuple[Smallest, ...]
    pasted: int
    blended: int


def measure(
    served: Scorer,
    read: Reader,
    pictures: Sequence[Picture],
    *,
    covers: tuple[float, float],
    threshold: float,
    looked_at: NDArray[np.bool_] | None = None,
) -> Synthetic | None:
    """Draws defects into good pictures and scores them; the same every time.

    Args:
        served: the bundle as edged loads it.
        read: reads pictures as the model sees them.
        pictures: good ones.
        covers: width and height, px of the file, that one model pixel stands for.
        threshold: in force.
        looked_at: bool (H, W), where dots and scratches may have their middle; None for everywhere.

    Returns:
        None where every one of the pictures is flagged as it is.
    """
    most = max(_LEAST, min(PICTURES, PICTURES * _PIXELS // math.prod(read.spec.shape[:2])))
    spread = np.linspace(0, len(pictures) - 1, min(2 * most, len(pictures))).round().astype(int)
    clean = read_pixels([pictures[int(index)] for index in spread], read.spec)
    kept = clean[_scores(served, read, clean) <= threshold][:most]
    if not len(kept):
        return None
    planes = torch.from_numpy(kept).permute(0, 3, 1, 2).float() / 255  # (n, C, H, W)

    def found(defect: Callable[[Tensor, Generator], Tensor]) -> int:
        generator = Generator().manual_seed(0)
        drawn = torch.stack([defect(picture, generator) for picture in planes])
        pixels = (drawn * 255).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).numpy()
        return int((_scores(served, read, pixels) > threshold).sum())

    def smallest(contrast: float, longer: float) -> float | None:
        """By halving: a larger defect is taken to be found at least as often."""
        model_px = math.sqrt(covers[0] * covers[1])
        sizes = [round(size * model_px, 1) for size in _SIZES if size * longer <= min(planes.shape[2:])]
        low, high = 0, len(sizes)
        while low < high:
            middle = (low + high) // 2
            mark = Mark(sizes[middle], longer, contrast)
            low, high = (
                (low, middle)
                if found(partial(mark.drawn, covers, looked_at)) >= SHARE * len(kept)
                else (middle + 1, high)
            )
        return sizes[low] if low < len(sizes) else None

    other = planes[-1]
    return Synthetic(
        n=len(kept),
        smallest=tuple(Smallest(step, smallest(step, 1), smallest(step, SCRATCH)) for step in CONTRASTS),
        pasted=found(lambda picture, generator: cut_and_paste(picture, other, generator)),
        blended=found(lambda picture, generator: blend(picture, other, generator)),
    )


@dataclass(frozen=True, slots=True)
class Mark:
    """A dot or a scratch.

    Attributes:
        size_px: diameter or width, pixels of the file.
        longer: how many times as long as wide; 1 is a dot.
        contrast: share of white by which it is darker or brighter, whichever has more room.
    """

    size_px: float
    longer: float
    contrast: float

    def drawn(
        self, covers: tuple[float, float], looked_at: NDArray[np.bool_] | None, picture: Tensor, generator: Generator
    ) -> Tensor:
        """At a place and an angle of chance: (C, H, W), 0 to 1 -> the same."""
        height, width = picture.shape[1:]
        for _ in range(_TRIES):
            y, x, angle = (float(value) for value in torch.rand(3, generator=generator))
            if looked_at is None or looked_at[int(y * height), int(x * width)]:
                break
        fine = covered(
            height * _FINER,
            width * _FINER,
            place=(y * height * _FINER, x * width * _FINER),
            sides=(self.size_px * _FINER, self.size_px * self.longer * _FINER),
            angle=angle * math.pi,
            is_ellipse=self.longer == 1,
            scale=(covers[1], covers[0]),
        )
        share = F.avg_pool2d(fine[None, None].float(), _FINER)[0]  # (1, H, W)
        under = (picture * share).sum() / share.sum().clamp_min(1e-6) / picture.shape[0]
        return picture + share * (self.contrast if under < 0.5 else -self.contrast)


def _scores(served: Scorer, read: Reader, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    pixels = pixels.copy()
    if read.denoiser is not None:
        read.denoiser.clean(pixels)
    return calibrate.score_and_map(served, pixels)[0]

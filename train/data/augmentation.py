"""Changed copies of what is learnt from: for parts that lie or are lit in more ways, for signals that are few.

One copy a picture, made once: features are computed once, and a copy drawn anew for every epoch would cost a pass of
the trunk each time. docs/experiments.md has what they gain. Calibration pictures stay as the camera took them, so the
threshold promises nothing of parts that lie or are lit in other ways than those.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from train.config.kinds import AutoencoderConfig, Flips
from train.config.signal import SignalConfig
from train.data import stores
from train.data.pictures import PictureSet
from train.progress import Advance

_AXES: Final[dict[Flips, tuple[int, ...]]] = {"none": (), "horizontal": (1,), "vertical": (0,), "both": (0, 1)}
_WHITE: Final = 255

Change = Callable[[NDArray[Any], Generator], NDArray[Any]]
"""What is drawn from the generator is done to a picture or a signal; the shape stays."""


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How a copy may differ from its picture; every amount is drawn evenly.

    Attributes:
        shift: it is moved by up to this share of the height and of the width; what comes in at an edge is mirrored.
        brightness: its values are multiplied by 1 ± up to this, and clipped.
        flips: it is mirrored left-right, upside down, or both ways, each with a chance of one half.
    """

    shift: float = 0.0
    brightness: float = 0.0
    flips: Flips = "none"

    def __bool__(self) -> bool:
        """Whether copies differ from their pictures at all."""
        return self != Augmentation()

    def __call__(self, picture: NDArray[np.uint8], random: Generator) -> NDArray[np.uint8]:
        """uint8 (H, W, C) -> a changed copy of it, the same shape."""
        copy = picture
        if self.shift:
            copy = _shifted(copy, self.shift, random)
        for axis in _AXES[self.flips]:
            if random.random() < 0.5:
                copy = np.flip(copy, axis)
        if self.brightness:
            bright = copy * random.uniform(1 - self.brightness, 1 + self.brightness)
            copy = np.rint(np.clip(bright, 0, _WHITE)).astype(np.uint8)
        return copy


@dataclass(frozen=True, slots=True)
class Mixture:
    """Mixes a signal with another good one, in the manner of Zhang et al., *mixup* (2018).

    Attributes:
        share: of the other one, at most; it is drawn evenly.
        signals: float32 (rows, C, T).
        rows: of those among which the other one is drawn.
    """

    share: float
    signals: NDArray[np.float32]
    rows: NDArray[np.int64]

    def __call__(self, signal: NDArray[np.float32], random: Generator) -> NDArray[np.float32]:
        """float32 (C, T) -> a mixture, the same shape."""
        other = self.signals[random.choice(self.rows)]
        share = np.float32(random.uniform(0, self.share))
        return (1 - share) * signal + share * other


def augmentation(config: AutoencoderConfig | SignalConfig, good: PictureSet) -> Change | None:
    """What a configuration's hyper-parameters name; none where copies would not differ."""
    if isinstance(config, SignalConfig):
        return Mixture(config.mix, good.pixels, good.rows("fit")) if config.mix else None
    return Augmentation(config.shift, config.brightness, config.flips) or None


def with_copies(pictures: PictureSet, change: Change, *, seed: int, store: Path, advance: Advance) -> PictureSet:
    """The fit and statistics pictures, and a changed copy of each: in the fit part, or in one of its own, "copies".

    Statistics pictures have copies too, for the head is fitted again on both parts: a picture that counts once would
    look strange beside those that count twice. What is measured on the statistics part is measured without them.

    Args:
        pictures: in their parts.
        change: how copies differ.
        seed: the same one gives the same copies.
        store: a file for the pixels, made anew.
        advance: called with (done, total).
    """
    fit, statistics = pictures.part("fit"), pictures.part("statistics")
    originals = [*fit, *statistics]
    pixels = stores.array(store, pictures.pixels.dtype, (2 * len(originals), *pictures.pixels.shape[1:]))
    random = np.random.default_rng(seed)
    for row, picture in enumerate(originals):
        pixels[row] = pictures.pixels[picture.row]
        pixels[len(originals) + row] = change(pixels[row], random)
        advance(row + 1, len(originals))
    named = [*originals, *fit, *(replace(picture, part="copies") for picture in statistics)]
    return PictureSet(tuple(replace(picture, row=row) for row, picture in enumerate(named)), pixels, pictures.warnings)


def _shifted(picture: NDArray[np.uint8], share: float, random: Generator) -> NDArray[np.uint8]:
    height, width = picture.shape[:2]
    down, right = (round(share * side) for side in (height, width))
    padded = np.pad(picture, ((down, down), (right, right), (0, 0)), mode="reflect")
    top, left = random.integers(2 * down, endpoint=True), random.integers(2 * right, endpoint=True)
    return padded[top : top + height, left : left + width]

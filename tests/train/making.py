"""Sets of pictures in memory, and a run in the temporary folder."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.data.pictures import Part, Picture, PictureSet


def stripes(n: int, side: int = 32, channels: int = 1, seed: int = 0) -> NDArray[np.uint8]:
    """Good parts: stripes of one period whose phase and contrast differ; uint8 (n, side, side, channels)."""
    random = np.random.default_rng(seed)
    phase, contrast = random.uniform(0, 2 * np.pi, (n, 1)), random.uniform(0.5, 1, (n, 1))
    rows = 0.5 + 0.4 * contrast * np.sin(np.arange(side) * 2 * np.pi / 8 + phase)  # (n, side)
    pixels = np.broadcast_to(rows[:, :, None, None], (n, side, side, channels))
    return np.round(pixels * 255).astype(np.uint8)


def as_set(pixels: NDArray[np.uint8]) -> PictureSet:
    """A tenth calibrates, a fifth is for statistics."""
    parts: tuple[Part, ...] = ("calibration", "statistics", "statistics", *("fit",) * 7)
    size = (pixels.shape[2], pixels.shape[1])
    pictures = tuple(Picture("", "", "", size, "L", row, parts[row % 10]) for row in range(len(pixels)))
    return PictureSet(pictures, pixels, ())


def save(folder, pixels: NDArray[np.uint8]):
    """As PNG files in a new folder; returns it."""
    folder.mkdir()
    for index, picture in enumerate(pixels):
        Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(folder / f"{index:04}.png")
    return folder

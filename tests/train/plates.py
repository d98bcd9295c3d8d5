"""Small pictures of a made-up part: a grey plate with two bars and some noise; a bad one has a bright blot."""

from pathlib import Path

import numpy as np
from PIL import Image


def part(seed: int, *, size: int = 48, blot: bool = False) -> np.ndarray:
    """uint8 (size, size)."""
    rng = np.random.default_rng(seed)
    picture = np.full((size, size), 110.0) + 20 * rng.random() + rng.normal(0, 3, (size, size))
    picture[:, size // 4 : size // 4 + 4] -= 50
    picture[size // 2 : size // 2 + 4] += 40
    if blot:
        row, column = rng.integers(4, size - 12, 2)
        picture[row : row + 8, column : column + 8] += 90
    return picture.clip(0, 255).round().astype(np.uint8)


def folder(path: Path, n: int, *, first: int = 0, blot: bool = False) -> Path:
    """Writes n pictures that differ."""
    path.mkdir(parents=True)
    for index in range(n):
        Image.fromarray(part(first + index, blot=blot)).save(path / f"{index:03}.png")
    return path

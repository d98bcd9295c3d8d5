"""Pictures read again, by their paths, as the model sees them."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import PictureError
from edged.files import read_regular
from edged.media.imaging import Limits
from edged.media.inputs import Input, decode
from train.data.cleaning import Denoiser
from train.data.pictures import Picture
from train.errors import TrainError


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads pictures as the model will see them: decoded by serving's rule, and behind the denoiser if there is one."""

    spec: Input
    denoiser: Denoiser | None

    def __call__(self, pictures: Sequence[Picture]) -> NDArray[Any]:
        """uint8 (n, H, W, C), or float32 (n, C, T) of signals, in their order.

        Raises:
            TrainError: one cannot be decoded any more.
        """
        pixels = read_pixels(pictures, self.spec)
        if self.denoiser is not None:
            self.denoiser.clean(pixels)
        return pixels

    def of_intact(self, picture: Picture) -> NDArray[Any] | None:
        """One of them, *spec.shape; None where its file is gone or changed."""
        return self([picture])[0] if what_happened(picture) is None else None


def read_pixels(pictures: Sequence[Picture], spec: Input) -> NDArray[Any]:
    """Decodes pictures or signals by the rule that serving uses, in their order: (n, *spec.shape).

    Raises:
        TrainError: one cannot be decoded any more.
    """
    limits = Limits()
    pixels = np.empty((len(pictures), *spec.shape), dtype=spec.dtype)
    for index, picture in enumerate(pictures):
        try:
            pixels[index] = decode(read_regular(Path(picture.path), limits.max_bytes), spec, limits).pixels
        except (OSError, PictureError) as error:
            raise TrainError(f"{picture.path}: cannot be read any more: {error}") from error
    return pixels


def what_happened(picture: Picture) -> str | None:
    """To its file since it was read, in a word: gone or changed; None where it is the same bytes."""
    try:
        data = read_regular(Path(picture.path), Limits().max_bytes)
    except OSError:
        return "gone"
    return None if hashlib.sha256(data).hexdigest() == picture.sha256 else "changed"

"""The pictures that a run names: which are still what they were, and their pixels."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edged.errors import PictureError
from edged.files import read_regular
from edged.media.imaging import Limits
from edged.media.inputs import Input, decode
from edged.models.calibration import pictures_needed
from train.data.cleaning import Denoiser
from train.data.pictures import Part, Picture
from train.errors import TrainError
from train.run import Run


@dataclass(frozen=True, slots=True)
class Intact:
    """The pictures of a run that are still the same bytes.

    Attributes:
        pictures: of all parts.
        warnings: one line each, naming what has gone or changed.
    """

    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...]

    def part(self, part: Part) -> list[Picture]:
        """The pictures of one part."""
        return [picture for picture in self.pictures if picture.part == part]


def find_intact(run: Run, advance: Callable[[int, int], None]) -> Intact:
    """Hashes every picture of a run again.

    Raises:
        TrainError: so many calibration pictures are lost that the rate cannot be promised any more.
    """
    kept, lost = [], []
    for done, picture in enumerate(run.pictures, start=1):
        problem = _problem(picture)
        if problem is None:
            kept.append(picture)
        else:
            lost.append((picture, problem))
        advance(done, len(run.pictures))
    intact = Intact(tuple(kept), tuple(f"{p.path}: has {problem} since training ({p.part})" for p, problem in lost))
    had, have = len(run.part(run.calibrates)), len(intact.part(run.calibrates))
    needed = pictures_needed(run.config.target_fpr)
    if have < min(had, needed):
        some = "; ".join(f"{p.path} has {problem}" for p, problem in lost if p.part == run.calibrates)
        raise TrainError(
            f"{run.path}: {have} of {had} calibration pictures are left, and a false-positive rate of "
            f"{run.config.target_fpr:g} takes {needed}: {some[:2000]}. Put them back, or train again"
        )
    return intact


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


def read_pixels(pictures: Sequence[Picture], spec: Input) -> NDArray[Any]:
    """Decodes pictures or signals by the rule that serving uses, in their order: (n, *spec.shape).

    Raises:
        TrainError: one cannot be decoded any more.
    """
    pixels = np.empty((len(pictures), *spec.shape), dtype=spec.dtype)
    for index, picture in enumerate(pictures):
        try:
            pixels[index] = decode(_read(picture), spec, Limits()).pixels
        except (OSError, PictureError) as error:
            raise TrainError(f"{picture.path}: cannot be read any more: {error}") from error
    return pixels


def _read(picture: Picture) -> bytes:
    return read_regular(Path(picture.path), Limits().max_bytes)


def _problem(picture: Picture) -> str | None:
    try:
        data = _read(picture)
    except OSError:
        return "gone"
    return None if hashlib.sha256(data).hexdigest() == picture.sha256 else "changed"

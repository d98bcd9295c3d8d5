"""Corrupting clean pictures: what a denoiser learns to undo, made anew for every batch.

noise       Gaussian, of a deviation drawn for each picture
Poisson     shot noise, for a share of the pictures in place of the Gaussian
structured  for a share of the pictures, one of: a patch cut from another picture and pasted (Li et al., *CutPaste*,
            2021), another picture blended in under a Perlin mask (Zavrtanik et al., *DRAEM*, 2021), an occlusion

What comes out is what a camera would store: clipped to 0 to 1 and rounded to 8 bits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from train.config.denoiser import DenoiserConfig

_AREA = (0.005, 0.1)  # of a patch or an occlusion, as a share of the picture
_ASPECT = (0.15, 6.0)  # height over width: scratches too
_PERLIN_CELLS = (2, 4, 8, 16)
_PERLIN_THRESHOLD = 0.3


@dataclass(frozen=True, slots=True)
class Corruption:
    """How pictures are corrupted; shares are probabilities.

    Attributes:
        noise: lowest and highest standard deviation of Gaussian noise, on 0 to 1; drawn evenly between.
        poisson: share of the pictures that get Poisson noise in place of it.
        photons: lowest and highest number of photons of a white pixel; drawn evenly on a logarithmic scale.
        structured: share of the pictures that get a structured corruption before the noise.
    """

    noise: tuple[float, float]
    poisson: float
    photons: tuple[float, float]
    structured: float

    def __call__(self, clean: Tensor, generator: Generator) -> Tensor:
        """float32 (N, C, H, W), 0 to 1 -> the same, corrupted; the same generator gives the same."""
        n = len(clean)
        x = clean
        if self.structured > 0:
            x = torch.stack([self._structured(clean, index, generator) for index in range(n)])
        # Drawn whether used or not, so that Poisson noise does not change the Gaussian noise of its batch.
        deviation = _uniform(n, self.noise, generator).view(-1, 1, 1, 1)
        noisy = x + deviation * torch.randn(x.shape, generator=generator)
        if self.poisson > 0:
            low, high = (math.log(bound) for bound in self.photons)
            photons = _uniform(n, (low, high), generator).exp().view(-1, 1, 1, 1)
            is_poisson = torch.rand(n, generator=generator).view(-1, 1, 1, 1) < self.poisson
            noisy = torch.where(is_poisson, torch.poisson(x * photons, generator) / photons, noisy)
        return (noisy * 255).round().clamp(0, 255) / 255

    def _structured(self, clean: Tensor, index: int, generator: Generator) -> Tensor:
        if torch.rand((), generator=generator) >= self.structured:
            return clean[index]
        kinds: tuple[Callable[[Tensor, Tensor, Generator], Tensor], ...] = (cut_and_paste, blend, occlude)
        other = clean[_integer(len(clean), generator)]
        return kinds[_integer(len(kinds), generator)](clean[index], other, generator)


def corruption(config: DenoiserConfig) -> Corruption:
    """What a denoiser's hyper-parameters name."""
    return Corruption(config.noise, config.poisson, config.photons, config.structured)


def cut_and_paste(picture: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """A rectangle of another picture, elsewhere than it was: (C, H, W) -> (C, H, W)."""
    height, width = _rectangle(picture, generator)
    top, left = _place(other, height, width, generator)
    patch = other[:, top : top + height, left : left + width]
    if torch.rand((), generator=generator) < 0.5:
        patch = patch.flip(-1)
    top, left = _place(picture, height, width, generator)
    pasted = picture.clone()
    pasted[:, top : top + height, left : left + width] = patch
    return pasted


def blend(picture: Tensor, other: Tensor, generator: Generator) -> Tensor:
    """Another picture, turned over and shifted, shines through where a Perlin mask is set: (C, H, W) -> (C, H, W)."""
    height, width = picture.shape[1:]
    cells = _PERLIN_CELLS[_integer(len(_PERLIN_CELLS), generator)]
    mask = (perlin(height, width, cells, generator) > _PERLIN_THRESHOLD).to(picture.dtype)
    shift = (_integer(height, generator), _integer(width, generator))
    strange = other.flip(-2).roll(shift, dims=(-2, -1))
    gain, offset = _between(0.5, 1.5, generator), _between(-0.3, 0.3, generator)
    strange = (strange * gain + offset).clamp(0, 1)
    share = _between(0.2, 1.0, generator) * mask
    return picture * (1 - share) + strange * share


def occlude(picture: Tensor, other: Tensor, generator: Generator) -> Tensor:  # noqa: ARG001 -- all three look alike
    """A turned ellipse or bar of one grey level covers a part: (C, H, W) -> (C, H, W)."""
    height, width = picture.shape[1:]
    tall, wide = _rectangle(picture, generator)
    angle = _between(0, math.pi, generator)
    y0, x0 = _between(0, height, generator), _between(0, width, generator)
    is_ellipse = bool(torch.rand((), generator=generator) < 0.5)
    where = covered(height, width, place=(y0, x0), sides=(tall, wide), angle=angle, is_ellipse=is_ellipse)
    return torch.where(where, torch.rand((), generator=generator), picture)


def covered(
    height: int,
    width: int,
    *,
    place: tuple[float, float],
    sides: tuple[float, float],
    angle: float,
    is_ellipse: bool,
    scale: tuple[float, float] = (1.0, 1.0),
) -> Tensor:
    """What a turned ellipse or bar covers: bool (H, W).

    Args:
        height: H, px.
        width: W, px.
        place: y and x of its middle, px.
        sides: how tall and wide it is before it is turned, in units of `scale`.
        angle: by which it is turned, radians.
        is_ellipse: or a bar.
        scale: units that one px stands for, downwards and across.
    """
    down, across_px = (torch.arange(side) - middle for side, middle in zip((height, width), place, strict=True))
    y, x = torch.meshgrid(down * scale[0], across_px * scale[1], indexing="ij")
    along = (x * math.cos(angle) + y * math.sin(angle)) / (sides[1] / 2)
    across = (y * math.cos(angle) - x * math.sin(angle)) / (sides[0] / 2)
    return along.square() + across.square() <= 1 if is_ellipse else (along.abs() <= 1) & (across.abs() <= 1)


def perlin(height: int, width: int, cells: int, generator: Generator) -> Tensor:
    """Gradient noise (Perlin, *Improving noise*, 2002): float32 (H, W), about -1 to 1, `cells` bumps a side."""
    angles = 2 * math.pi * torch.rand(cells + 1, cells + 1, generator=generator)
    gradients = torch.stack([angles.sin(), angles.cos()])  # (2, cells + 1, cells + 1)
    y = (torch.arange(height) + 0.5) * cells / height
    x = (torch.arange(width) + 0.5) * cells / width
    row, column = y.long(), x.long()
    fy, fx = (y - row)[:, None], (x - column)[None, :]

    def corner(down: int, right: int) -> Tensor:
        gy, gx = gradients[:, row + down][:, :, column + right]
        return gy * (fy - down) + gx * (fx - right)

    sy, sx = _fade(fy), _fade(fx)
    upper = corner(0, 0) * (1 - sx) + corner(0, 1) * sx
    lower = corner(1, 0) * (1 - sx) + corner(1, 1) * sx
    return math.sqrt(2) * (upper * (1 - sy) + lower * sy)


def _fade(t: Tensor) -> Tensor:
    return t * t * t * (t * (t * 6 - 15) + 10)


def _rectangle(picture: Tensor, generator: Generator) -> tuple[int, int]:
    height, width = picture.shape[1:]
    area = _between(*_AREA, generator) * height * width
    aspect = math.exp(_between(math.log(_ASPECT[0]), math.log(_ASPECT[1]), generator))
    tall, wide = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(max(tall, 1), height), min(max(wide, 1), width)


def _place(picture: Tensor, height: int, width: int, generator: Generator) -> tuple[int, int]:
    return (
        _integer(picture.shape[1] - height + 1, generator),
        _integer(picture.shape[2] - width + 1, generator),
    )


def _uniform(n: int, bounds: tuple[float, float], generator: Generator) -> Tensor:
    low, high = bounds
    return low + (high - low) * torch.rand(n, generator=generator)


def _between(low: float, high: float, generator: Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _integer(end: int, generator: Generator) -> int:
    return int(torch.randint(end, (), generator=generator))

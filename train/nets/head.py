"""The scoring head: residual -> anomaly map and score. Everything in it is fitted on good pictures and then fixed.

residual r (C) at a position, minus that position's mean
distance   d = |W r|, W the inverse Cholesky factor of its region's covariance: the Mahalanobis distance
shape      z = (d - mean) / deviation of d at that position, on the pictures that the covariance is of
level      z = (z - mean) / deviation of z over all positions, on the statistics pictures
smoothing  a small Gaussian
score      mean of softplus(z) over the highest positions; the map is softplus(z) / its reference
"""

import math
from itertools import pairwise
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

REFERENCE_QUANTILE: Final = 0.999
"""Statistics pictures exceed 1.0 of the anomaly map at one position in a thousand, before the last fit; docs/bundle.md
says what new pictures do."""

_MOST_STEPS: Final = 127
_STRIP: Final = 40
_IGNORED: Final = 1e-30  # above 0, as all of a map
_LEAST: Final = -80.0  # softplus of it is 2e-35, a normal number of single precision


class Head(nn.Module):
    """The head as a graph; `train.fit.head` fills its buffers."""

    mean: Tensor
    factors: Tensor
    steps: Tensor
    length_mean: Tensor
    length_deviation: Tensor
    level: Tensor
    spread: Tensor
    reference: Tensor
    kept: Tensor | None
    kernel: Tensor

    def __init__(
        self,
        *,
        channels: int,
        height: int,
        width: int,
        regions: int | tuple[int, int],
        smoothing: float,
        top: int,
        masked: bool = False,
    ) -> None:
        """Makes room for what is fitted.

        Args:
            channels: C of the residual.
            height: h of the map.
            width: w of the map.
            regions: g, the map has g x g covariances, or (rows, columns); they divide h and w. A map one position high
                has 1 x g.
            smoothing: sigma of the Gaussian, map positions; 0 for none.
            top: highest positions that the score is the mean of.
            masked: whether some positions are ignored, `kept` says which.
        """
        super().__init__()
        self.regions = regions
        self.top = min(top, height * width)
        packed = channels * (channels + 1) // 2 + 1  # and a zero, for what stands above the diagonal
        self.strips = _strips(channels)
        """[begin, end) of the strips of rows that the factors are used in."""
        self.register_buffer("mean", torch.zeros(channels, height, width))
        # The factors are most of the model's bytes: lower triangles alone, in 8 bits, with a step a row.
        count = math.prod(_grid(regions, height, width))
        self.register_buffer("factors", torch.zeros(count, packed, dtype=torch.int8))
        self.register_buffer("steps", torch.zeros(count, 1, channels))
        # Of the distance; runs hold them under these names.
        self.register_buffer("length_mean", torch.zeros(height, width))
        self.register_buffer("length_deviation", torch.ones(height, width))
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        self.register_buffer("reference", torch.ones(()))
        for number, (begin, end) in enumerate(self.strips):
            self.register_buffer(f"unpacking_{number}", _unpacking(channels, begin, end), persistent=False)
        if masked:
            self.register_buffer("kept", torch.ones(height, width))
        else:
            self.kept = None
        self.register_buffer("kernel", _gaussian(smoothing), persistent=False)

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """Scores residuals.

        Args:
            residual: float32 (N, C, h, w), of standardised channels.

        Returns:
            Score float32 (N,), above 0, larger is worse; anomaly map float32 (N, h, w), above 0, where 1.0 is the
            level that good pictures exceed at about one position in a thousand.
        """
        excess = self.excess(residual)
        return self.score(excess), excess / self.reference

    def score(self, excess: Tensor) -> Tensor:
        """Mean of the highest positions: (N, h, w) -> (N,)."""
        return excess.flatten(1).topk(self.top, dim=1).values.mean(dim=1)

    def excess(self, residual: Tensor) -> Tensor:
        """softplus(z), smoothed: float32 (N, h, w), above 0, in deviations."""
        return self.excess_of(self.shape(residual))

    def excess_of(self, shape: Tensor) -> Tensor:
        """The same of distances standardised by their position, (N, h, w)."""
        excess = above_zero(self.smooth((shape - self.level) / self.spread))
        return excess if self.kept is None else excess * self.kept + _IGNORED

    def shape(self, residual: Tensor) -> Tensor:
        """The distance standardised by its position: float32 (N, h, w)."""
        z = (self.distance(residual) - self.length_mean) / self.length_deviation
        return z if self.kept is None else z * self.kept

    def distance(self, residual: Tensor) -> Tensor:
        """Mahalanobis distance at each position: (N, C, h, w) -> (N, h, w), 0 or more.

        W is lower triangular: a strip of its rows needs no channels behind them. That is two thirds of the numbers to
        read, which is where the time goes, and rows times columns of a transposed strip is what ONNX Runtime is fastest
        at.
        """
        by_region = to_regions(residual - self.mean, self.regions)  # (g*g, N*a*b, C)
        squares = torch.zeros(())
        for number, (_, end) in enumerate(self.strips):
            whitened = by_region[:, :, :end] @ self.transposed_strip(number)
            squares = squares + whitened.square().sum(dim=2, keepdim=True)
        return from_regions(squares.sqrt(), self.regions, residual.shape[2], residual.shape[3]).squeeze(1)

    def store(self, factors: NDArray[np.float64]) -> None:
        """Takes the factors W, (g*g, C, C) and lower triangular, in steps of each row's largest element over 127."""
        steps = (np.abs(factors).max(axis=2, keepdims=True) / _MOST_STEPS).astype(np.float32)
        row, column = np.tril_indices(factors.shape[1])
        packed = np.pad(np.round(factors / steps)[:, row, column], ((0, 0), (0, 1)))
        self.factors.copy_(torch.from_numpy(packed.astype(np.int8)))
        self.steps.copy_(torch.from_numpy(steps.transpose(0, 2, 1)))

    def transposed_strip(self, number: int) -> Tensor:
        """Rows [begin, end) of the factors, transposed, without the channels that they are 0 for: (g*g, end, rows)."""
        begin, end = self.strips[number]
        values = self.factors.index_select(1, self.get_buffer(f"unpacking_{number}")).view(-1, end, end - begin)
        return values.float() * self.steps[:, :, begin:end]

    def smooth(self, z: Tensor) -> Tensor:
        """Gaussian smoothing, borders repeated: (N, h, w) -> (N, h, w)."""
        radius = self.kernel.numel() // 2
        if radius == 0:
            return z
        padded = F.pad(z.unsqueeze(1), (radius, radius, radius, radius), mode="replicate")
        rows = F.conv2d(padded, self.kernel.view(1, 1, -1, 1))
        return F.conv2d(rows, self.kernel.view(1, 1, 1, -1)).squeeze(1)


def above_zero(z: Tensor) -> Tensor:
    """softplus(z), which single precision would round to 0 below -104: above 0, and z itself where z is large."""
    return F.softplus(z.clamp_min(_LEAST))


def to_regions(x: Tensor, regions: int | tuple[int, int]) -> Tensor:
    """(N, C, h, w) -> (g*g, N*a*b, C), where a region has a x b positions."""
    _, channels, height, width = x.shape
    rows, columns = _grid(regions, height, width)
    split = x.reshape(-1, channels, rows, height // rows, columns, width // columns)
    return split.permute(2, 4, 0, 3, 5, 1).reshape(rows * columns, -1, channels)


def from_regions(x: Tensor, regions: int | tuple[int, int], height: int, width: int) -> Tensor:
    """The inverse: (g*g, N*a*b, C) -> (N, C, h, w)."""
    rows, columns = _grid(regions, height, width)
    channels = x.shape[2]
    split = x.reshape(rows, columns, -1, height // rows, width // columns, channels)
    return split.permute(2, 5, 0, 3, 1, 4).reshape(-1, channels, height, width)


def _grid(regions: int | tuple[int, int], height: int, width: int) -> tuple[int, int]:
    rows, columns = (regions, regions) if isinstance(regions, int) else regions
    return min(rows, height), min(columns, width)


def _strips(channels: int) -> list[tuple[int, int]]:
    """[begin, end) of strips of about `_STRIP` rows."""
    edges = np.linspace(0, channels, max(1, round(channels / _STRIP)) + 1).round().astype(int).tolist()
    return list(pairwise(edges))


def _unpacking(channels: int, begin: int, end: int) -> Tensor:
    """Where each element of a transposed strip, (end, end - begin), stands in the packed triangle: int32, flat."""
    row, column = torch.tril_indices(channels, channels)
    place = torch.full((channels, channels), row.numel(), dtype=torch.int32)
    place[row, column] = torch.arange(row.numel(), dtype=torch.int32)
    return place[begin:end, :end].T.flatten()


def _gaussian(sigma: float) -> Tensor:
    """Weights that sum to 1, out to three sigma: float32 (2r+1,)."""
    radius = math.ceil(3 * sigma)
    x = torch.arange(-radius, radius + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (x / max(sigma, 1e-6)) ** 2)
    return weights / weights.sum()

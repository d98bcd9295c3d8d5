"""A finer anomaly map than the head's: where within its positions the trunk's finest stage sees something unusual.

The head joins stages at stride 16, which is what tells good from bad best; a map of that is coarse. The finest stage
alone, at stride 8, tells less and shows better where. docs/experiments.md has what either is worth.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

_SHRINKAGE = 0.02  # as the head's; there are samples in plenty
_LEAST = 1e-3  # deviations and distances below are none
_IGNORED = 1e-30  # above 0, as all of a map


class Detail(nn.Module):
    """The finer map as a graph; `fit` fills its buffers.

    map = excess, interpolated, times the Mahalanobis distance of the finest stage; scaled so that the mean of the
    highest positions is the score. The head says whether, and this one where.

    One mean and one covariance serve all positions: the distance compares what lies side by side.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, channels: int, top: int) -> None:
        """Makes room for what is fitted.

        Args:
            channels: C of the finest stage.
            top: highest positions that a score is the mean of.
        """
        super().__init__()
        self.top = top
        self.register_buffer("mean", torch.zeros(channels, 1, 1))
        self.register_buffer("factor", torch.eye(channels))

    def fit(self, mean: NDArray[np.float64], covariance: NDArray[np.float64]) -> None:
        """Takes the mean (C,) and covariance (C, C) of good pictures."""
        deviation = np.sqrt(np.maximum(np.diag(covariance), _LEAST**2))
        correlation = covariance / np.outer(deviation, deviation) + _SHRINKAGE * np.eye(len(mean))
        factor = np.linalg.inv(np.linalg.cholesky(correlation)) / deviation
        self.mean.copy_(torch.from_numpy(mean).view(-1, 1, 1))
        self.factor.copy_(torch.from_numpy(factor))

    def forward(self, excess: Tensor, score: Tensor, finest: Tensor, kept: Tensor | None) -> Tensor:
        """The finer map, in the head's deviations.

        Args:
            excess: float32 (N, h, w), above 0.
            score: float32 (N,), the mean of its highest positions.
            finest: float32 (N, C, a h, a w).
            kept: float32 (h, w), 0 for what is ignored; None for nothing.

        Returns:
            float32 (N, a h, a w), above 0.
        """
        size = (finest.shape[2], finest.shape[3])
        centred = finest - self.mean
        distance = F.conv2d(centred, self.factor[:, :, None, None]).square().sum(dim=1).sqrt() + _LEAST
        found = F.interpolate(excess.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)
        found = found * distance
        if kept is not None:  # what is interpolated reaches across its edge
            found = found * F.interpolate(kept[None, None], size=size, mode="nearest").squeeze(1)
        highest = found.flatten(1).topk(min(self.top, size[0] * size[1]), dim=1).values.mean(dim=1)
        return found * (score / highest.clamp_min(_IGNORED)).view(-1, 1, 1) + _IGNORED

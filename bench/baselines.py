"""The detectors that people would pick instead, from their papers, on the features that ours uses.

They exist to be compared with and are part of no bundle. Both are graphs like ours, so that bytes and milliseconds are
measured in the same way: uint8 (N, H, W, C) -> score (N,), anomaly map (N, h, w).
"""

from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.nets.features import Extractor, Features

_RIDGE: Final = 0.01  # PaDiM's ε
_CORESET: Final = 8000
_PROJECTED: Final = 64
_NEIGHBOURS: Final = 9  # b of PatchCore's re-weighting


class Baseline(nn.Module):
    """What both share: features, standardised as ours are."""

    center: Tensor
    scale: Tensor
    output_names: Final = ("score", "anomaly_map")

    def __init__(self, extractor: Extractor, features: Features) -> None:
        super().__init__()
        self.extractor = extractor
        self.register_buffer("center", features.center)
        self.register_buffer("scale", features.scale)

    def standardised(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> float32 (N, C, h, w)."""
        return (self.extractor(image.permute(0, 3, 1, 2).float()) - self.center) / self.scale


class PaDiM(Baseline):
    """A Gaussian a position (Defard et al., *PaDiM*, 2021), on all channels; the score is the map's highest value."""

    mean: Tensor
    factors: Tensor

    def __init__(self, extractor: Extractor, features: Features, rows: np.ndarray) -> None:
        super().__init__(extractor, features)
        x = features.batch(rows)  # (n, C, h, w)
        n, channels, height, width = x.shape
        by_position = x.permute(2, 3, 0, 1).reshape(height * width, n, channels)
        mean = by_position.mean(dim=1, keepdim=True)
        centred = by_position - mean
        covariance = centred.transpose(1, 2) @ centred / (n - 1) + _RIDGE * torch.eye(channels)
        factors = np.linalg.inv(np.linalg.cholesky(covariance.double().numpy()))
        self.register_buffer("mean", mean.reshape(height, width, channels).permute(2, 0, 1).contiguous())
        self.register_buffer("factors", torch.from_numpy(factors).float())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) -> score (N,), anomaly map (N, h, w)."""
        centred = self.standardised(image) - self.mean
        channels, height, width = self.mean.shape
        by_position = centred.permute(2, 3, 1, 0).reshape(height * width, channels, -1)
        lengths = (self.factors @ by_position).square().sum(dim=1).sqrt()  # (h w, N)
        anomaly_map = lengths.transpose(0, 1).reshape(-1, height, width)
        return anomaly_map.flatten(1).amax(dim=1), anomaly_map


class MemoryBank(Baseline):
    """Distance to the nearest of a coreset of good patches, re-weighted (Roth et al., *PatchCore*, 2022)."""

    bank: Tensor

    def __init__(self, extractor: Extractor, features: Features, rows: np.ndarray, *, seed: int) -> None:
        super().__init__(extractor, features)
        x = features.batch(rows)
        patches = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])  # (n h w, C)
        self.register_buffer("bank", patches[_coreset(patches, min(_CORESET, len(patches)), seed)].clone())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 (N, H, W, C) -> score (N,), anomaly map (N, h, w)."""
        x = self.standardised(image)
        channels, height, width = x.shape[1:]
        patches = x.permute(0, 2, 3, 1).reshape(-1, channels)
        nearest, index = _distances(patches, self.bank).min(dim=1)
        anomaly_map = nearest.view(-1, height, width)
        score, place = anomaly_map.flatten(1).max(dim=1)  # (N,)
        # The farther the neighbours of the nearest patch are from it, the rarer it is and the more the score counts.
        at = torch.arange(x.shape[0]) * height * width + place
        member = self.bank.index_select(0, index.index_select(0, at))
        neighbours = _distances(member, self.bank).topk(_NEIGHBOURS, dim=1, largest=False).indices  # (N, b)
        around = self.bank.index_select(0, neighbours.flatten()).view(-1, _NEIGHBOURS, channels)
        distances = (patches.index_select(0, at).unsqueeze(1) - around).square().sum(dim=2).sqrt()
        weight = 1 - torch.exp(score - torch.logsumexp(distances, dim=1))
        return weight * score, anomaly_map


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """Euclidean, (n, C) and (m, C) -> (n, m)."""
    squared = a.square().sum(dim=1, keepdim=True) + b.square().sum(dim=1) - 2 * a @ b.transpose(0, 1)
    return squared.clamp_min(0).sqrt()


def _coreset(patches: Tensor, size: int, seed: int) -> Tensor:
    """Greedy k-centre on a random projection: each member is the patch that is farthest from those before."""
    generator = torch.Generator().manual_seed(seed)
    projected = patches @ torch.randn(patches.shape[1], _PROJECTED, generator=generator) / _PROJECTED**0.5
    lengths = projected.square().sum(dim=1)
    chosen = torch.empty(size, dtype=torch.int64)
    chosen[0] = torch.randint(len(patches), (1,), generator=generator)
    farthest = torch.full((len(patches),), torch.inf)
    for index in range(1, size):
        last = chosen[index - 1]
        farthest = torch.minimum(farthest, F.relu(lengths + lengths[last] - 2 * projected @ projected[last]))
        chosen[index] = farthest.argmax()
    return chosen

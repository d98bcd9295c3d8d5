"""What is particular to signals in training: their shape, their extractor, their networks, their score."""

from collections import Counter
from collections.abc import Iterable
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor, nn

from edged.errors import PictureError
from edged.files import read_regular
from edged.media import signals
from edged.media.imaging import Limits, find_pictures
from train.config.explained import explain
from train.config.signal import SignalConfig
from train.errors import OptionError, TrainError
from train.fit.head import HeadReport, Residuals, fit_head
from train.nets.head import Head, above_zero

_LOOKED_AT: Final = 200
_RESOLUTION: Final = 1e-6  # a deviation below this share of the largest value is noise of single precision
_LEAST_SPREAD: Final = 0.01  # of the level; the deviation of two errors may be next to nothing by chance
_KERNEL: Final = 5


def shaped(config: SignalConfig, folder: Path) -> SignalConfig:
    """A configuration with the channels and the length that most of the first files in a folder have.

    Args:
        config: what it names already stays.
        folder: good signals.

    Raises:
        TrainError: the folder is not there, or holds no signal that can be read.
        OptionError: other keys do not fit that shape.
    """
    if config.channels is not None and config.length is not None:
        return config
    shapes: Counter[tuple[int, ...]] = Counter()
    problem = "no .npy or .csv files"
    for path in islice(find_pictures(folder, signals.PATTERNS) if folder.is_dir() else (), _LOOKED_AT):
        try:
            shapes[signals.parse(read_regular(path, Limits().max_bytes), Limits()).shape] += 1
        except (OSError, PictureError) as error:
            problem = f"{path}: {error}"
    if not shapes:
        raise TrainError(f"{folder}: holds no signals that can be read ({problem})")
    channels, length = shapes.most_common(1)[0][0]
    try:
        return config.shaped(channels, length)
    except ValidationError as error:
        where = f"{folder}: its signals have {channels} channel(s) of {length} samples"
        problems = [f"{where}; {line}" for item in error.errors() for line in explain(item, SignalConfig)]
        raise OptionError(problems) from error


class FoldedSamples(nn.Module):
    """The signal itself, each patch of samples folded into the channels of one position of a map one position high.

    A length that is no multiple of the patch is padded with its last sample.
    """

    def __init__(self, channels: int, length: int, patch: int, scaling: str) -> None:
        super().__init__()
        self.signal_channels = channels
        self.length = length
        self.patch = patch
        self.scaling = scaling
        self.channels = channels * patch
        self.map_size = (1, -(-length // patch))

    def forward(self, signal: Tensor) -> Tensor:
        """Signal: float32 (N, C, T) -> float32 (N, C patch, 1, t)."""
        return self.fold(signal)

    def fold(self, signal: Tensor) -> Tensor:
        """(N, C, T) -> (N, C patch, 1, t)."""
        positions = self.map_size[1]
        padded = F.pad(signal, (0, positions * self.patch - self.length), mode="replicate")
        split = padded.reshape(-1, self.signal_channels, positions, self.patch)
        return split.transpose(2, 3).reshape(-1, self.channels, 1, positions)

    def unfold(self, folded: Tensor) -> Tensor:
        """The inverse: (N, C patch, 1, t) -> (N, C, T)."""
        positions = self.map_size[1]
        split = folded.reshape(-1, self.signal_channels, self.patch, positions).transpose(2, 3)
        return split.reshape(-1, self.signal_channels, positions * self.patch)[..., : self.length]

    def standardising(self, values: NDArray[np.floating], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """What brings each channel to mean 0 and deviation 1, or to 0 to 1, by the fit signals.

        Args:
            values: folded signals, (n, C patch, 1, t).
            rows: of the fit signals.

        Returns:
            What to take away and what to divide by, float32 (C patch, 1, 1) each.
        """
        n = self.signal_channels
        by_channel = [values[row].reshape(n, -1).astype(np.float64) for row in rows]
        low = np.min([x.min(axis=1) for x in by_channel], axis=0)
        high = np.max([x.max(axis=1) for x in by_channel], axis=0)
        if self.scaling == "range":
            center, scale = low, high - low
        else:
            center = np.mean([x.mean(axis=1) for x in by_channel], axis=0)
            scale = np.sqrt(np.mean([np.square(x - center[:, None]).mean(axis=1) for x in by_channel], axis=0))
        peak = np.maximum(np.abs(low), np.abs(high))
        scale = np.maximum(scale, _RESOLUTION * peak)
        scale[scale == 0] = 1.0  # a channel that is zero throughout
        return tuple(  # type: ignore[return-value]
            torch.from_numpy(np.repeat(x, self.patch)).float().view(-1, 1, 1) for x in (center, scale)
        )


class OnSignal(nn.Module):
    """Lets a network of whole signals stand where one of folded signals is expected."""

    def __init__(self, network: nn.Module, extractor: FoldedSamples) -> None:
        super().__init__()
        self.network = network
        self.fold = extractor.fold
        self.unfold = extractor.unfold

    def forward(self, folded: Tensor) -> Tensor:
        """float32 (N, C patch, 1, t) -> the same, through (N, C, T)."""
        return self.fold(self.network(self.unfold(folded)))


class WholeHead(nn.Module):
    """A head whose map is another's, and whose score is the reconstruction error of the whole signal."""

    level: Tensor
    spread: Tensor

    def __init__(self, local: Head) -> None:
        super().__init__()
        self.local = local
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """float32 (N, C patch, 1, t) -> score (N,) above 0, map (N, 1, t); see `Head`."""
        _, anomaly_map = self.local(residual)
        return above_zero((self.error(residual) - self.level) / self.spread), anomaly_map

    def error(self, residual: Tensor) -> Tensor:
        """Root of the mean squared error: (N,), in standardised units."""
        return residual.square().mean(dim=(1, 2, 3)).sqrt()


@torch.no_grad()
def fit_whole(
    head: WholeHead, fit: Residuals, statistics: Residuals, copies: Residuals, *, shrinkage: float
) -> HeadReport:
    """Fits the map as `fit_head` does, and the score's level and spread on the statistics signals."""
    report = fit_head(head.local, fit, statistics, copies, shrinkage=shrinkage)
    errors = torch.cat([head.error(batch) for batch in statistics()])
    head.level.copy_(errors.mean())
    head.spread.copy_(errors.std().clamp_min(float(_LEAST_SPREAD * head.level)))
    scores = torch.cat([head(batch)[0] for batch in statistics()])
    return HeadReport(report.held_out_ratio, report.reference, scores.numpy())


def make_network(config: SignalConfig) -> tuple[nn.Sequential, nn.Sequential]:
    """The encoder (N, C, T) -> (N, L) and the decoder (N, L) -> (N, C, T) that a configuration names."""
    spec = config.spec
    if config.architecture == "dense":
        encoder, decoder = _dense(spec.shape, config.hidden, config.latent)
    else:
        encoder, decoder = _conv(spec.shape, config.width, config.depth, config.latent)
    return encoder, decoder.append(nn.Sigmoid()) if config.scaling == "range" else decoder


def _dense(shape: tuple[int, int], hidden: Iterable[int], latent: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Dense layers with ReLU, the latent's included, and the same back, without one at the end."""
    sizes = [shape[0] * shape[1], *hidden, latent]
    pairs = list(pairwise(sizes))
    inner = [layer for i, o in pairs for layer in (nn.Linear(i, o), nn.ReLU())]
    outer = [layer for i, o in reversed(pairs) for layer in (nn.Linear(o, i), nn.ReLU())][:-1]
    return nn.Sequential(nn.Flatten(), *inner), nn.Sequential(*outer, nn.Unflatten(1, shape))


def _conv(shape: tuple[int, int], width: int, depth: int, latent: int) -> tuple[nn.Sequential, nn.Sequential]:
    """One-dimensional convolutions, halving the length; around one latent, as for pictures."""
    channels, length = shape
    lengths = [length]
    for _ in range(depth):
        lengths.append(-(-lengths[-1] // 2))
    bottom = (max(1, width // 4), lengths[-1])
    flat = bottom[0] * bottom[1]
    encoder = nn.Sequential(
        *_block(channels, width),
        *(layer for _ in range(depth) for layer in _block(width, width, stride=2)),
        nn.Conv1d(width, bottom[0], 1),
        nn.Flatten(),
        nn.Linear(flat, latent),
    )
    decoder = nn.Sequential(
        nn.Linear(latent, flat),
        nn.Unflatten(1, bottom),
        *_block(bottom[0], width),
        *(layer for size in reversed(lengths[:-1]) for layer in (_Lengthen(size), *_block(width, width))),
        nn.Conv1d(width, channels, 1),
    )
    return encoder, decoder


def _block(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    convolution = nn.Conv1d(inputs, outputs, _KERNEL, stride, padding=_KERNEL // 2, bias=False)
    return convolution, nn.BatchNorm1d(outputs), nn.SiLU()


class _Lengthen(nn.Module):
    """Linear interpolation to a length; a convolution after it leaves no pattern."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ~length/2) -> (N, C, length)."""
        return F.interpolate(x, size=self.length, mode="linear", align_corners=False)

"""What the autoencoder sees: features of the frozen trunk, or pixels folded into patches; computed once and cached."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from train.config.base import FOLD, PIXELS, STAGE_CHANNELS, ModelConfig
from train.data import stores
from train.data.pictures import PictureSet
from train.data.signals import FoldedSamples
from train.nets import backbone
from train.progress import Track

OVERLAP: Final = 64
"""What a tile sees beyond its edge, px: of several hundred that a position depends on, those that count for most."""

_BATCH: Final = 16
_COMMON_PIXELS: Final = 512 * 512
_LEAST_DEVIATION: Final = 1e-3  # of a channel; one that never moves must not blow up


class TrunkFeatures(nn.Module):
    """Maps of the trunk, 3x3-averaged and joined at one stride.

    As in Defard et al., *PaDiM* (2021), and Roth et al., *PatchCore* (2022): the average makes a position stand for
    its neighbourhood, so that small shifts matter less.
    """

    def __init__(self, stages: Sequence[int], stride: int) -> None:
        super().__init__()
        self.channels = sum(STAGE_CHANNELS[stage] for stage in stages)
        self.stride = stride
        self.trunk = backbone.load_trunk(stages)

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 (N, 3, H, W), 0 to 255 -> float32 (N, C, H / stride, W / stride)."""
        height, width = image.shape[2] // self.stride, image.shape[3] // self.stride
        return torch.cat([_resized(_averaged(x), height, width) for x in self.trunk(image)], dim=1)


def _averaged(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _resized(x: Tensor, height: int, width: int) -> Tensor:
    """Averages a finer map down, interpolates a coarser one up."""
    if x.shape[2] > height:
        return F.avg_pool2d(x, x.shape[2] // height)
    if x.shape[2] < height:
        return F.interpolate(x, size=(height, width), mode="bilinear", align_corners=False)
    return x


class Tiled(nn.Module):
    """An extractor that sees a large picture in tiles, one after the other, and joins what it sees.

    The memory that it takes is that of a tile. Tiles overlap, so that what stands at the edge of one is seen with its
    surroundings; what is seen of the overlap is left out.
    """

    def __init__(self, extractor: TrunkFeatures, size: tuple[int, int], tiles: tuple[int, int]) -> None:
        """Cuts a picture of this height and width into rows x columns, at multiples of the trunk's stride."""
        super().__init__()
        self.inner = extractor
        self.channels, self.stride = extractor.channels, extractor.stride
        self.rows, self.columns = (spans(side, n) for side, n in zip(size, tiles, strict=True))

    def forward(self, image: Tensor) -> Tensor:
        """As the extractor's."""
        joined = []
        for top, bottom in self.rows:
            above, below = max(0, top - OVERLAP), min(image.shape[2], bottom + OVERLAP)
            row = []
            for left, right in self.columns:
                before, behind = max(0, left - OVERLAP), min(image.shape[3], right + OVERLAP)
                seen = self.inner(image[:, :, above:below, before:behind])
                first, from_left = (top - above) // self.stride, (left - before) // self.stride
                height, width = (bottom - top) // self.stride, (right - left) // self.stride
                row.append(seen[:, :, first : first + height, from_left : from_left + width])
            joined.append(torch.cat(row, dim=3))
        return torch.cat(joined, dim=2)


def spans(side: int, n: int) -> list[tuple[int, int]]:
    """[begin, end) of n parts of a side, px, as equal as the trunk's stride allows."""
    edges = (np.linspace(0, side // backbone.STRIDE, n + 1).round().astype(int) * backbone.STRIDE).tolist()
    return list(pairwise(edges))


class Masked(nn.Module):
    """An extractor that sees black where nobody shall look."""

    looked_at: Tensor

    def __init__(self, extractor: "TrunkFeatures | Tiled | FoldedPixels", size: tuple[int, int]) -> None:
        super().__init__()
        self.inner = extractor
        self.channels, self.stride = extractor.channels, extractor.stride
        self.register_buffer("looked_at", torch.ones(size))

    def forward(self, image: Tensor) -> Tensor:
        """As the extractor's."""
        features: Tensor = self.inner(image * self.looked_at)
        return features


class FoldedPixels(nn.Module):
    """The picture itself, each patch of FOLD x FOLD pixels folded into the channels of one position."""

    stride: Final = FOLD

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels * FOLD * FOLD

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 (N, C, H, W), 0 to 255 -> float32 (N, 16 C, H/4, W/4), 0 to 1."""
        return F.pixel_unshuffle(image / 255.0, FOLD)

    def unfold(self, folded: Tensor) -> Tensor:
        """The inverse: float32 (N, 16 C, H/4, W/4) -> uint8 (N, H, W, C), clipped to what a picture can hold."""
        image = F.pixel_shuffle(folded, FOLD) * 255.0
        return image.round().clamp(0.0, 255.0).permute(0, 2, 3, 1).to(torch.uint8)


PictureExtractor = TrunkFeatures | Tiled | FoldedPixels | Masked
Extractor = PictureExtractor | FoldedSamples


def unmasked(extractor: Extractor) -> "TrunkFeatures | Tiled | FoldedPixels | FoldedSamples":
    """What a mask is put before, or the extractor itself."""
    return extractor.inner if isinstance(extractor, Masked) else extractor


def to_planes(values: Tensor) -> Tensor:
    """What extractors take: pictures uint8 (N, H, W, C) -> float32 (N, C, H, W); signals as they are."""
    return values.permute(0, 3, 1, 2).float() if values.ndim == 4 else values


def make_extractor(config: ModelConfig) -> PictureExtractor:
    """The extractor that a configuration names, in evaluation mode."""
    extractor: TrunkFeatures | Tiled | FoldedPixels
    if config.backbone == PIXELS:
        extractor = FoldedPixels(config.channels)
    else:
        extractor = TrunkFeatures(config.stages, config.stride)
        if config.tiles not in (None, (1, 1)):
            extractor = Tiled(extractor, config.size, config.tiles)
    return (extractor if config.mask is None else Masked(extractor, config.size)).eval()


def batch_of(pixels: int, most: int) -> int:
    """How many pictures of so many pixels pass together without taking more memory than `most` of 512 x 512 would."""
    return max(1, min(most, most * _COMMON_PIXELS // pixels))


def map_size(extractor: Extractor, size: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of the map: of a picture of this height and width; a signal's are fixed."""
    if isinstance(extractor, FoldedSamples):
        return extractor.map_size
    return size[0] // extractor.stride, size[1] // extractor.stride


@dataclass(frozen=True, slots=True)
class Features:
    """Cached features and the standardising of their channels.

    Attributes:
        values: float16 (n, C, h, w), float32 of signals; on disk.
        center: float32 (C, 1, 1), each channel's mean on the fit pictures.
        scale: float32 (C, 1, 1), each channel's deviation there.
    """

    values: NDArray[np.floating]
    center: Tensor
    scale: Tensor

    def batch(self, rows: NDArray[np.int64]) -> Tensor:
        """Standardised features of these rows: float32 (N, C, h, w)."""
        return (torch.from_numpy(self.values[rows]).float() - self.center) / self.scale

    def batches(self, rows: NDArray[np.int64]) -> Iterator[Tensor]:
        """The same in batches, in the order of `rows`."""
        for start in range(0, len(rows), _BATCH):
            yield self.batch(rows[start : start + _BATCH])


def of_pictures(
    extractor: Extractor, pictures: PictureSet, *, cache: Path, track: Track, device: torch.device
) -> Features:
    """Of the fit and statistics pictures and of copies, as `compute` says, in a file below `cache`."""
    fit, others = pictures.rows("fit"), [pictures.rows(part) for part in ("statistics", "copies")]
    with track("features") as advance:
        return compute(
            extractor,
            pictures.pixels,
            rows=np.concatenate([fit, *others]),
            fit=fit,
            store=cache / "features.npy",
            advance=advance,
            device=device,
        )


@torch.no_grad()
def compute(
    extractor: Extractor,
    pixels: NDArray[Any],
    *,
    rows: NDArray[np.int64],
    fit: NDArray[np.int64],
    store: Path,
    advance: Callable[[int, int], None],
    device: torch.device | None = None,
) -> Features:
    """Runs the extractor once over the pictures that training uses.

    Args:
        extractor: in evaluation mode.
        pixels: uint8 (rows, H, W, C), or float32 (rows, C, T) of signals.
        rows: of the pictures; the features of others are left zero.
        fit: rows whose features the standardising comes from.
        store: a file for the features, made anew.
        advance: called with (done, total).
        device: where the extractor runs; it is left on the CPU.
    """
    extractor.to(device)
    is_signal = isinstance(extractor, FoldedSamples)
    shape = (len(pixels), extractor.channels, *map_size(extractor, pixels.shape[1:3]))
    # Half precision is far below the features' own noise, and halves what a large set takes on disk; but a signal has
    # any unit, and may be too large or too small for it.
    values = stores.array(store, np.float32 if is_signal else np.float16, shape)
    batch = _BATCH if is_signal else batch_of(math.prod(pixels.shape[1:3]), _BATCH)
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        values[some] = extractor(to_planes(torch.from_numpy(pixels[some]).to(device))).cpu().numpy()
        advance(min(start + batch, len(rows)), len(rows))
    extractor.cpu()
    center, scale = (extractor.standardising if isinstance(extractor, FoldedSamples) else _moments)(values, fit)
    return Features(values, center, scale)


def _moments(values: NDArray[np.floating], rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    total = np.zeros(values.shape[1])
    squares = np.zeros(values.shape[1])
    for row in rows:
        picture = values[row].astype(np.float64)
        total += picture.sum(axis=(1, 2))
        squares += np.square(picture).sum(axis=(1, 2))
    count = len(rows) * values.shape[2] * values.shape[3]
    mean = total / count
    deviation = np.sqrt(np.maximum(squares / count - mean**2, _LEAST_DEVIATION**2))
    return tuple(torch.from_numpy(x).float().view(-1, 1, 1) for x in (mean, deviation))  # type: ignore[return-value]

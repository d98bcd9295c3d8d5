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

from train.config.base import FOLD, PIXELS, STAGE_CHANNELS, STAGE_STRIDE, ModelConfig
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
        self.finest = min(stages)
        self.trunk = backbone.load_trunk(stages)

    def forward(self, image: Tensor) -> Tensor:
        """image: float32 (N, 3, H, W), 0 to 255 -> float32 (N, C, H / stride, W / stride)."""
        return self.both(image)[0]

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and the map of the finest stage at its own stride."""
        height, width = image.shape[2] // self.stride, image.shape[3] // self.stride
        maps = [_averaged(x) for x in self.trunk(image)]
        return torch.cat([_resized(x, height, width) for x in maps], dim=1), maps[0]


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
        self.channels, self.stride, self.finest = extractor.channels, extractor.stride, extractor.finest
        self.rows, self.columns = (spans(side, n) for side, n in zip(size, tiles, strict=True))

    def forward(self, image: Tensor) -> Tensor:
        """As the extractor's."""
        return self.both(image)[0]

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As the extractor's."""
        strides, rows = (self.stride, STAGE_STRIDE[self.finest]), []
        for top, bottom in self.rows:
            above, below = max(0, top - OVERLAP), min(image.shape[2], bottom + OVERLAP)
            row = []
            for left, right in self.columns:
                before, behind = max(0, left - OVERLAP), min(image.shape[3], right + OVERLAP)
                seen = self.inner.both(image[:, :, above:below, before:behind])
                down, across = slice(top - above, bottom - above), slice(left - before, right - before)
                row.append([x[:, :, _over(down, s), _over(across, s)] for x, s in zip(seen, strides, strict=True)])
            rows.append([torch.cat(parts, dim=3) for parts in zip(*row, strict=True)])
        joined, finest = (torch.cat(parts, dim=2) for parts in zip(*rows, strict=True))
        return joined, finest


def _over(pixels: slice, stride: int) -> slice:
    return slice(pixels.start // stride, pixels.stop // stride)


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

    def both(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """As those of an extractor of features."""
        assert not isinstance(self.inner, FoldedPixels)
        return self.inner.both(image * self.looked_at)


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


def detail_of(extractor: Extractor) -> tuple[int, int] | None:
    """Channels and stride of the finest stage, where that is finer than the joined maps; None where it is not."""
    inner = unmasked(extractor)
    if not isinstance(inner, TrunkFeatures | Tiled) or STAGE_STRIDE[inner.finest] >= inner.stride:
        return None
    return STAGE_CHANNELS[inner.finest], STAGE_STRIDE[inner.finest]


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
        finest: mean (D,) and covariance (D, D) of the trunk's finest stage on the fit pictures, over all positions;
            None where it is no finer than the rest.
    """

    values: NDArray[np.floating]
    center: Tensor
    scale: Tensor
    finest: tuple[NDArray[np.float64], NDArray[np.float64]] | None = None

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
    detail, is_fit = detail_of(extractor), np.isin(rows, fit)
    finest = None if detail is None else _Products(detail[0])
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        image = to_planes(torch.from_numpy(pixels[some]).to(device))
        if finest is None:
            values[some] = extractor(image).cpu().numpy()
        else:
            assert not isinstance(extractor, FoldedPixels | FoldedSamples)
            joined, fine = extractor.both(image)
            values[some] = joined.cpu().numpy()
            finest.add(fine.cpu()[torch.from_numpy(is_fit[start : start + batch])])
        advance(min(start + batch, len(rows)), len(rows))
    extractor.cpu()
    center, scale = (extractor.standardising if isinstance(extractor, FoldedSamples) else _moments)(values, fit)
    return Features(values, center, scale, None if finest is None else finest.moments())


class _Products:
    """Sums over positions, from which a mean and a covariance are made."""

    def __init__(self, channels: int) -> None:
        self.count = 0
        self.total = torch.zeros(channels, dtype=torch.float64)
        self.products = torch.zeros(channels, channels, dtype=torch.float64)

    def add(self, maps: Tensor) -> None:
        """maps: float32 (N, C, h, w)."""
        x = maps.transpose(0, 1).flatten(1)
        self.count += x.shape[1]
        self.total += x.double().sum(dim=1)
        self.products += (x @ x.transpose(0, 1)).double()

    def moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (C,) and covariance (C, C)."""
        mean = self.total / self.count
        return mean.numpy(), (self.products / self.count - torch.outer(mean, mean)).numpy()


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

"""Fitting the head on every good picture, and scoring each of them as if it had not been there: cross-conformal.

Of each group of pictures (one picture, as a rule) the scores are computed with the group and its copies taken out of
the means, the covariances and the standardising. Nothing is fitted again for that: a covariance without a group differs
from the whole one by as many rank-one terms as the group has samples, and the Mahalanobis distances under it follow
from the whole one's factor by the identity of Woodbury. The ridge of the shrinkage stays that of all pictures, and so
does the network before the head: docs/experiments.md has what either changes.

Cross-conformal prediction: Vovk, *Cross-conformal predictors* (2015); Barber et al., *Predictive inference with the
jackknife+* (2021); for anomaly detection Hennhöfer and Preisach, *Leave-one-out-, bootstrap- and cross-conformal
anomaly detectors* (2024).
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edged.models.groups import margin_of
from train.fit.head import LEAST_DEVIATION, HeadReport, covariances, moments, whitening_factors
from train.nets.head import REFERENCE_QUANTILE, Head, from_regions, to_regions

Residual = Callable[[NDArray[np.int64]], Tensor]
"""Gives the residuals of these rows, float32 (N, C, h, w)."""

_BATCH = 32
_POSITIONS = 1024  # of a map, of which so many pictures are held at a time; of larger maps fewer


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Scores of the good pictures, in their order.

    Attributes:
        scores: float32 (n,), of the head without the picture's group.
        fitted: float32 (n,), of the head as it is, which has seen the picture.
        margin: that the scores were multiplied by, for the next group; see `margin_of`.
    """

    scores: NDArray[np.float32]
    fitted: NDArray[np.float32]
    margin: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """For run.json."""
        lists = {name: [round(float(score), 6) for score in getattr(self, name)] for name in ("scores", "fitted")}
        return {**lists, "margin": round(self.margin, 4)}


@torch.no_grad()
def fit_head_on_all(
    head: Head,
    residual: Residual,
    versions: NDArray[np.int64],
    groups: Sequence[NDArray[np.int64]],
    *,
    shrinkage: float,
) -> tuple[HeadReport, OutOfFold]:
    """Fills the head's buffers from all pictures and their copies.

    The mean and deviation by position, the level and the map's reference are those of the out-of-fold distances, which
    are distributed as those of new pictures are; those of the fitted pictures would be too small.

    Args:
        head: to be filled.
        residual: of rows.
        versions: rows (k, n) of the n pictures, the first line as they are, the others changed copies.
        groups: which of the n pictures leave together; each stands in one, and there are two groups or more.
        shrinkage: as for `fit_head`.
    """
    rows = versions.reshape(-1)

    def batches(some: NDArray[np.int64]) -> Iterator[Tensor]:
        return (residual(some[start : start + _BATCH]) for start in range(0, len(some), _BATCH))

    head.mean.copy_(moments(batches(rows))[0])
    factors = whitening_factors(covariances(head, batches(rows)), shrinkage)
    head.store(factors)
    whitening = torch.from_numpy(factors.astype(np.float32)).transpose(1, 2)
    distances = torch.zeros(versions.shape[1], *head.mean.shape[1:])
    together = max(1, min(_BATCH, _BATCH * _POSITIONS // distances[0].numel()))
    for members in _together(groups, together):  # (groups, m)
        leaving = versions[:, members].transpose(1, 0, 2)  # (groups, k, m)
        found = left_out_distances(head, whitening, residual(leaving.reshape(-1)), leaving.shape, versions.size)
        distances[torch.from_numpy(members.reshape(-1))] = found
    shapes = _standardise(head, distances, groups)
    head.level.copy_(shapes.mean())
    head.spread.copy_(shapes.std().clamp_min(LEAST_DEVIATION))
    excess = head.excess_of(shapes)
    head.reference.fill_(float(np.quantile(excess.numpy(), REFERENCE_QUANTILE)))
    fitted, in_sample = [], []
    for batch in batches(versions[0]):
        fitted.append(head(batch)[0])
        in_sample.append(head.distance(batch).mean(dim=(1, 2)))
    scores = head.score(excess).numpy()
    ratio = float(distances.mean() / torch.cat(in_sample).mean())
    margin = margin_of(scores, groups)
    out_of_fold = OutOfFold(scores * np.float32(margin), torch.cat(fitted).numpy(), margin)
    return HeadReport(ratio, float(head.reference), scores), out_of_fold


def left_out_distances(head: Head, whitening: Tensor, residual: Tensor, shape: tuple[int, ...], total: int) -> Tensor:
    """Mahalanobis distances of groups of m pictures under the statistics of all outside the group: (groups m, h, w).

    With S the scatter around the mean of all M versions, c = a / (M - a) for the a = k m that leave, r their residuals
    and d the mean of those, what leaves S is the sum of r rᵀ, and a c d dᵀ for the mean that moves; a picture's own
    residual becomes r + c d. In terms of whitened vectors Y, whose Gram matrix is G, the identity of Woodbury gives
    d² = (1 - a / M) wᵀ (I - G)⁻¹ G w, w being the picture among the columns of Y; or the same in C dimensions, where
    those are fewer.

    Args:
        head: with `mean` filled.
        whitening: float32 (g*g, C, C), the transposed factors of the covariances with their ridge.
        residual: float32 (groups k m, C, h, w), group by group the m pictures as they are, then their copies.
        shape: groups, k versions of each picture, m pictures a group.
        total: M, versions of all pictures.
    """
    (groups, k, m), (height, width) = shape, residual.shape[2:]
    away = k * m
    c = away / (total - away)
    centred = to_regions(residual - head.mean, head.regions)  # (g*g, groups * away * a*b, C)
    regions, samples, channels = centred.shape
    per_region = samples // len(residual)
    samples = away * per_region
    whitened = (centred @ whitening).double() / (total * per_region) ** 0.5
    by_version = whitened.view(regions, groups, away, per_region, channels)
    shift = by_version.mean(dim=2, keepdim=True)
    own = (by_version[:, :, :m] + c * shift).reshape(regions, groups, m * per_region, channels)
    # The square root of I + (c / a) 1 1ᵀ, applied to the versions of each position.
    leaving = (by_version + ((1 + c) ** 0.5 - 1) * shift).reshape(regions, groups, samples, channels)
    if samples <= channels:
        gram = leaving @ leaving.mT
        among = leaving @ own.mT  # (g*g, groups, samples, m a*b)
        squares = own.square().sum(dim=3) + (among * _solve(gram, among)).sum(dim=2)
    else:
        solved = _solve(leaving.mT @ leaving, own.mT)
        squares = (own.mT * solved).sum(dim=2)
    found = (squares * (total - away) * per_region).clamp_min(0).sqrt().float()
    return from_regions(found.reshape(regions, -1, 1), head.regions, height, width).squeeze(1)


def _together(groups: Sequence[NDArray[np.int64]], most: int) -> Iterator[NDArray[np.int64]]:
    """Groups of one size in batches, (groups, m), of about so many pictures: the factors are read once a batch."""
    by_size: dict[int, list[NDArray[np.int64]]] = {}
    for members in groups:
        by_size.setdefault(len(members), []).append(members)
    for size, some in by_size.items():
        step = max(1, most // size)
        for start in range(0, len(some), step):
            yield np.stack(some[start : start + step])


def _solve(gram: Tensor, right: Tensor) -> Tensor:
    """(I - gram)⁻¹ right, batched; numpy, as for `whitening_factors`."""
    matrix = np.eye(gram.shape[-1]) - gram.numpy()
    return torch.from_numpy(np.linalg.solve(matrix, right.numpy()))


def _standardise(head: Head, distances: Tensor, groups: Sequence[NDArray[np.int64]]) -> Tensor:
    """Fills mean and deviation by position; gives the distances standardised by those of the others: (n, h, w)."""
    values = distances.double()
    total, squares = values.sum(dim=0), values.square().sum(dim=0)

    def standardising(total: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
        mean = total / count
        variance = (squares / count - mean.square()).clamp_min(0) * (count / max(count - 1, 1))
        return mean, variance.sqrt().clamp_min(LEAST_DEVIATION)

    mean, deviation = standardising(total, squares, len(values))
    head.length_mean.copy_(mean)
    head.length_deviation.copy_(deviation)
    shapes = torch.empty_like(distances)
    for members in groups:
        some = values[torch.from_numpy(members)]
        mean, deviation = standardising(
            total - some.sum(dim=0), squares - some.square().sum(dim=0), len(values) - len(some)
        )
        shapes[torch.from_numpy(members)] = ((some - mean) / deviation).float()
    return shapes if head.kept is None else shapes * head.kept

"""Fitting the head: means, covariances and standardising of the residual, streamed over pictures that are good.

It is fitted twice. First on the fit pictures alone, so that the level of the scores and the map's reference come from
statistics pictures on which nothing was fitted. Then the means, covariances and the shape of the standardising are
fitted again on both, for pictures are what covariances lack most; level and reference stay. Good pictures then score
a little lower than the level says; calibration sees that, and the threshold follows. Changed copies of statistics
pictures take part in that last fit alone: level and reference are of pictures as the camera takes them.
docs/experiments.md has what each step is worth.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.errors import TrainError
from train.nets.head import REFERENCE_QUANTILE, Head, to_regions

Residuals = Callable[[], Iterable[Tensor]]
"""Gives batches of residuals, float32 (N, C, h, w), from the start each time it is called."""

_LEAST_VARIANCE = 1e-6  # keeps a residual that never moves from becoming an infinite distance
LEAST_DEVIATION = 1e-3
_DIVERGED = (
    "the model gives no finite scores: training has diverged, or what is good does not differ at all. Set a smaller "
    "learning_rate, and other hyper-parameters nearer to their defaults"
)


@dataclass(frozen=True, slots=True)
class HeadReport:
    """What fitting found, for the log and the bundle.

    Attributes:
        held_out_ratio: mean distance on the statistics pictures over that on the fit pictures; 1 is no overfitting.
        reference: level, in deviations, that statistics pictures exceed at one position in a thousand.
        statistics_scores: float32 (n,), of the statistics pictures.

    Raises:
        TrainError: one of them is no finite number.
    """

    held_out_ratio: float
    reference: float
    statistics_scores: NDArray[np.float32]

    def __post_init__(self) -> None:
        found = (self.held_out_ratio, self.reference, *self.statistics_scores.tolist())
        if not all(map(math.isfinite, found)):
            raise TrainError(_DIVERGED)


@torch.no_grad()
def fit_head(
    head: Head, fit: Residuals, statistics: Residuals, copies: Residuals = tuple, *, shrinkage: float
) -> HeadReport:
    """Fills the head's buffers.

    Args:
        head: to be filled.
        fit: residuals of the fit pictures.
        statistics: residuals of the statistics pictures.
        copies: residuals of changed copies of the statistics pictures.
        shrinkage: what is added to each variance, as a share of the region's mean variance.
    """
    _fit_shape(head, fit, shrinkage)
    in_sample = head.length_mean.mean()
    shapes = torch.cat([head.shape(batch) for batch in statistics()])
    head.level.copy_(shapes.mean())
    head.spread.copy_(shapes.std().clamp_min(LEAST_DEVIATION))
    excess = torch.cat([head.excess(batch) for batch in statistics()])
    head.reference.fill_(float(np.quantile(excess.numpy(), REFERENCE_QUANTILE)))
    held_out = torch.cat([head.distance(batch) for batch in statistics()]).mean()
    scores = torch.cat([head(batch)[0] for batch in statistics()])
    _fit_shape(head, lambda: chain(fit(), statistics(), copies()), shrinkage)
    return HeadReport(float(held_out / in_sample), float(head.reference), scores.numpy())


def _fit_shape(head: Head, pictures: Residuals, shrinkage: float) -> None:
    """Means, whitening, and mean and deviation of the distance, by position."""
    mean, _ = moments(pictures())
    head.mean.copy_(mean)
    head.store(whitening_factors(covariances(head, pictures()), shrinkage))
    mean, deviation = moments(head.distance(batch) for batch in pictures())
    head.length_mean.copy_(mean)
    head.length_deviation.copy_(deviation.clamp_min(LEAST_DEVIATION))


def whitening_factors(covariances: NDArray[np.float64], shrinkage: float) -> NDArray[np.float64]:
    """Inverse Cholesky factors W of shrunk covariances S, so that |W r|² = rᵀ S⁻¹ r.

    Shrinking towards the mean variance as in Ledoit, Wolf, *A well-conditioned estimator for large-dimensional
    covariance matrices* (2004), with a fixed weight. numpy and not torch: batched inverses of torch's CPU build fail
    inside MKL for matrices of this size.

    Args:
        covariances: (G, C, C).
        shrinkage: share of the mean variance that is added to the diagonal.

    Returns:
        (G, C, C), lower triangular.

    Raises:
        TrainError: they are not finite.
    """
    if not np.isfinite(covariances).all():
        raise TrainError(_DIVERGED)
    channels = covariances.shape[1]
    variance = np.trace(covariances, axis1=1, axis2=2) / channels
    ridge = (shrinkage * variance + _LEAST_VARIANCE)[:, None, None] * np.eye(channels)
    return np.linalg.inv(np.linalg.cholesky(covariances + ridge))


def moments(batches: Iterable[Tensor]) -> tuple[Tensor, Tensor]:
    """Mean and deviation over the first axis, in double precision; the deviation of one picture is 0."""
    count, total, squares = 0, torch.zeros(()), torch.zeros(())
    for batch in batches:
        count += len(batch)
        total = total + batch.double().sum(dim=0)
        squares = squares + batch.double().square().sum(dim=0)
    mean = total / count
    variance = (squares / count - mean.square()).clamp_min(0) * (count / max(count - 1, 1))
    return mean.float(), variance.sqrt().float()


def covariances(head: Head, batches: Iterable[Tensor]) -> NDArray[np.float64]:
    """Of each region's centred residuals: (g*g, C, C)."""
    count, total = 0, torch.zeros((), dtype=torch.float64)
    for batch in batches:
        centred = to_regions(batch - head.mean, head.regions)  # (g*g, n, C)
        total = total + (centred.transpose(1, 2) @ centred).double()
        count += centred.shape[1]
    return (total / count).numpy()

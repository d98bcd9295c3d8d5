"""What a training loop takes and gives, whatever it trains."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from train.head_fit import HeadReport

DetectorT = TypeVar("DetectorT", bound=nn.Module)

Log = Callable[[dict[str, Any]], None]
"""Takes one line of metrics."""


@dataclass(frozen=True, slots=True)
class Trained(Generic[DetectorT]):
    """What training made.

    Attributes:
        detector: fitted, in evaluation mode.
        epoch: the one whose weights were kept, from 1.
        loss: there, on the statistics pictures; each loop says of what.
        report: of the head.
    """

    detector: DetectorT
    epoch: int
    loss: float
    report: HeadReport


def share_of_peak(step: int, *, total: int, schedule: str) -> float:
    """Of the learning rate: 1 throughout, or a linear rise over the first tenth and a cosine down to 0."""
    if schedule == "constant":
        return 1.0
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

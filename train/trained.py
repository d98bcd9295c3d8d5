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


def warm_cosine(step: int, *, total: int) -> float:
    """Share of the peak learning rate: a linear rise over the first tenth, then a cosine down to 0."""
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))

"""What a training loop takes and gives, whatever it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from train.fit.head import HeadReport

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

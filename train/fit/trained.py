"""What a training loop takes and gives, whatever it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import nn

from train.fit.head import HeadReport
from train.fit.out_of_fold import OutOfFold

DetectorT = TypeVar("DetectorT", bound=nn.Module)

Log = Callable[[dict[str, Any]], None]
"""Takes one line of metrics."""


@dataclass(frozen=True, slots=True)
class Trained(Generic[DetectorT]):
    """What training made.

    Attributes:
        detector: fitted, in evaluation mode.
        epoch: the one whose weights were kept, from 1.
        loss: there, on the statistics pictures, or on those that were fitted where none are held out; each loop says
            of what.
        report: of the head.
        out_of_fold: scores that calibrate, where every picture was fitted.
    """

    detector: DetectorT
    epoch: int
    loss: float
    report: HeadReport
    out_of_fold: OutOfFold | None = None

"""What a training loop takes and gives, whatever it trains."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
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
        features: float16 (n, C, h, w) of fit and statistics pictures and then of their copies, of models on features:
            what an update needs.
    """

    detector: DetectorT
    epoch: int
    loss: float
    report: HeadReport
    out_of_fold: OutOfFold | None = None
    features: NDArray[np.floating] | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """For run.json."""
        return {
            "epoch": self.epoch,
            "loss_statistics": self.loss,
            "held_out_ratio": self.report.held_out_ratio,
            "statistics_scores": [round(float(score), 6) for score in self.report.statistics_scores],
            "map_reference": self.report.reference,
            "out_of_fold": None if self.out_of_fold is None else self.out_of_fold.to_dict(),
        }

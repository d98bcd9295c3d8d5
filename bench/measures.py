"""What is measured of a detector's scores and maps, and how sure one can be of a mean of few seeds."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage, stats

from export.report.metrics import Scores, auroc, roc

_SIDE: Final = 128  # pixels a side that maps and masks are compared at
_MOST_FPR: Final = 0.3  # up to which the per-region overlap is integrated
_STEPS: Final = 300


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean over seeds and what it may be: mean ± Student's t of 95 %, of n - 1 degrees of freedom."""

    mean: float
    half_width: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Interval":
        """Of one value a seed; the half width of a single one is not known (nan)."""
        n = len(values)
        if n < 2:
            return cls(float(np.mean(values)), float("nan"))
        return cls(float(np.mean(values)), float(stats.t.ppf(0.975, n - 1) * np.std(values, ddof=1) / n**0.5))

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + ("" if np.isnan(self.half_width) else f" ± {self.half_width:.4f}")


def of_scores(good: Scores, bad: Scores) -> dict[str, float]:
    """AUROC, and recall at 1 % and 5 % false positives of the test's good pictures."""
    false_positives, true_positives = roc(good, bad)
    recall = {rate: float(true_positives[false_positives <= rate].max()) for rate in (0.01, 0.05)}
    return {"auroc": auroc(good, bad), "recall_1": recall[0.01], "recall_5": recall[0.05]}


def of_maps(maps: NDArray[np.float32], masks: Sequence[NDArray[np.bool_] | None]) -> dict[str, float]:
    """Pixel AUROC and AUPRO, over all pictures.

    AUPRO is the area under the mean share of each connected defect that is found, against the share of good pixels
    that is flagged, up to 0.3, divided by 0.3 (Bergmann et al., *The MVTec anomaly detection dataset*, 2021).

    Args:
        maps: (n, h, w).
        masks: bool (128, 128) a picture; None for a good one.
    """
    heat = _resized(maps)
    truth = np.stack([np.zeros((_SIDE, _SIDE), bool) if mask is None else mask for mask in masks])
    good, bad = np.sort(heat[~truth]), heat[truth]
    below = (np.searchsorted(good, bad, "left") + np.searchsorted(good, bad, "right")) / 2
    rates = np.linspace(0, _MOST_FPR, _STEPS)
    thresholds = good[np.minimum(((1 - rates) * len(good)).astype(np.int64), len(good) - 1)]
    found = []
    for picture, mask in zip(heat, truth, strict=True):
        labels, count = ndimage.label(mask)
        for region in range(1, count + 1):
            values = np.sort(picture[labels == region])
            found.append(1 - np.searchsorted(values, thresholds, "right") / len(values))
    overlap = np.mean(found, axis=0)
    return {
        "pixel_auroc": float(below.mean() / len(good)),
        "aupro": float(np.trapezoid(overlap, rates) / _MOST_FPR),
    }


def read_mask(path: str) -> NDArray[np.bool_] | None:
    """Where a mask is white, at the side that maps are compared at; None for one that marks nothing."""
    with Image.open(path) as image:
        marked = np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.BOX)) >= 128
    return marked if marked.any() else None


def _resized(maps: NDArray[np.float32]) -> NDArray[np.float32]:
    x = torch.from_numpy(maps).unsqueeze(1)
    resized = torch.nn.functional.interpolate(x, size=(_SIDE, _SIDE), mode="bilinear", align_corners=False)
    return np.asarray(resized.squeeze(1).numpy(), dtype=np.float32)

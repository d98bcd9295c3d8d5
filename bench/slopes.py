"""Whether what was measured over time grows: means of its eighths, and a slope with its error."""

from typing import Final

import numpy as np
from numpy.typing import NDArray

_WARM_UP: Final = 0.25
_BLOCKS: Final = 15


def eighths(values: NDArray[np.float64]) -> str:
    """Means of eight parts of it, in order."""
    return " ".join(f"{part.mean():.1f}" for part in np.array_split(values, 8))


def slope(over: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    """Least squares after the warm-up, with two standard errors, and the value at the end.

    Samples that follow each other are alike, so that the fit is through the means of blocks.
    """
    late = int(len(over) * _WARM_UP)
    x, y = (np.array([block.mean() for block in np.array_split(of[late:], _BLOCKS)]) for of in (over, values))
    (rise, start), covariance = np.polyfit(x, y, 1, cov=True)
    return f"{rise:12.2f} +- {2 * np.sqrt(covariance[0, 0]):.2f}  (at the end {start + rise * x[-1]:.1f})"

"""Whether pictures and scores are still as they were: a sliding window beside the good pictures of calibration.

Two measures, both from 0 for "as it was":

- The population stability index (PSI; Siddiqi, Credit Risk Scorecards, 2006): Σ (aᵢ - eᵢ) · ln(aᵢ / eᵢ) over bins, with
  the shares a of the window and e of the good pictures.
- The two-sample Kolmogorov-Smirnov test, with Stephens's form of the asymptotic p-value (1970).
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

QUANTILES: Final = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
"""Those of good pictures that a bundle holds."""

APPEARANCE: Final = ("brightness", "contrast", "sharpness")
"""What `appearance` gives, in its order."""

ANOTHER, THE_SAME = 0.25, 0.1
"""A PSI above the first is another population, one below the second the same, by the custom of its field."""

_EDGES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Of the bins, as quantiles of the good pictures. Few, for each bin adds its share of noise to the index."""

_EVERY_ROW: Final = 4
_TERMS: Final = 100


def appearance(values: NDArray[Any]) -> tuple[float, float, float]:
    """What one picture or signal is like, whatever it shows.

    Args:
        values: uint8 (H, W, C), of which every fourth row is looked at, or float32 (C, T).

    Returns:
        Brightness, its mean; contrast, its standard deviation; sharpness, the mean difference between neighbours along
        W or T. Of pictures 0 to 1, of signals in their units.
    """
    picture = values.dtype == np.uint8
    rows = values[::_EVERY_ROW].astype(np.int16) if picture else values
    scale = 255.0 if picture else 1.0
    differences = np.abs(rows[:, 1:] - rows[:, :-1])
    return float(rows.mean()) / scale, float(rows.std()) / scale, float(differences.mean()) / scale


def reference(scores: NDArray[np.float64], looks: NDArray[np.float64]) -> dict[str, list[float]]:
    """The manifest's `drift_reference` of good pictures: scores (n,), and what `appearance` gave, (n, 3)."""
    found = {"quantiles": list(QUANTILES), "score": np.quantile(scores, QUANTILES).tolist()}
    for name, column in zip(APPEARANCE, looks.T, strict=True):
        found[name] = np.quantile(column, QUANTILES).tolist()
    return found


def edges_of(quantiles: Sequence[float], levels: Sequence[float]) -> NDArray[np.float64] | None:
    """The edges of the bins from `levels` at `quantiles`; None where these do not have them, as in older bundles."""
    known: Mapping[float, float] = dict(zip(quantiles, levels, strict=False))
    if any(edge not in known for edge in _EDGES):
        return None
    return np.array([known[edge] for edge in _EDGES])


def edges_of_scores(calibration: NDArray[np.float64]) -> NDArray[np.float64]:
    """The edges of the bins from the scores of calibration, (n,)."""
    return np.quantile(calibration, _EDGES)


def stability_index(edges: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The PSI of `values` (m,) over the bins between `edges`; half a picture is added to each bin, so none is empty."""
    expected = np.diff((0.0, *_EDGES, 1.0))
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    actual = (counts + 0.5) / (len(values) + 0.5 * len(expected))
    return float(np.sum((actual - expected) * np.log(actual / expected)))


def same_distribution(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """The p-value of the two-sample Kolmogorov-Smirnov test of samples (n,) and (m,), 0 to 1."""
    one, other = np.sort(one), np.sort(other)
    at = np.concatenate([one, other])
    apart = np.abs(one.searchsorted(at, "right") / len(one) - other.searchsorted(at, "right") / len(other)).max()
    root = math.sqrt(len(one) * len(other) / (len(one) + len(other)))
    steps = float((root + 0.12 + 0.11 / root) * apart)
    if steps < 0.2:  # the sum converges slowly there, to 1
        return 1.0
    total: float = sum((-1.0) ** (k - 1) * math.exp(-2 * (k * steps) ** 2) for k in range(1, _TERMS))
    return min(1.0, max(0.0, 2 * total))

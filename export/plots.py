"""Pictures for the card: score histogram, ROC, examples with their heat maps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from edged import overlays
from export.metrics import Scores, roc

HISTOGRAM: Final = "scores.png"
ROC: Final = "roc.png"
EXAMPLES: Final = "examples.png"

_GOOD, _BAD, _LINE = "#3b75af", "#c44e52", "#333333"


def histogram(path: Path, *, good: Scores, bad: Scores | None, threshold: float) -> None:
    """Calibration scores, and those of bad pictures where there are some, with the threshold."""
    figure, axes = _figure()
    shown = good if bad is None else np.concatenate([good, bad])
    # Scores of defects can be many times those of good pictures: equal steps of the logarithm show both.
    bins = np.geomspace(max(float(shown.min()), 1e-4), max(float(shown.max()), threshold) * 1.05, 40)
    axes.hist(good, bins, alpha=0.75, color=_GOOD, label=f"calibration, good (n = {len(good)})")
    if bad is not None:
        axes.hist(bad, bins, alpha=0.6, color=_BAD, label=f"bad (n = {len(bad)})")
    axes.axvline(threshold, color=_LINE, linestyle="--", label=f"threshold {threshold:.3g}")
    axes.set(xscale="log", xlabel="score", ylabel="pictures")
    axes.legend(frameon=False)
    _save(figure, path)


def roc_curve(path: Path, *, good: Scores, bad: Scores, area: float) -> None:
    """True-positive against false-positive rate."""
    figure, axes = _figure()
    false_positives, true_positives = roc(good, bad)
    axes.plot(false_positives, true_positives, color=_GOOD, label=f"AUROC {area:.4f}")
    axes.plot([0, 1], [0, 1], color=_LINE, linestyle=":", linewidth=1)
    axes.set(xlabel="false-positive rate", ylabel="recall", xlim=(0, 1), ylim=(0, 1.01))
    axes.legend(frameon=False, loc="lower right")
    _save(figure, path)


def examples(path: Path, images: Sequence[NDArray[np.uint8]], maps: Sequence[NDArray[np.float32]]) -> None:
    """Pictures with their heat maps, one under the other; images: uint8 (H, W, C), maps: float32 (h, w)."""
    rows = [np.asarray(overlays.render(image, heat)) for image, heat in zip(images, maps, strict=True)]
    Image.fromarray(np.concatenate(rows)).save(path, "PNG")


def _figure() -> tuple[Figure, Axes]:
    # Figures made without pyplot need no display, no global state and no closing.
    figure = Figure(figsize=(6.4, 4.0), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})

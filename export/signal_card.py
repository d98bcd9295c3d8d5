"""What the card shows of signals: curves, what was reconstructed, and where they are anomalous."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from edged.detector import Detector
from edged.signals import SignalInput

_MOST_CHANNELS: Final = 4
_GIVEN, _RECONSTRUCTED, _UNUSUAL = "#333333", "#3b75af", "#c44e52"
_CLEAR: Final = 1.0  # of the map: what good signals stay below, but for one position in a thousand
_FULL: Final = 3.0


def input_words(spec: SignalInput, positions: int) -> str:
    """The card's words on what the model takes."""
    return (
        f"Signals of {spec.channels} channel(s) of {spec.length} samples, float32, from `.npy` and `.csv` files. "
        f"Other lengths are refused: nothing is resampled. One position of the anomaly map stands for "
        f"{patch_of(spec.length, positions)} samples.\n"
    )


def patch_of(length: int, positions: int) -> int:
    """Samples that one position of a map stands for."""
    return -(-length // positions)


def examples(path: Path, labels: Sequence[str], signals: NDArray[np.float32], served: Detector) -> None:
    """Draws signals: what was given, what the model makes of it, and in red where its map is above 1.0.

    Args:
        path: the PNG to write.
        labels: one a signal.
        signals: float32 (n, C, T).
        served: the model.
    """
    scores, maps = served.scores(signals)
    reconstructed: NDArray[Any] = served.session.run(["reconstruction"], signals)[0]
    shown = min(signals.shape[1], _MOST_CHANNELS)
    figure = Figure(figsize=(8.0, 1.9 * shown * len(signals)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(signals) * shown, 1, squeeze=False)[:, 0]
    moments = np.arange(signals.shape[2])
    for index, label in enumerate(labels):
        for channel in range(shown):
            axis = axes[index * shown + channel]
            _shade(axis, maps[index, 0], signals.shape[2])
            axis.plot(moments, reconstructed[index, channel], color=_RECONSTRUCTED, linewidth=1, label="reconstructed")
            axis.plot(moments, signals[index, channel], color=_GIVEN, linewidth=1, label="given")
            axis.spines[["top", "right"]].set_visible(False)
            axis.margins(x=0)
            named = f"{label}, score {scores[index]:.3g}" + (f", channel {channel}" if shown > 1 else "")
            axis.set_title(named, fontsize=9, loc="left")
    figure.legend(*axes[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper right", ncols=2)
    axes[-1].set_xlabel("sample")
    figure.savefig(path, metadata={"Software": None})


def _shade(axis: Any, heat: NDArray[np.float32], length: int) -> None:
    patch = patch_of(length, len(heat))
    for position, value in enumerate(heat):
        if value > _CLEAR:
            strength = min((float(value) - _CLEAR) / (_FULL - _CLEAR), 1.0)
            end = min((position + 1) * patch, length) - 0.5
            axis.axvspan(position * patch - 0.5, end, color=_UNUSUAL, alpha=0.1 + 0.4 * strength, linewidth=0)

"""What the card shows of signals: curves, what was reconstructed, and where they are anomalous."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from numpy.typing import NDArray

from edged.media.signals import SignalInput
from edged.results import printable
from export.report.sheets import Example

_MOST_CHANNELS: Final = 4
_COLUMNS: Final = 4
_LONGEST_NAME: Final = 36
_INCHES: Final = {"width": 13.0, "heading": 0.35, "caption": 0.55, "channel": 1.1, "legend": 0.6}
_GIVEN, _RECONSTRUCTED, _UNUSUAL = "#333333", "#3b75af", "#c44e52"
_FULL: Final = 3.0  # of what red begins at


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


def examples(
    path: Path, sections: Sequence[tuple[str, Sequence[Example]]], *, threshold: float, coloured_from: float
) -> None:
    """Draws signals: what was given, what the model makes of it, and in red where its map is high.

    Args:
        path: the PNG to write.
        sections: title and signals, four a row; of each the first four channels.
        threshold: that scores are compared with.
        coloured_from: level of the map at which red begins.
    """
    channels = min(sections[0][1][0].image.shape[0], _MOST_CHANNELS)
    row = _INCHES["caption"] + channels * _INCHES["channel"]
    heights = [_INCHES["legend"]] + [_INCHES["heading"] + -(-len(shown) // _COLUMNS) * row for _, shown in sections]
    figure = Figure(figsize=(_INCHES["width"], sum(heights)), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    legend, *parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    _explain(legend, coloured_from)
    for part, (title, shown) in zip(parts, sections, strict=True):
        part.suptitle(title, x=0.005, ha="left", fontsize=12, color=_GIVEN)
        rows = -(-len(shown) // _COLUMNS)
        axes = part.subplots(rows * channels, _COLUMNS, squeeze=False, sharex=True)
        for place in range(rows * _COLUMNS):
            column = axes[place // _COLUMNS * channels :, place % _COLUMNS][:channels]
            if place < len(shown):
                _draw(column, shown[place], threshold, coloured_from)
            else:
                for axis in column:
                    axis.set_axis_off()
    figure.savefig(path, metadata={"Software": None})


def _explain(legend: SubFigure, coloured_from: float) -> None:
    legend.legend(
        handles=[
            Line2D([], [], color=_GIVEN, label="given"),
            Line2D([], [], color=_RECONSTRUCTED, label="what the model makes of it"),
            Patch(color=_UNUSUAL, alpha=0.1, label=f"map above {coloured_from:.3g}"),
            Patch(color=_UNUSUAL, alpha=0.5, label=f"map of {_FULL * coloured_from:.3g} and above"),
        ],
        ncols=4,
        frameon=False,
        loc="center left",
    )


def _draw(column: Sequence[Axes], example: Example, threshold: float, coloured_from: float) -> None:
    """One signal, one channel below the other."""
    name = printable(example.name)
    if len(name) > _LONGEST_NAME:
        name = f"{name[: _LONGEST_NAME // 2]}…{name[-_LONGEST_NAME // 2 :]}"
    column[0].set_title(
        f"{name}\n{example.caption(threshold)}",
        fontsize=9,
        loc="left",
        color=_UNUSUAL if example.is_bad else _RECONSTRUCTED,
        parse_math=False,  # a dollar in a file's name is a dollar
    )
    assert example.made is not None
    moments = np.arange(example.image.shape[1])
    for axis, given, made in zip(column, example.image, example.made, strict=False):
        _shade(axis, example.anomaly_map[0] / coloured_from, len(moments))
        axis.plot(moments, made, color=_RECONSTRUCTED, linewidth=1)
        axis.plot(moments, given, color=_GIVEN, linewidth=1)
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
        axis.margins(x=0)


def _shade(axis: Axes, heat: NDArray[np.float32], length: int) -> None:
    """Red where heat is above 1."""
    patch = patch_of(length, len(heat))
    for position, value in enumerate(heat):
        if value > 1:
            strength = min((float(value) - 1) / (_FULL - 1), 1.0)
            end = min((position + 1) * patch, length) - 0.5
            axis.axvspan(position * patch - 0.5, end, color=_UNUSUAL, alpha=0.1 + 0.4 * strength, linewidth=0)

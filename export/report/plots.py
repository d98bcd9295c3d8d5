"""Charts for the card: learning curves, score histogram, ROC with precision and recall."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from edged.models.rates import RateChoice
from export.report.metrics import Report, Scores, precision_recall, roc

HISTOGRAM: Final = "scores.png"
THRESHOLDS: Final = "thresholds.png"
ROC: Final = "roc.png"
LEARNING: Final = "learning.png"

_GOOD, _BAD, _LINE = "#3b75af", "#c44e52", "#333333"
_STEPS: Final = (1, 2, 5)
_BARS: Final = 40


def histogram(path: Path, *, good: Scores, bad: Scores | None, threshold: float, plural: str) -> None:
    """Calibration scores, and those of bad items where there are some, with the threshold; `plural` names them."""
    figure, (axes,) = _figure(1)
    shown = good if bad is None else np.concatenate([good, bad])
    edges = bins(shown, threshold=threshold).tolist()
    axes.hist(good, edges, alpha=0.75, color=_GOOD, label=f"good, calibration ({len(good)} {plural})")
    if bad is not None:
        axes.hist(bad, edges, alpha=0.6, color=_BAD, label=f"bad ({len(bad)} {plural})")
    axes.axvline(threshold, color=_LINE, linestyle="--", label=f"threshold {threshold:.3g}")
    low, high = edges[0], edges[-1]
    axes.set(xscale="log", xlim=(low, high), xlabel="score (logarithmic scale)", ylabel=plural)
    _log_axis(axes, low, high)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    # Above the bars, which may stand anywhere.
    figure.legend(frameon=False, loc="outside upper left", ncols=3 if bad is not None else 2, fontsize=9)
    _save(figure, path)


def thresholds(path: Path, choices: Sequence[RateChoice], *, good: Scores, bad: Scores | None, plural: str) -> None:
    """Shares of the good and of the bad above every threshold, with those of the usual target rates marked."""
    figure, (axes,) = _figure(1)
    shown = good if bad is None else np.concatenate([good, bad])
    low, high = max(float(shown.min()), 1e-4), float(shown.max()) * 1.02
    for scores, colour, label in ((good, _GOOD, f"good {plural}"), (bad, _BAD, f"bad {plural}")):
        if scores is not None:
            ordered = np.sort(scores)
            axes.step([low, *ordered], np.linspace(1, 0, len(ordered) + 1), where="post", color=colour, label=label)
    for value, same in groupby(choices, key=lambda choice: choice.threshold.value):
        together = list(same)
        style = "-" if any(choice.in_force for choice in together) else ":"
        axes.axvline(value, color=_LINE, linestyle=style, linewidth=1)
        rates = ", ".join(f"{100 * choice.target_fpr:g}" for choice in together)
        axes.text(value, 0.98, f" {rates} % ", rotation=90, va="top", ha="right", fontsize=8, color=_LINE)
    axes.set(xscale="log", xlim=(low, high), ylim=(0, 1.02), xlabel="threshold (logarithmic scale)")
    axes.set(ylabel="share above it", title="Thresholds of target rates; the one in force is drawn through")
    _log_axis(axes, low, high)
    axes.legend(frameon=False, loc="lower left", fontsize=9)
    _save(figure, path)


def bins(scores: Scores, *, threshold: float) -> Scores:
    """Edges of a histogram of scores (n,), in equal steps of the logarithm, so that none crosses the threshold.

    Scores of defects can be many times those of good pictures; and the score that is the threshold is no anomaly.
    """
    low, high = max(float(scores.min()), 1e-4), max(float(scores.max()), threshold)
    step = max((high / low) ** (1 / (_BARS - 2)), 1.001)
    edges = low / step * step ** np.arange(_BARS + 1)
    edge = float(np.nextafter(threshold, np.inf))
    nearest = int(np.argmin(np.abs(np.log(edges / edge))))
    shifted: Scores = edges * (edge / edges[nearest])
    shifted[nearest] = edge
    return shifted


def _log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_xticks(log_ticks(low, high))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis, 0 < low < high: 1, 2 and 5 of each decade, or fewer over many decades."""
    exponents = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    steps = _STEPS if len(exponents) <= 4 else (1,)
    ticks = [step * 10.0**exponent for exponent in exponents for step in steps]
    kept = [tick for tick in ticks if low <= tick <= high]
    return kept if len(kept) > 1 else np.linspace(low, high, 4).round(4).tolist()


def curves(path: Path, *, good: Scores, bad: Scores, threshold: float, report: Report, plural: str) -> None:
    """ROC, and precision against recall, each with the point where the threshold stands; `plural` names items."""
    figure, (left, right) = _figure(2)
    false_positives, true_positives = roc(good, bad)
    low, high = report.auroc_interval.low, report.auroc_interval.high
    left.plot(
        false_positives, true_positives, color=_GOOD, label=f"AUROC {report.auroc:.3f}\n(95 %: {low:.3f} to {high:.3f})"
    )
    left.plot([0, 1], [0, 1], color=_LINE, linestyle=":", linewidth=1, label="a coin")
    flagged = float(np.mean(good > threshold))
    left.plot([flagged], [report.recall], "o", color=_BAD, label="at the threshold", clip_on=False)
    left.set(title="ROC", xlabel="false-positive rate: share of the good flagged", ylabel="recall")
    left.legend(frameon=False, loc="lower right", fontsize=9)

    precision, recall = precision_recall(good, bad)
    right.step(recall, precision, where="pre", color=_GOOD, label=f"average precision {report.average_precision:.3f}")
    share = len(bad) / (len(good) + len(bad))
    right.axhline(share, color=_LINE, linestyle=":", linewidth=1, label=f"a coin (share of bad {plural}, {share:.2f})")
    if report.n_found:
        at = report.n_found / (report.n_found + flagged * len(good))
        right.plot([report.recall], [at], "o", color=_BAD, label="at the threshold", clip_on=False)
    right.set(title="Precision and recall", xlabel="recall: share of the bad flagged", ylabel="precision")
    right.legend(frameon=False, loc="lower left", fontsize=9)
    for axes in (left, right):
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
    _save(figure, path)


def learning(path: Path, *, epochs: Sequence[Mapping[str, Any]], best: int, loss: str, plural: str) -> None:
    """Losses by epoch with the one that is kept marked; a VAE's terms or a denoiser's PSNR beside them where logged.

    Args:
        path: the picture to write.
        epochs: lines of the run's metrics, one an epoch.
        best: the epoch whose weights were kept.
        loss: what the loss is, for the axis.
        plural: what items are called.
    """
    fit, held_out = f"fit {plural}", f"held-out {plural}"
    panels: list[tuple[str, dict[str, list[float]]]] = [
        (
            loss,
            {fit: _of(epochs, "loss_fit")}
            | ({held_out: _of(epochs, "loss_statistics")} if "loss_statistics" in epochs[0] else {}),
        )
    ]
    if "kl_statistics" in epochs[0]:
        divergence = _of(epochs, "kl_statistics")
        likelihood = [whole - part for whole, part in zip(_of(epochs, "loss_statistics"), divergence, strict=True)]
        panels.append(("reconstruction term, nats a picture", {held_out: likelihood}))
        panels.append(("KL term, nats a picture", {held_out: divergence}))
    if "psnr_statistics" in epochs[0]:
        panels.append(("PSNR, dB (higher is better)", {held_out: _of(epochs, "psnr_statistics")}))
    figure, all_axes = _figure(len(panels))
    numbers = _of(epochs, "epoch")
    for axes, (label, series) in zip(all_axes, panels, strict=True):
        for (name, values), colour in zip(series.items(), (_LINE, _GOOD) if len(series) > 1 else (_GOOD,), strict=True):
            axes.plot(numbers, values, color=colour, marker=".", label=name)
        axes.axvline(best, color=_BAD, linestyle="--", label=f"epoch {best}, which is kept")
        axes.set(xlabel="epoch", ylabel=label)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.ticklabel_format(axis="y", style="plain", useOffset=False)
    all_axes[0].legend(frameon=False, fontsize=9)
    _save(figure, path)


def _of(epochs: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    return [float(line[key]) for line in epochs]


def _figure(panels: int) -> tuple[Figure, list[Axes]]:
    # Figures made without pyplot need no display, no global state and no closing.
    width = {1: 6.8, 2: 9.6}.get(panels, 12.6)
    figure = Figure(figsize=(width, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    all_axes = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in all_axes:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, all_axes


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})

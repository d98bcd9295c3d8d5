"""Good pictures that a person should look at, on a page: the picture, its heat map, its score and the file's path."""

import base64
import html
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edged.media import overlays
from edged.models.calibration import Threshold, conformal_threshold
from edged.results import printable
from train.data.pictures import Picture
from train.fit import outliers
from train.fit.trained import Trained

PAGE: Final = "suspects.html"

_COLOURED_FROM: Final = 0.5
"""Of the level at which colour begins elsewhere: most of those shown lie below the threshold, and what raises them is
what somebody looks for."""

_LEAST: Final = 1e-30
_AT_LEAST: Final = 8
_AT_MOST: Final = 40
_STYLE: Final = (
    "body{font:15px/1.4 sans-serif;margin:2em;max-width:60em}figure{display:inline-block;margin:0 1.5em 1.5em 0;"
    "max-width:34em;vertical-align:top}img{max-width:100%}figcaption{overflow-wrap:anywhere}"
    "pre{background:#eee;padding:1em;overflow-x:auto}"
)

Scores = NDArray[np.floating]


@dataclass(frozen=True, slots=True)
class Suspect:
    """A good picture with one of the highest scores.

    Attributes:
        path: of the file.
        image: uint8 (H, W, C), as the model sees it; float32 (C, T) of a signal; None where its file is gone.
        anomaly_map: float32 (h, w), of `without_itself`; None where the image is.
        score: that calibrates.
        is_outlier: whether it scores far above its like.
        threshold: what it would be without this picture, whatever else changes.
        found: bad pictures above that; None where there are none.
    """

    path: str
    image: NDArray[Any] | None
    anomaly_map: NDArray[np.float32] | None
    score: float
    is_outlier: bool
    threshold: float
    found: int | None


def chosen(scores: Scores, outliers: int) -> list[int]:
    """Which of the pictures that calibrate to show, the highest score first: all outliers, and a few in any case."""
    count = min(max(outliers, _AT_LEAST), _AT_MOST, len(scores))
    return [int(index) for index in np.argsort(-scores, kind="stable")[:count]]


def without(scores: Scores, index: int, target_fpr: float, bad: Scores | None) -> tuple[float, int | None]:
    """The threshold without one of the pictures that calibrate, and how many of the bad are above it."""
    threshold = conformal_threshold(np.delete(scores, index), target_fpr).value
    return threshold, None if bad is None else int((bad > threshold).sum())


def without_itself(heat: NDArray[np.float32], score: float, *, that_calibrates: float) -> NDArray[np.float32]:
    """The map of a picture at the level of the score that calibrates; a model that has learnt a picture shows little.

    Args:
        heat: float32 (h, w), of the finished model.
        score: that this gives for the picture.
        that_calibrates: of the model without the picture, or the same where it has not learnt it.
    """
    return heat * np.float32(that_calibrates / max(score, _LEAST))


@torch.no_grad()
def of_training(
    trained: Trained[Any],
    pictures: Sequence[Picture],
    pixels_of: Callable[[Picture], NDArray[Any] | None],
    *,
    target_fpr: float,
    plural: str,
) -> str:
    """The page of a run whose pictures all calibrate, out of fold.

    Args:
        trained: on these pictures.
        pictures: that fit, in the order of their scores.
        pixels_of: as the model sees them: uint8 (H, W, C), or float32 (C, T) of a signal; None of one that is gone.
        target_fpr: that the threshold is for.
        plural: what items are called.
    """
    assert trained.out_of_fold is not None
    scores = trained.out_of_fold.scores.astype(np.float64)
    found = outliers.find({"fit": (pictures, scores), "statistics": ([], scores[:0]), "calibration": ([], scores[:0])})
    paths = {outlier.path for outlier in found}
    threshold = conformal_threshold(scores, target_fpr)
    suspects = []
    for index in chosen(scores, len(found)):
        image, path = pixels_of(pictures[index]), pictures[index].path
        heat = None
        if image is not None:
            score, heats = trained.detector(torch.from_numpy(np.array(image[None])))[:2]
            heat = without_itself(heats[0].numpy(), float(score[0]), that_calibrates=float(scores[index]))
        raised = without(scores, index, target_fpr, None)
        suspects.append(Suspect(path, image, heat, float(scores[index]), path in paths, *raised))
    coloured_from = threshold.value / trained.report.reference
    return page(suspects, threshold=threshold, found=None, coloured_from=coloured_from, plural=plural)


def page(
    suspects: Sequence[Suspect],
    *,
    threshold: Threshold,
    found: int | None,
    coloured_from: float,
    plural: str,
) -> str:
    """The page, HTML that loads nothing.

    Args:
        suspects: the highest score first.
        threshold: in force.
        found: bad pictures above it; None where there are none.
        coloured_from: level of a map at which colour begins.
        plural: what items are called.
    """
    figures = "\n".join(_figure(suspect, threshold.value, found, coloured_from) for suspect in suspects)
    paths = "\n".join(html.escape(printable(suspect.path)) for suspect in suspects if suspect.is_outlier)
    listed = (
        "<p>Those that look like outliers, one a line, as <code>--exclude FILE</code> takes them. Keep the lines of "
        f"those that show no good part, and train again:</p>\n<pre>{paths}</pre>"
        if paths
        else "<p>None of them looks like an outlier.</p>"
    )
    caught = "" if found is None else f", which finds {found} bad {plural}"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Good {plural} to look at</title><style>{_STYLE}</style></head>
<body>
<h1>Good {plural} to look at</h1>
<p>The good {plural} with the highest scores, each beside itself under its heat map. They decide the threshold,
{threshold.value:.4g}{caught}. What it would be without each of them is said below it, from the scores as they are.
Colour begins at half of what makes an anomaly: it shows what raises a score that is below the threshold, too.</p>
{listed}
{figures}
</body></html>
"""


def _figure(suspect: Suspect, threshold: float, found: int | None, coloured_from: float) -> str:
    shown = "<p>It is not where it was, or has changed.</p>"
    if suspect.image is not None and suspect.anomaly_map is not None:
        render = overlays.render_signal if suspect.image.ndim == 2 else overlays.render
        drawn = render(suspect.image, suspect.anomaly_map, coloured_from=_COLOURED_FROM * coloured_from)
        shown = f'<img alt="" src="data:image/png;base64,{_png(drawn)}">'
    lines = [
        f"<strong>{html.escape(printable(suspect.path))}</strong>",
        f"score {suspect.score:.4g} = {suspect.score / threshold:.2f} x threshold"
        + (", <strong>an outlier</strong>" if suspect.is_outlier else ""),
        f"without it: threshold {suspect.threshold:.4g}"
        + ("" if suspect.found is None or found is None else f", finds {suspect.found} in place of {found}"),
    ]
    return f"<figure>{shown}<figcaption>{'<br>'.join(lines)}</figcaption></figure>"


def _png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode("ascii")

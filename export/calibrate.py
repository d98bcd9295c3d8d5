"""Scores of good and bad pictures computed through edged itself, as it will compute them when it runs."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edged.models import bundle as bundles
from edged.models.bundle import Bundle
from edged.models.calibration import Threshold, conformal_threshold
from edged.models.drift import appearance
from edged.models.manifest import Calibration, Manifest
from edged.models.scorer import Scorer
from export.report import metrics
from export.report.metrics import Report, Scores
from train.data.pictures import Picture
from train.data.reader import Reader
from train.errors import TrainError
from train.nets.features import batch_of
from train.progress import Advance
from train.run import Run

_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Calibrated:
    """What edged gives for the pictures of a run.

    Attributes:
        good: scores of the calibration pictures, (n,).
        looks: what `edged.models.drift.appearance` gives for them, (n, 3).
        bad: scores of the bad pictures, (m,); None where none were given.
        threshold: that the calibration gives.
        report: on the bad pictures; None where none were given.
    """

    good: Scores
    looks: NDArray[np.float64]
    bad: Scores | None
    threshold: Threshold
    report: Report | None


def serve(folder: Path, manifest: dict[str, Any], target_fpr: float) -> Scorer:
    """The unfinished bundle as edged will load it, with a calibration that means nothing yet.

    Neither is written: what a killed export leaves behind must not pass for a bundle.

    Raises:
        BundleError: edged refuses it.
    """
    described = bundles.describe(folder, manifest)
    unfinished = Bundle(folder, described, calibration(described, np.ones(1), target_fpr))
    return Scorer.load(unfinished, device="cpu")


def score(
    served: Scorer,
    read: Reader,
    good: Sequence[Picture],
    bad: Sequence[Picture],
    *,
    run: Run,
    advance: Advance,
) -> Calibrated:
    """Scores every picture and calibrates on the good ones.

    Raises:
        TrainError: a score is not above 0, or a picture cannot be read.
    """
    total, target_fpr = len(good) + len(bad), run.config.target_fpr
    found, looks = scores(served, read, good, lambda done: advance(done, total))
    good_scores = run.out_of_fold(good, found)
    if not (np.isfinite(good_scores).all() and (good_scores > 0).all()):
        raise TrainError("a calibration score is not a number above 0; nothing was written. Train again")
    threshold = conformal_threshold(good_scores, target_fpr)
    if not bad:
        return Calibrated(good_scores, looks, None, threshold, None)
    bad_scores, _ = scores(served, read, bad, lambda done: advance(len(good) + done, total))
    report = metrics.report(good_scores, bad_scores, threshold.value)
    return Calibrated(good_scores, looks, bad_scores, threshold, report)


def calibration(
    manifest: Manifest, scores: Scores, target_fpr: float, method: Literal["cross", "split"] = "split"
) -> Calibration:
    """What goes into calibration.json."""
    return Calibration(
        model_sha256=manifest.files[bundles.MODEL].sha256,
        created=manifest.created,
        target_fpr=target_fpr,
        n=len(scores),
        method=method,
        scores=np.sort(scores).tolist(),
    )


def score_and_map(served: Scorer, image: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Scores (n,) and maps (n, h, w) of (n, *shape); of large pictures one at a time, for memory's sake."""
    batch = batch_of(math.prod(image.shape[1:3]), _BATCH)
    found = [served.scores(image[start : start + batch]) for start in range(0, len(image), batch)]
    return np.concatenate([score for score, _ in found]), np.concatenate([heat for _, heat in found])


def scores(
    served: Scorer, read: Reader, pictures: Sequence[Picture], advance: Callable[[int], None]
) -> tuple[Scores, NDArray[np.float64]]:
    """Scores (n,) and looks (n, 3), as in `Calibrated`; `advance` is called with how many are done."""
    found, looks = [], []
    batch = batch_of(math.prod(read.spec.shape[:2]), _BATCH)
    for start in range(0, len(pictures), batch):
        image = read(pictures[start : start + batch])
        found.append(served.scores(image)[0].astype(np.float64))
        looks += [appearance(one) for one in image]
        advance(min(start + batch, len(pictures)))
    return np.concatenate(found), np.array(looks)

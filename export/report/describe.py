"""The card of a bundle and its pictures: what was measured -> files for people."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edged.media.imaging import ImageInput
from edged.media.regions import box_of
from edged.media.signals import SignalInput
from edged.models.manifest import SCHEMA_VERSION, Manifest, MapReference
from edged.models.rates import choices
from edged.models.sampling import DECODER, Sampler, grid
from edged.models.scorer import Scorer
from export import calibrate
from export.calibrate import Calibrated
from export.report import card, plots, sheets, signal_card, synthetic
from export.report.metrics import Scores
from export.report.sheets import Example
from export.sources import Intact
from train import run as runs
from train import suspects
from train.config.denoiser import DenoiserConfig
from train.data.corruption import corruption
from train.data.pictures import Part, Picture
from train.data.reader import Reader, read_pixels
from train.data.shapes import pixels_covered
from train.fit import outliers
from train.fit.outliers import Outlier
from train.progress import Advance
from train.run import Run
from train.suspects import Suspect

_BEST: Final = 8
_WORST: Final = 8
_WRONG: Final = 4
_RECONSTRUCTED: Final = 4
_SAMPLES: Final = 64
_WHERE_PX: Final = 640
_SEED: Final = 0

_DRAWN: Final = {"image": sheets.examples, "signal": signal_card.examples}
"""What draws examples of each kind of input."""


def describe(
    folder: Path,
    facts: dict[str, Any],
    *,
    run: Run,
    read: Reader,
    served: Scorer,
    intact: Intact,
    outcome: Calibrated,
    warnings: Sequence[str],
    advance: Advance,
) -> list[Outlier]:
    """Writes card.md and its pictures into an unfinished bundle; gives the outliers in the good folder.

    Args:
        folder: of the bundle.
        facts: the manifest's keys.
        run: what was trained.
        read: reads pictures as the model sees them.
        served: the bundle as edged loads it.
        intact: the pictures that are still there.
        outcome: scores of calibration and bad pictures.
        warnings: of training and export.
        advance: called as it goes; scoring the rest of the good pictures takes longest.
    """
    threshold, plural = outcome.threshold.value, read.spec.plural
    made = choices(outcome.good, facts["bad_scores"], run.config.target_fpr)
    coloured_from = MapReference.model_validate(facts["map_reference"]).begins(threshold)
    plots.histogram(folder / plots.HISTOGRAM, good=outcome.good, bad=outcome.bad, threshold=threshold, plural=plural)
    plots.thresholds(folder / plots.THRESHOLDS, made, good=outcome.good, bad=outcome.bad, plural=plural)
    if outcome.bad is not None and outcome.report is not None:
        plots.curves(
            folder / plots.ROC,
            good=outcome.good,
            bad=outcome.bad,
            threshold=threshold,
            report=outcome.report,
            plural=plural,
        )
    good, bad = intact.part(run.calibrates), intact.part("bad")
    sections = _sections(served, read, good, bad, outcome)
    draw = _DRAWN[read.spec.kind]
    draw(folder / sheets.EXAMPLES, sections, threshold=threshold, coloured_from=coloured_from)
    _where(folder, run=run, read=read, picture=good[0])
    psnr = _reconstructions(
        folder / sheets.RECONSTRUCTIONS, run=run, served=served, read=read, intact=intact, outcome=outcome
    )
    if DECODER in served.bundle.manifest.files:
        sampler = Sampler.load(served, device="cpu")
        grid(sampler.prior(_SAMPLES, _SEED)).save(folder / sheets.SAMPLES, "PNG")
    epochs = _epochs(run)
    if epochs:
        loss = card.loss_of(run.facts["kind"], run.config)
        plots.learning(folder / plots.LEARNING, epochs=epochs, best=run.facts["epoch"], loss=loss, plural=plural)
    found = outliers.find(_good(run, served, read, intact, outcome=outcome, advance=advance))
    looked_at = _suspects(served, read, good, outcome, found=found, target_fpr=run.config.target_fpr)
    caught = None if outcome.report is None else outcome.report.n_found
    page = suspects.page(
        looked_at, threshold=outcome.threshold, found=caught, coloured_from=coloured_from, plural=plural
    )
    (folder / suspects.PAGE).write_text(page, encoding="utf-8")
    source_px = (
        median(picture.source_px[0] for picture in run.pictures),
        median(picture.source_px[1] for picture in run.pictures),
    )
    drawn_in = None
    if isinstance(read.spec, ImageInput):
        covers = pixels_covered(read.spec, source_px)
        mask = run.path / runs.MASK
        where = np.asarray(Image.open(mask).convert("L")) > 0 if mask.is_file() else None
        drawn_in = synthetic.measure(served, read, good, covers=covers, threshold=threshold, looked_at=where)
    text = card.write(
        Manifest.model_validate({**facts, "schema_version": SCHEMA_VERSION, "files": {}}),
        threshold=outcome.threshold,
        choices=made,
        report=outcome.report,
        outliers=found,
        raised_from=outliers.raised_from(found, outcome.good, outcome.threshold, run.calibrates),
        parts=facts["provenance"]["pictures"],
        synthetic=drawn_in,
        source_px=source_px,
        pictures={item.name for item in folder.glob("*.png")},
        epochs=(run.facts["epoch"], len(epochs), run.config.epochs),
        psnr=psnr,
        warnings=warnings,
    )
    (folder / "card.md").write_text(text, encoding="utf-8")
    return found


def _sections(
    served: Scorer, read: Reader, good: Sequence[Picture], bad: Sequence[Picture], outcome: Calibrated
) -> list[tuple[str, list[Example]]]:
    """Titles and pictures: the lowest scores, the highest, and where there are bad pictures those that went wrong."""
    pictures, scores = [*good, *bad], outcome.good
    if outcome.bad is not None:
        scores = np.concatenate([scores, outcome.bad])
    order = np.argsort(scores, kind="stable")
    lowest = order[: min(_BEST, -(-len(order) // 2))]
    highest = order[::-1][: min(_WORST, len(order) // 2)]
    plural = read.spec.plural
    wanted = [(f"The lowest scores: the most ordinary {plural}", lowest)]
    if len(highest):
        wanted.append((f"The highest scores: the most unusual {plural}", highest))
    if bad:
        good_order, bad_order = order[order < len(good)], order[order >= len(good)]
        nearest = good_order[::-1][:_WRONG]
        wanted.append((f"Good {plural} with the highest scores: the nearest to false alarms", nearest))
        wanted.append((f"Bad {plural} with the lowest scores: the nearest to being missed", bad_order[:_WRONG]))
    sections = []
    for title, chosen in wanted:
        some = [pictures[int(index)] for index in chosen]
        images = read(some)
        found, maps = calibrate.score_and_map(served, images)
        maps = np.stack(
            [
                suspects.without_itself(heat, float(score), that_calibrates=float(scores[int(index)]))
                for heat, score, index in zip(maps, found, chosen, strict=True)
            ]
        )
        made = served.reconstruct(images) if isinstance(read.spec, SignalInput) else [None] * len(some)
        sections.append(
            (
                title,
                [
                    Example(
                        Path(picture.path).name,
                        picture.part == "bad",
                        image,
                        heat,
                        float(scores[int(index)]),
                        drawn,
                        served.view.ignored,
                    )
                    for picture, image, heat, drawn, index in zip(some, images, maps, made, chosen, strict=True)
                ],
            )
        )
    return sections


def _where(folder: Path, *, run: Run, read: Reader, picture: Picture) -> None:
    """Draws where the model looks, where that is not everywhere."""
    spec, mask = read.spec, run.path / runs.MASK
    if not isinstance(spec, ImageInput) or (spec.roi is None and not mask.is_file()):
        return
    width, height = picture.source_px
    shrunk = min(1.0, _WHERE_PX / max(width, height))
    size = max(8, round(width * shrunk)), max(8, round(height * shrunk))
    whole = read_pixels([picture], ImageInput(size[1], size[0], spec.channels))[0]
    seen = box_of(spec, width, height)
    left, top, right, bottom = (
        round(edge * side / full) for edge, side, full in zip(seen, size * 2, (width, height) * 2, strict=True)
    )
    box = (left, top, max(right, left + 1), max(bottom, top + 1))
    sheets.where(folder / sheets.WHERE, whole, box, _unpadded(mask, spec, seen) if mask.is_file() else None)


def _unpadded(mask: Path, spec: ImageInput, seen: tuple[int, int, int, int]) -> Image.Image:
    """A mask of the model's picture without what "pad" puts around the part of the file's that is seen."""
    opened, (left, top, right, bottom) = Image.open(mask), seen
    if spec.resize != "pad":
        return opened
    scale = min(spec.width / (right - left), spec.height / (bottom - top))
    across, down = round((right - left) * scale), round((bottom - top) * scale)
    left, top = (spec.width - across) // 2, (spec.height - down) // 2
    return opened.crop((left, top, left + across, top + down))


def _suspects(
    served: Scorer,
    read: Reader,
    good: Sequence[Picture],
    outcome: Calibrated,
    *,
    found: Sequence[Outlier],
    target_fpr: float,
) -> list[Suspect]:
    """The good pictures with the highest scores, of those that calibrate."""
    paths = {outlier.path for outlier in found}
    number = sum(picture.path in paths for picture in good)
    made = []
    for index in suspects.chosen(outcome.good, number):
        picture, score = good[index], float(outcome.good[index])
        image = read([picture])
        (fitted,), (heat,) = served.scores(image)
        heat = suspects.without_itself(heat, float(fitted), that_calibrates=score)
        raised = suspects.without(outcome.good, index, target_fpr, outcome.bad)
        made.append(Suspect(picture.path, image[0], heat, score, picture.path in paths, *raised))
    return made


def _reconstructions(
    path: Path, *, run: Run, served: Scorer, read: Reader, intact: Intact, outcome: Calibrated
) -> tuple[float, float] | None:
    """Draws what the model makes of a few pictures, where it gives pictures; a denoiser's PSNR before and after.

    A signal's examples show that already.
    """
    if "reconstruction" not in served.bundle.manifest.outputs or isinstance(read.spec, SignalInput):
        return None
    good, bad = intact.part(run.calibrates), intact.part("bad")
    spread = np.linspace(0, len(good) - 1, min(_RECONSTRUCTED, len(good))).round().astype(int)
    chosen = [good[int(index)] for index in np.argsort(outcome.good, kind="stable")[spread]]
    if isinstance(run.config, DenoiserConfig):
        clean = read(chosen)
        noisy = _corrupted(clean, run.config)
        cleaned = served.reconstruct(noisy)
        names = [Path(picture.path).name for picture in chosen]
        rows = list(zip(names, zip(noisy, cleaned, clean, strict=True), strict=True))
        sheets.reconstructions(path, ("noisy", "denoised", "clean"), rows)
        return _psnr(noisy, clean), _psnr(cleaned, clean)
    if outcome.bad is not None:
        chosen += [bad[int(index)] for index in np.argsort(outcome.bad, kind="stable")[::-1][: _RECONSTRUCTED // 2]]
    image = read(chosen)
    made = served.reconstruct(image)
    rows = [
        (f"{'bad' if picture.part == 'bad' else 'good'}: {Path(picture.path).name}", (a, b, sheets.difference(a, b)))
        for picture, a, b in zip(chosen, image, made, strict=True)
    ]
    sheets.reconstructions(path, ("input", "reconstruction", f"difference x {sheets.GAIN}"), rows)
    return None


def _corrupted(clean: NDArray[np.uint8], config: DenoiserConfig) -> NDArray[np.uint8]:
    """As training corrupts, the same every time: uint8 (N, H, W, C)."""
    x = torch.from_numpy(clean).permute(0, 3, 1, 2).float() / 255
    noisy = corruption(config)(x, torch.Generator().manual_seed(_SEED))
    return cast(NDArray[np.uint8], (noisy * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())


def _psnr(image: NDArray[np.uint8], clean: NDArray[np.uint8]) -> float:
    """Peak signal-to-noise ratio over all of them, dB."""
    error = np.square((image.astype(np.float64) - clean) / 255).mean()
    return float(-10 * np.log10(error + 1e-12))


def _epochs(run: Run) -> list[dict[str, Any]]:
    """The lines of the run's metrics that are of epochs; none where the run has lost them."""
    try:
        lines = [json.loads(line) for line in (run.path / runs.METRICS).read_text(encoding="ascii").splitlines()]
    except (OSError, ValueError):
        return []
    return [line for line in lines if line.get("event") == "epoch"]


def _good(
    run: Run, served: Scorer, read: Reader, intact: Intact, *, outcome: Calibrated, advance: Advance
) -> dict[Part, tuple[list[Picture], Scores]]:
    """The good pictures of each part and their scores; those of fit and statistics are computed here."""
    if run.calibrates == "fit":
        advance(1, 1)
        none: tuple[list[Picture], Scores] = ([], np.zeros(0))
        return {"fit": (intact.part("fit"), outcome.good), "statistics": none, "calibration": none}
    fit, statistics = intact.part("fit"), intact.part("statistics")
    pictures, found = fit + statistics, np.zeros(0)
    if pictures:
        found, _ = calibrate.scores(served, read, pictures, lambda done: advance(done, len(pictures)))
    return {
        "fit": (fit, found[: len(fit)]),
        "statistics": (statistics, found[len(fit) :]),
        "calibration": (intact.part("calibration"), outcome.good),
    }

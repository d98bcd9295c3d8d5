"""A run directory -> a bundle: trace, prove, calibrate through edged, describe; whole or not at all."""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from edged.models import bundle as bundles
from edged.models import drift
from edged.models.manifest import Tolerance
from edged.models.sampling import DECODER
from edged.models.scorer import Scorer
from export import calibrate, manifest, sources
from export.calibrate import Calibrated
from export.onnx import graph, parity, quantise
from export.report import describe
from export.sources import Intact
from train import run as runs
from train.data.cleaning import Denoiser
from train.data.reader import Reader
from train.errors import TrainError
from train.fit.outliers import Outlier
from train.nets.features import batch_of
from train.nets.vae import Decoder, VaeDetector
from train.progress import Track
from train.run import Run

PARITY_PICTURES: Final = 8
GOLDEN_PICTURES: Final = 3
QUANTISING_PICTURES: Final = 64


@dataclass(frozen=True, slots=True)
class Exported:
    """What export made.

    Attributes:
        outcome: scores, threshold, and the report on bad pictures.
        difference: of ONNX Runtime from torch, 1 is the tolerance.
        model_bytes: size of model.onnx.
        warnings: of training and export.
        outliers: good pictures that a person should look at.
    """

    outcome: Calibrated
    difference: float
    model_bytes: int
    warnings: tuple[str, ...]
    outliers: tuple[Outlier, ...]


def export_bundle(
    run: Run, out: Path, *, name: str, precision: str, denoiser: Denoiser | None = None, track: Track
) -> Exported:
    """Writes a bundle.

    Args:
        run: what was trained.
        out: where it goes; must not exist.
        name: how results call the model.
        precision: "fp32", "fp16" or "int8".
        denoiser: the one that the run was trained behind.
        track: shows progress.

    Raises:
        TrainError: a check failed; nothing was written.
        BundleError: `out` exists, or edged refuses what was made.
    """
    _check_denoiser(run, denoiser)
    read = Reader(run.spec, denoiser)
    with bundles.writing(out) as folder:
        with track(read.spec.plural) as advance:
            intact = sources.find_intact(run, advance)
        with track("graph") as advance:
            detector = graph.with_half_weights(run.detector) if precision == "fp16" else run.detector
            model = _model(detector, read, intact, precision)
            (folder / bundles.MODEL).write_bytes(model)
            few = batch_of(math.prod(read.spec.shape[:2]), PARITY_PICTURES)
            pictures = (intact.part("statistics") or intact.part(run.calibrates))[:few]
            expected = parity.reference(detector, read(pictures))
            difference = _prove(folder, model, read.spec.kind, expected, parity.TOLERANCES[precision])
            if isinstance(detector, VaeDetector) and "reconstruction" in detector.output_names:
                (folder / DECODER).write_bytes(_decoder(detector, precision, expected.outputs["latent_mean"]))
            advance(1, 1)

        if (run.path / runs.MASK).is_file():
            shutil.copyfile(run.path / runs.MASK, folder / runs.MASK)
        licences = manifest.add_licences(folder, run)
        facts = manifest.of_run(run, name=name, precision=precision, licences=licences)
        with track("calibration") as advance:
            served = calibrate.serve(folder, facts, run.config.target_fpr)
            outcome = calibrate.score(
                served,
                read,
                intact.part(run.calibrates),
                intact.part("bad"),
                run=run,
                advance=advance,
            )
        if precision == "int8":
            with track("float32, to compare") as advance:
                _gate(run, read, intact, outcome)
                advance(1, 1)

        facts["drift_reference"] = drift.reference(outcome.good, outcome.looks)
        facts["bad_scores"] = [] if outcome.bad is None else np.sort(outcome.bad).round(6).tolist()
        facts["provenance"]["metrics"] = _metrics(run, outcome, difference)
        warnings = (*run.facts["warnings"], *intact.warnings)
        with track("card") as advance:
            found = describe.describe(
                folder,
                facts,
                run=run,
                read=read,
                served=served,
                intact=intact,
                outcome=outcome,
                warnings=warnings,
                advance=advance,
            )
        sealed = bundles.seal(folder, facts)
        method: Literal["cross", "split"] = "split" if run.calibrates == "calibration" else "cross"
        bundles.write_calibration(folder, calibrate.calibration(sealed, outcome.good, run.config.target_fpr, method))
        Scorer.load(folder, device="cpu")  # the last word: edged takes it, golden pictures and all
    return Exported(outcome, difference, len(model), warnings, tuple(found))


def _model(detector: graph.Traceable, read: Reader, intact: Intact, precision: str) -> bytes:
    traced = graph.trace(detector, read.spec)
    if precision == "fp16":
        graph.store_weights_as_half(traced)
    elif precision == "int8":
        some = (intact.part("fit") or intact.part("statistics"))[:QUANTISING_PICTURES]
        if not some:
            raise TrainError("--precision int8 needs pictures of the fit part, and all have gone; put them back")
        traced = quantise.quantise(traced, read(some))
    return graph.checked(traced)


def _decoder(detector: VaeDetector, precision: str, latents: np.ndarray) -> bytes:
    """The decoder's graph, proved on the latents of real pictures, float32 (N, L)."""
    decoder = Decoder(detector)
    traced = graph.trace_decoder(decoder, detector.vae.latent)
    if precision == "fp16":
        graph.store_weights_as_half(traced)
    model = graph.checked(traced)
    parity.check(model, parity.reference_of(decoder, latents), parity.TOLERANCES[precision])
    return model


def _check_denoiser(run: Run, denoiser: Denoiser | None) -> None:
    wanted = run.facts.get("denoiser")
    given = denoiser.facts if denoiser else None
    if (wanted or {}).get("sha256") == (given or {}).get("sha256"):
        return
    if wanted is None:
        raise TrainError(f"{run.path}: was trained without a denoiser; leave --denoiser out, or train again with it")
    raise TrainError(
        f"{run.path}: was trained behind the denoiser {wanted['name']}, whose model.onnx has the SHA-256 "
        f"{wanted['sha256']}; give that bundle with --denoiser"
    )


def _prove(folder: Path, model: bytes, kind: str, expected: parity.Reference, tolerance: Tolerance) -> float:
    """Checks ONNX Runtime against torch, and keeps a few of the pictures as the golden ones."""
    difference = parity.check(model, expected, tolerance)
    n, inputs = GOLDEN_PICTURES, {kind: expected.given[:GOLDEN_PICTURES]}
    with (folder / bundles.GOLDEN).open("wb") as file:
        outputs = {name: expected.outputs[name][:n] for name in ("score", "anomaly_map")}
        np.savez(file, allow_pickle=False, **inputs, **outputs)
    return difference


def _gate(run: Run, read: Reader, intact: Intact, outcome: Calibrated) -> None:
    """Scores the same pictures with the float32 model, and lets the gate judge."""

    def scores(part: Any) -> np.ndarray:
        pictures, size = intact.part(part), batch_of(math.prod(read.spec.shape[:2]), PARITY_PICTURES)
        batches = (pictures[start : start + size] for start in range(0, len(pictures), size))
        images = (read(batch) for batch in batches)
        return np.concatenate([parity.reference(run.detector, image).score for image in images]).astype(np.float64)

    bad = None if outcome.bad is None else (scores("bad"), outcome.bad)
    good = run.out_of_fold(intact.part(run.calibrates), scores(run.calibrates))
    quantise.gate(good, outcome.good, bad)


def _metrics(run: Run, outcome: Calibrated, difference: float) -> dict[str, float]:
    measured = {
        "loss_statistics": run.facts["loss_statistics"],
        "held_out_ratio": run.facts["held_out_ratio"],
        "parity": difference,
        "threshold": outcome.threshold.value,
    }
    if outcome.report is not None:
        report = outcome.report
        measured |= {"auroc": report.auroc, "recall": report.recall, "bad_pictures": report.n_bad}
        for name, interval in (("auroc", report.auroc_interval), ("recall", report.recall_interval)):
            measured |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    return measured

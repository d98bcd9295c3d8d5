"""Frames -> results: one bundle, its session, and the threshold that its calibration gives."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged import bundle as bundles
from edged.bundle import Bundle
from edged.calibration import Threshold, conformal_threshold, p_value, pictures_needed
from edged.errors import BundleError, PictureError
from edged.results import Frame, ModelIdentity, Result
from edged.runtime import Device, Session, open_session

DEFAULT_TARGET_FPR = 0.01


@dataclass(frozen=True, slots=True)
class GoldenCheck:
    """How far this device is from what torch gave at export.

    Attributes:
        n: golden pictures.
        worst: largest |a - b| / (atol + rtol · |b|) over scores and maps; up to 1 is within tolerance.
    """

    n: int
    worst: float


@dataclass(frozen=True, slots=True)
class Detector:
    """A model that is ready to score.

    Attributes:
        name: how results call it.
        bundle: where it comes from.
        session: what runs it.
        threshold: what separates good from anomalous.
        calibration: its calibration scores, float64 (n,), ascending.
        golden: how close this device is to torch.
        asked: the device and the threads that were asked for.
    """

    name: str
    bundle: Bundle
    session: Session
    threshold: Threshold
    calibration: NDArray[np.float64]
    golden: GoldenCheck
    asked: tuple[Device, int]

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        name: str | None = None,
        device: Device = "auto",
        threads: int = 0,
        target_fpr: float | None = None,
        threshold: float | None = None,
        reuse: "Detector | None" = None,
    ) -> "Detector":
        """Loads a bundle, verifies it, and proves on its golden pictures that it computes what torch did.

        Args:
            path: the bundle.
            name: how results call it; the manifest's name when None.
            device: what must run it.
            threads: 0 for the CPUs that this process may use.
            target_fpr: for the threshold; 0.01 when None.
            threshold: set by the operator, in place of `target_fpr`.
            reuse: one that is running; its session is kept where model, device and threads are the same, for memory
                grows with sessions that are made again and again.

        Raises:
            BundleError: the bundle is damaged, or computes something else here.
            DeviceError: `device` cannot run it.
        """
        loaded = bundles.load(path)
        asked = (device, threads)
        if reuse is not None and (reuse.bundle.model_sha256, reuse.asked) == (loaded.model_sha256, asked):
            session, golden = reuse.session, reuse.golden
        else:
            session = open_session(loaded.read(bundles.MODEL), device=device, threads=threads, name=str(path))
            _check_graph(loaded, session)
            golden = _check_golden(loaded, session)
        calibration = np.sort(np.asarray(loaded.calibration.scores, dtype=np.float64))
        chosen = conformal_threshold(calibration, DEFAULT_TARGET_FPR if target_fpr is None else target_fpr)
        if threshold is not None:
            chosen = Threshold(threshold, None, chosen.n, pictures_needed(DEFAULT_TARGET_FPR))
        return cls(name or loaded.manifest.name, loaded, session, chosen, calibration, golden, asked)

    @property
    def identity(self) -> ModelIdentity:
        """What records say of this model."""
        return ModelIdentity(self.name, self.bundle.model_sha256, self.session.device)

    def scores(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores float32 (N,) and anomaly maps float32 (N, h, w) of image: uint8 (N, H, W, C)."""
        score, anomaly_map = self.session.run(["score", "anomaly_map"], image)
        return score, anomaly_map

    def detect(self, frames: Sequence[Frame]) -> list[Result | PictureError]:
        """One result a frame, in their order; a `PictureError` where the model gave no finite score."""
        began = time.perf_counter()
        scores, maps = self.scores(np.stack([frame.pixels for frame in frames]))
        each_ms = (time.perf_counter() - began) * 1000 / len(frames)
        return [
            self._result(frame, float(score), anomaly_map, each_ms)
            for frame, score, anomaly_map in zip(frames, scores, maps, strict=True)
        ]

    def _result(
        self, frame: Frame, score: float, anomaly_map: NDArray[np.float32], infer_ms: float
    ) -> Result | PictureError:
        if not math.isfinite(score):
            return PictureError("model_failed", f"the model {self.name} gave the score {score}")
        return Result(
            frame_id=frame.frame_id,
            source=frame.source,
            score=score,
            threshold=self.threshold.value,
            p_value=p_value(self.calibration, score),
            is_anomaly=score > self.threshold.value,
            anomaly_map=anomaly_map,
            model=self.name,
            timings={"infer": round(infer_ms, 3)},
        )


def _check_graph(loaded: Bundle, session: Session) -> None:
    (graph_input, *more), outputs = session.ort.get_inputs(), {item.name: item for item in session.ort.get_outputs()}
    shape = list(graph_input.shape)
    if more or graph_input.name != "image" or shape[1:] != list(loaded.manifest.input.shape):
        raise BundleError(
            f"{loaded.path}: {bundles.MODEL} takes {graph_input.name} {shape}, the manifest says image "
            f"[N, {', '.join(map(str, loaded.manifest.input.shape))}]; export the bundle again"
        )
    if missing := {"score", "anomaly_map"} - outputs.keys():
        raise BundleError(f"{loaded.path}: {bundles.MODEL} has no output {', '.join(missing)}; export the bundle again")


def _check_golden(loaded: Bundle, session: Session) -> GoldenCheck:
    golden, tolerance = loaded.golden(), loaded.manifest.tolerance
    worst = 0.0
    for index in range(len(golden.score)):
        try:
            computed = session.run(["score", "anomaly_map"], golden.image[index : index + 1])
        except Exception as error:  # onnxruntime's exceptions share no base below Exception
            raise BundleError(f"{loaded.path}: {bundles.MODEL} fails on its golden picture: {error}") from error
        for got, expected in zip(computed, (golden.score, golden.anomaly_map), strict=True):
            reference = expected[index : index + 1]
            if got.shape != reference.shape or not np.isfinite(got).all():
                raise BundleError(f"{loaded.path}: {bundles.MODEL} gives other shapes or no numbers; export it again")
            allowed = tolerance.atol + tolerance.rtol * np.abs(reference)
            worst = max(worst, float(np.max(np.abs(got - reference) / np.maximum(allowed, 1e-12))))
    if worst > 1:
        raise BundleError(
            f"{loaded.path}: golden check failed on {session.provider}: {worst:.1f} times the manifest's tolerance; "
            "the model does not compute here what it did at export. Export it again, or run it on another device"
        )
    return GoldenCheck(len(golden.score), worst)

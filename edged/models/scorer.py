"""Frames -> results: one bundle, its session, and the threshold that its calibration gives.

A scorer may be used by any number of threads, each with a picture of its own.
"""

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edged.errors import BundleError, PictureError
from edged.media.imaging import Region
from edged.models import bundle as bundles
from edged.models.bundle import Bundle
from edged.models.calibration import Threshold, conformal_threshold, p_value, pictures_needed
from edged.models.runtime import Device, Session, open_session
from edged.models.view import View
from edged.results import Frame, ModelIdentity, Result

_ATTEMPTS: Final = 3


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
class Scorer:
    """A model that is ready to score, for any thread.

    Attributes:
        name: how results call it.
        identity: what records say of this model and of the calibration in force.
        bundle: where it comes from.
        session: what runs it.
        threshold: what separates good from anomalous.
        calibration: its calibration scores, float64 (n,), ascending.
        golden: how close this device is to torch.
        asked: the device and the threads that were asked for.
        view: what it looks at.
        denoiser: what cleans a picture before it is scored; the one that the calibration went through.
    """

    name: str
    identity: ModelIdentity
    bundle: Bundle
    session: Session
    threshold: Threshold
    calibration: NDArray[np.float64]
    golden: GoldenCheck
    asked: tuple[Device, int]
    view: View
    denoiser: "Scorer | None" = None

    @classmethod
    def load(
        cls,
        source: Path | Bundle,
        *,
        name: str | None = None,
        device: Device = "auto",
        threads: int = 0,
        target_fpr: float | None = None,
        threshold: float | None = None,
        reuse: "Scorer | None" = None,
    ) -> "Scorer":
        """Loads a bundle, verifies it, and proves on its golden pictures that it computes what torch did.

        Args:
            source: a bundle's folder, or what was read of it.
            name: how results call it; the manifest's name when None.
            device: what must run it.
            threads: of one run of the model; 0 for one, so that every CPU scores a picture of its own.
            target_fpr: for the threshold; when None, what the bundle was calibrated for (0.01 if nobody said).
            threshold: set by the operator, in place of `target_fpr`.
            reuse: one that is running; its session is kept where manifest, device and threads are the same, for memory
                grows with sessions that are made again and again. The files are verified all the same.

        Raises:
            BundleError: the bundle is damaged, or computes something else here.
            DeviceError: `device` cannot run it.
        """
        loaded = source if isinstance(source, Bundle) else bundles.load(source)
        asked = (device, threads)
        model = loaded.read(bundles.MODEL)
        if reuse is not None and (reuse.bundle.manifest, reuse.asked) == (loaded.manifest, asked):
            session, golden = reuse.session, reuse.golden
            loaded.golden()
        else:
            session = open_session(model, device=device, threads=threads, name=str(loaded.path))
            _check_graph(loaded, session)
            golden = _check_golden(loaded, session)
        calibration = np.sort(np.asarray(loaded.calibration.scores, dtype=np.float64))
        rate = loaded.calibration.target_fpr if target_fpr is None else target_fpr
        chosen = conformal_threshold(calibration, rate, confirmed=loaded.calibration.confirmed)
        if threshold is not None:
            chosen = Threshold(threshold, None, chosen.n, pictures_needed(rate))
        name = name or loaded.manifest.name
        identity = ModelIdentity(name, loaded.model_sha256, session.device, loaded.calibration_sha256)
        view = View.of_bundle(loaded)
        return cls(name, identity, loaded, session, chosen, calibration, golden, asked, view)

    def looking_at(self, *, roi: Region | None, mask: Path | None) -> "Scorer":
        """This detector for a source that shows a part of its pictures alone.

        Raises:
            ConfigError: `key: what is wrong` of roi and mask.
        """
        if roi is None and mask is None:
            return self
        return replace(self, view=self.view.narrowed(self.bundle, roi=roi, mask=mask))

    def with_denoiser(self, denoiser: "Scorer | None") -> "Scorer":
        """This detector behind a denoiser, or behind none.

        Raises:
            BundleError: that is not what it was calibrated with.
        """
        wanted, name = self.bundle.manifest.denoiser, self.bundle.path
        if denoiser is None:
            if wanted is not None:
                raise BundleError(
                    f"{name} was calibrated behind the denoiser {wanted.name}, and none is given; give that"
                )
            return replace(self, denoiser=None)
        if denoiser.bundle.manifest.kind != "denoiser":
            raise BundleError(f"{denoiser.bundle.path} is no denoiser but of the kind {denoiser.bundle.manifest.kind}")
        if wanted is None:
            raise BundleError(
                f"{name} was calibrated without a denoiser; use it without, or train and export it with "
                f"--denoiser {denoiser.bundle.path}"
            )
        if (
            wanted.sha256 != denoiser.bundle.model_sha256
            or denoiser.bundle.manifest.input != self.bundle.manifest.input
        ):
            raise BundleError(
                f"{name} was calibrated behind another denoiser than {denoiser.bundle.path}: {wanted.name}, whose "
                f"{bundles.MODEL} has the SHA-256 {wanted.sha256}; use that, or train and export the detector again"
            )
        return replace(self, denoiser=denoiser)

    def reconstruct(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """What the model makes of image: uint8 (N, H, W, C), of the same shape; a denoiser cleans it.

        Raises:
            BundleError: the model works on features and has no pictures to give.
        """
        if "reconstruction" not in self.bundle.manifest.outputs:
            raise BundleError(
                f"{self.bundle.path} gives no pictures, only scores and maps; take a denoiser or another pixel model"
            )
        (reconstruction,) = self.session.run(["reconstruction"], image)
        return reconstruction

    def scores(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Scores float32 (N,) and anomaly maps float32 (N, h, w) of image: uint8 (N, H, W, C).

        Where a source ignores a part, the maps are those that scores are made of, for the score of the rest is of them.
        """
        in_parts = self.view.masked_by_source and "score_map" in self.bundle.manifest.outputs
        score, anomaly_map = self.session.run(["score", "score_map" if in_parts else "anomaly_map"], image)
        return score, anomaly_map

    def score(self, frame: Frame) -> Result | PictureError:
        """The result of a frame; a `PictureError` where the model gave no finite score, or failed on it alone.

        Raises:
            BundleError: the model fails on its golden pictures as well, so that no frame is to blame.
        """
        failure = ""
        for _ in range(_ATTEMPTS):
            try:
                return self._run(frame)
            except BundleError as error:
                failure = str(error)
            for model in (self, self.denoiser):
                if model is not None:
                    _check_golden(model.bundle, model.session)
        return PictureError("model_failed", f"{failure}, on this and not on the golden pictures")

    def _run(self, frame: Frame) -> Result | PictureError:
        image, cleaned = frame.pixels[None], None
        timings = {}
        if self.denoiser is not None:
            began = time.perf_counter()
            image = self.denoiser.reconstruct(image)
            cleaned = image[0]
            timings["denoise"] = round((time.perf_counter() - began) * 1000, 3)
        began = time.perf_counter()
        scores, maps = self.scores(image)
        timings["infer"] = round((time.perf_counter() - began) * 1000, 3)
        return self._result(frame, float(scores[0]), maps[0], cleaned, timings)

    def _result(
        self,
        frame: Frame,
        score: float,
        anomaly_map: NDArray[np.float32],
        cleaned: NDArray[np.uint8] | None,
        timings: dict[str, float],
    ) -> Result | PictureError:
        score = self.view.score(self.bundle, score, anomaly_map)
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
            timings=timings,
            cleaned=cleaned,
            ignored=self.view.ignored,
            coloured_from=self.bundle.manifest.map_reference.begins(self.threshold.value),
        )


def _check_graph(loaded: Bundle, session: Session) -> None:
    inputs, outputs = session.ort.get_inputs(), {item.name for item in session.ort.get_outputs()}
    if len(inputs) != 1:
        raise BundleError(
            f"{loaded.path}: {bundles.MODEL} takes {len(inputs)} inputs, not one; export the bundle again"
        )
    graph_input, kind = inputs[0], loaded.manifest.input.kind
    shape = list(graph_input.shape)
    if graph_input.name != kind or shape[1:] != list(loaded.manifest.input.shape):
        raise BundleError(
            f"{loaded.path}: {bundles.MODEL} takes {graph_input.name} {shape}, the manifest says {kind} "
            f"[N, {', '.join(map(str, loaded.manifest.input.shape))}]; export the bundle again"
        )
    if missing := loaded.manifest.outputs.keys() - outputs:
        raise BundleError(f"{loaded.path}: {bundles.MODEL} has no output {', '.join(missing)}; export the bundle again")


def _check_golden(loaded: Bundle, session: Session) -> GoldenCheck:
    golden, tolerance = loaded.golden(), loaded.manifest.tolerance
    names = ["score", "anomaly_map", *({"reconstruction"} & loaded.manifest.outputs.keys())]
    worst = 0.0
    for index in range(len(golden.score)):
        image = golden.image[index : index + 1]
        score, anomaly_map, *pictures = session.run(names, image)
        for picture in pictures:
            if (picture.dtype, picture.shape) != (image.dtype, image.shape):
                raise BundleError(
                    f"{loaded.path}: {bundles.MODEL} makes {picture.dtype} {picture.shape} of a picture {image.dtype} "
                    f"{image.shape}; export the bundle again"
                )
        for got, expected in ((score, golden.score), (anomaly_map, golden.anomaly_map)):
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

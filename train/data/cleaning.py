"""A denoiser bundle before a detector: what it is fitted and calibrated on is what the denoiser gives.

The bundle runs through edged, as it will when the detector serves; here, and again in export.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from edged.errors import EdgedError
from edged.media.imaging import ImageInput
from edged.models.manifest import mark_of
from edged.models.scorer import Scorer
from train.data.pictures import PictureSet
from train.errors import TrainError
from train.progress import Advance, silent

_BATCH: Final = 8


@dataclass(frozen=True, slots=True)
class Denoiser:
    """A loaded denoiser bundle."""

    served: Scorer

    @property
    def facts(self) -> dict[str, Any]:
        """Which one it is: its name, and the SHA-256 of its model.onnx."""
        return {"name": self.served.bundle.manifest.name, "sha256": self.served.bundle.model_sha256}

    def clean(self, pixels: NDArray[np.uint8], advance: Advance = silent) -> None:
        """Replaces pictures uint8 (n, H, W, C) by what the denoiser makes of them, in place."""
        for start in range(0, len(pixels), _BATCH):
            some = slice(start, min(start + _BATCH, len(pixels)))
            pixels[some] = self.served.reconstruct(np.ascontiguousarray(pixels[some]))
            advance(some.stop, len(pixels))

    def leaks(self, good: PictureSet) -> list[str]:
        """A warning where pictures that calibrate are among those that the denoiser was fitted on."""
        fitted, calibration = set(self.served.bundle.manifest.fitted), good.part("calibration")
        known = sum(mark_of(picture.sha256) in fitted for picture in calibration)
        if not known:
            return []
        return [
            f"denoiser-fit: the denoiser was fitted on {known} of the {len(calibration)} calibration pictures; they "
            "may score lower than new ones, and the threshold may be too low. Train both on the same folder with the "
            "same seed, target_fpr and calibration_share: both then set the same pictures aside"
        ]


def load(path: Path, spec: ImageInput) -> Denoiser:
    """Opens a denoiser for a detector whose input is `spec`.

    Raises:
        TrainError: the bundle is none, or of another kind, or takes other pictures.
    """
    try:
        served = Scorer.load(path, device="cpu")
    except EdgedError as error:
        raise TrainError(str(error)) from error
    manifest = served.bundle.manifest
    if manifest.kind != "denoiser":
        raise TrainError(
            f"--denoiser: {path} is of the kind {manifest.kind}; name a bundle of `python -m train denoiser`"
        )
    if manifest.input != spec:
        raise TrainError(
            f"--denoiser: {path} takes {manifest.input}, and this model {spec}; set size, channels, resize and filter "
            "to the same in both"
        )
    return Denoiser(served)

"""The tables of a bundle: manifest.json and calibration.json; the manual says what each key means."""

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from edged.media.inputs import Input

SCHEMA_VERSION: Final = 1

_MAX_FILE_BYTES: Final = 2_000_000_000

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"
"""What a model may be called: in metrics, in logs, in rows."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class BundleTable(BaseModel):
    """What it does not know is passed over: it may be of a newer edged, of the same schema version."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)


class FileEntry(BundleTable):
    """What a file of the bundle must be."""

    sha256: Digest
    bytes: int = Field(ge=0, le=_MAX_FILE_BYTES)


class Output(BundleTable):
    """One output of model.onnx; "N" is the batch axis."""

    dtype: Literal["float32", "uint8"]
    shape: list[int | str]


class MapReference(BundleTable):
    """What 1.0 of an anomaly map means: the level that good pictures exceed at 1 - `quantile` of the pixels.

    `value` is that level before division, in deviations of the standardised length; `n` pictures are behind it.
    """

    quantile: float = Field(gt=0, lt=1)
    value: float = Field(gt=0)
    n: int = Field(ge=1)
    top: int | None = Field(None, ge=1)
    """A picture's score is the mean of so many highest map positions, in units of `value`; None: it is another one."""

    def begins(self, threshold: float) -> float:
        """Where colour begins: the level at which `top` positions make an anomaly, so that all of those are coloured.

        1.0 where the score is not of the map. A lone position would have to be `top` times as high, and a picture that
        several make an anomaly would then be shown without colour.
        """
        return 1.0 if self.top is None else threshold / self.value


class DriftReference(BundleTable):
    """Good pictures at training time, to compare a running line with: `levels` of the quantiles of a quantity."""

    quantiles: list[float]
    score: list[float]
    brightness: list[float]
    contrast: list[float] = []
    sharpness: list[float] = []
    """These two are empty in bundles of an edged that did not note them."""


class Tolerance(BundleTable):
    """How far ONNX Runtime may be from torch: |a - b| ≤ atol + rtol · |b|, on scores and maps."""

    rtol: float = Field(ge=0, le=0.5)
    atol: float = Field(ge=0, le=10)


class DenoiserReference(BundleTable):
    """The denoiser whose output a detector was fitted and calibrated on."""

    name: str
    sha256: Digest


class Manifest(BundleTable):
    """manifest.json: what the bundle holds and where it comes from."""

    schema_version: Literal[1]
    name: str = Field(pattern=NAME)
    kind: Literal["ae", "denoiser", "vae"]
    backbone: str = Field(max_length=100)
    precision: Literal["fp32", "fp16", "int8"]
    created: datetime
    input: Annotated[Input, Field(discriminator="kind")]
    outputs: dict[str, Output]
    map_reference: MapReference
    drift_reference: DriftReference
    tolerance: Tolerance
    denoiser: DenoiserReference | None = None
    mask: str | None = None
    """The file that shows where the model looks, at its size; the mask itself is in the graph."""
    licences: dict[str, str]
    provenance: dict[str, Any]
    bad_scores: list[float] = []
    """Of the bad pictures that were given, ascending; they are reported on, and decide nothing."""
    fitted: list[str] = []
    """`mark_of` each file that the model was fitted on; empty in bundles of an edged that did not note them."""
    files: dict[str, FileEntry]


def mark_of(sha256: str) -> str:
    """What the manifest remembers of a file: half of a SHA-256's digits tell any two apart."""
    return sha256[:32]


class Calibration(BundleTable):
    """calibration.json: scores of good pictures, of one model.onnx.

    By method "split" nothing was fitted on them; by "cross" each was scored with itself left out of what was fitted.
    """

    schema_version: Literal[1] = 1
    model_sha256: Digest
    created: datetime
    target_fpr: float = Field(gt=0, lt=1)
    n: int = Field(ge=1)
    scores: list[Annotated[float, Field(gt=0)]]
    method: Literal["cross", "split"] = "split"
    confirmed: int = Field(0, ge=0)
    """How many of the scores are of false alarms that people confirmed: chosen for their scores, no random sample."""
    groups: int = Field(0, ge=0)
    """How many groups the pictures of `edged calibrate` fell into, for whose next one the scores are raised; 0: each
    stands for itself, or they are those of the export."""

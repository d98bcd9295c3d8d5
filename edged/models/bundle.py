"""The model bundle: its schema, reading it with every byte verified, and writing it whole or not at all."""

import hashlib
import io
import json
import os
import re
import shutil
import stat
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from edged.errors import BundleError
from edged.files import read_regular, sync, write_durably
from edged.models.manifest import SCHEMA_VERSION, BundleTable, Calibration, Manifest

MANIFEST: Final = "manifest.json"
CALIBRATION: Final = "calibration.json"
PREVIOUS: Final = "calibration.previous.json"
"""The calibration that was in force before, to go back to."""
MODEL: Final = "model.onnx"
GOLDEN: Final = "golden.npz"

_MAX_JSON_BYTES: Final = 64_000_000
_MAX_GOLDEN_BYTES: Final = 256_000_000
_SHOWN: Final = 300

ModelT = TypeVar("ModelT", bound=BundleTable)


def as_name(text: str) -> str:
    """The nearest thing to `text` that a model may be called: "my bundle" -> "my-bundle"."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", plain).strip("._-")[:100] or "model"


@dataclass(frozen=True, slots=True)
class Golden:
    """Pictures with the outputs that torch gave for them.

    Attributes:
        image: uint8 (N, H, W, C), or float32 (N, C, T) where the input is a signal.
        score: float32 (N,).
        anomaly_map: float32 (N, h, w).
    """

    image: NDArray[Any]
    score: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk whose manifest and calibration are valid and belong together."""

    path: Path
    manifest: Manifest
    calibration: Calibration
    calibration_sha256: str = ""
    """Of calibration.json: which calibration is in force; "" while none is written."""

    @property
    def model_sha256(self) -> str:
        """SHA-256 of model.onnx, as the manifest has it."""
        return self.manifest.files[MODEL].sha256

    def read(self, name: str) -> bytes:
        """One file's bytes, compared with the manifest.

        Raises:
            BundleError: it is absent, unreadable, or not what the manifest says.
        """
        entry = self.manifest.files.get(name)
        if entry is None:
            raise BundleError(f"{self.path}: {name} is not in the manifest; export the bundle again")
        data = _read(self.path / name, entry.bytes)
        if len(data) != entry.bytes or hashlib.sha256(data).hexdigest() != entry.sha256:
            raise BundleError(
                f"{self.path}: {name} is damaged or was changed: its SHA-256 is not the manifest's; "
                "copy the bundle again, or export it again"
            )
        return data

    def golden(self) -> Golden:
        """The golden pictures; nothing is unpickled, and what they unpack to is bounded."""
        data, spec = self.read(GOLDEN), self.manifest.input
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(item.file_size for item in archive.infolist()) > _MAX_GOLDEN_BYTES:
                    raise ValueError(f"it unpacks to more than {_MAX_GOLDEN_BYTES} bytes")
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                golden = Golden(arrays[spec.kind], arrays["score"], arrays["anomaly_map"])
            n = len(golden.score)
            if golden.image.shape != (n, *spec.shape) or golden.image.dtype != spec.dtype or n < 1:
                raise ValueError("its inputs do not fit the manifest's")
            if golden.score.shape != (n,) or golden.anomaly_map.ndim != 3 or len(golden.anomaly_map) != n:
                raise ValueError("its outputs do not fit the manifest's")
            if golden.score.dtype != np.float32 or golden.anomaly_map.dtype != np.float32:
                raise ValueError("its outputs are not float32")
        except Exception as error:  # on hostile bytes zipfile and numpy raise nearly every type there is
            raise BundleError(f"{self.path}: {GOLDEN} cannot be used: {error}; export the bundle again") from error
        return golden


def load(path: Path) -> Bundle:
    """Reads and checks manifest.json and calibration.json; other files are checked when they are read.

    Raises:
        BundleError: something is missing, invalid, or does not belong together.
    """
    _check_folder(path)
    manifest = _parse(path, MANIFEST, Manifest, _read(path / MANIFEST, _MAX_JSON_BYTES))
    for name in manifest.files:
        if (
            name != os.path.basename(name)
            or name in {"", ".", "..", MANIFEST, CALIBRATION, PREVIOUS}
            or {"\\", "\0"} & {*name}
        ):
            raise BundleError(f"{path}: {MANIFEST}: files: {name!r} is not a plain file name")
    if MODEL not in manifest.files or GOLDEN not in manifest.files:
        raise BundleError(f"{path}: {MANIFEST}: files: {MODEL} and {GOLDEN} must be listed; export the bundle again")
    for name in ("score", "anomaly_map"):
        if name not in manifest.outputs:
            raise BundleError(f"{path}: {MANIFEST}: outputs: {name} is missing; export the bundle again")
    if manifest.kind == "denoiser" and "reconstruction" not in manifest.outputs:
        raise BundleError(f"{path}: {MANIFEST}: outputs: a denoiser has a reconstruction; export the bundle again")
    data = _read(path / CALIBRATION, _MAX_JSON_BYTES)
    calibration = _parse(path, CALIBRATION, Calibration, data)
    bundle = Bundle(path, manifest, calibration, hashlib.sha256(data).hexdigest())
    if calibration.model_sha256 != bundle.model_sha256:
        raise BundleError(
            f"{path}: {CALIBRATION} is of another {MODEL}; copy the bundle's own back, or export the bundle again"
        )
    if calibration.n != len(calibration.scores):
        raise BundleError(f"{path}: {CALIBRATION}: n is {calibration.n}, scores are {len(calibration.scores)}")
    return bundle


def check_absent(out: Path) -> None:
    """Refuses a folder that exists, before any work is done.

    Raises:
        BundleError: it exists, or nothing can be there.
    """
    try:
        is_there = out.exists() or out.is_symlink()
    except OSError as error:
        raise BundleError(f"{str(out)[:_SHOWN]}: cannot be written: {error.strerror}; choose another --out") from error
    if is_there:
        raise BundleError(f"{out}: exists already; remove it or choose another --out")


@contextmanager
def writing(out: Path) -> Iterator[Path]:
    """A folder beside `out` to fill; it becomes `out` when the block ends well and vanishes when it does not.

    Where it cannot become `out`, because something else did meanwhile, it stays under the name that the error tells.

    Raises:
        BundleError: `out` exists already, or its parent cannot be written.
    """
    check_absent(out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    except OSError as error:
        raise BundleError(f"{out}: cannot be written: {error.strerror}") from error
    try:
        yield temporary
        temporary.chmod(0o755)
        for item in temporary.rglob("*"):
            sync(item)
        sync(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        temporary.rename(out)
    except OSError as error:
        raise BundleError(
            f"{out}: cannot take its place: {error.strerror}; all that was made is in {temporary}: give it another name"
        ) from error
    sync(out.parent)


def describe(directory: Path, manifest: Mapping[str, Any]) -> Manifest:
    """The manifest of a filled folder, with `files` as they are there; `seal` writes it.

    Args:
        directory: holds every file of the bundle but the manifest.
        manifest: the manifest's keys, `schema_version` and `files` left out.
    """
    files = {
        item.name: {"sha256": hashlib.sha256(item.read_bytes()).hexdigest(), "bytes": item.stat().st_size}
        for item in sorted(directory.iterdir())
        if item.name not in {MANIFEST, CALIBRATION, PREVIOUS}
    }
    return Manifest.model_validate({**manifest, "schema_version": SCHEMA_VERSION, "files": files})


def seal(directory: Path, manifest: Mapping[str, Any]) -> Manifest:
    """Writes manifest.json, as `describe` gives it, into a filled folder."""
    whole = describe(directory, manifest)
    keys = whole.model_dump(mode="json")
    # What is optional and not there is left out, as in bundles from before there was such a key.
    for table, optional in ((keys, ("mask",)), (keys["input"], ("roi", "source", "aspects", "areas"))):
        for key in optional:
            if table.get(key, 0) is None:
                del table[key]
    text = json.dumps(keys, indent=2, ensure_ascii=True)
    (directory / MANIFEST).write_text(text + "\n", encoding="ascii")
    return whole


def write_calibration(directory: Path, calibration: Calibration) -> None:
    """Replaces calibration.json, whole or as it was, whatever happens in between; the one that it replaces is kept."""
    # What is as in bundles from before there was anything else is not written.
    usual = {"method": "split", "confirmed": 0, "groups": 0}
    left_out = {key for key, value in usual.items() if getattr(calibration, key) == value}
    text = json.dumps(calibration.model_dump(mode="json", exclude=left_out), indent=1) + "\n"
    _replace_calibration(directory, text.encode("ascii"))


def restore_calibration(bundle: Bundle) -> Calibration:
    """Puts the previous calibration of a bundle in force again, and keeps the present one in its place.

    Raises:
        BundleError: there is none, or it is damaged or of another model.
    """
    if not os.path.exists(bundle.path / PREVIOUS):
        raise BundleError(f"{bundle.path}: there is no previous calibration; give --good DIR, which makes a new one")
    data = _read(bundle.path / PREVIOUS, _MAX_JSON_BYTES)
    previous = _parse(bundle.path, PREVIOUS, Calibration, data)
    if previous.model_sha256 != bundle.model_sha256 or previous.n != len(previous.scores):
        raise BundleError(f"{bundle.path}: {PREVIOUS} does not belong to this {MODEL}; calibrate again")
    _replace_calibration(bundle.path, data)
    return previous


def _replace_calibration(directory: Path, data: bytes) -> None:
    try:
        if (directory / CALIBRATION).exists():
            write_durably(directory / PREVIOUS, read_regular(directory / CALIBRATION, _MAX_JSON_BYTES))
        write_durably(directory / CALIBRATION, data)
    except OSError as error:
        raise BundleError(f"{directory}: {CALIBRATION} cannot be written: {error.strerror}") from error


def _check_folder(path: Path) -> None:
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        is_folder = False
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}; check the path and its permissions") from error
    if not is_folder:
        raise BundleError(f"{path}: there is no bundle (a folder that `python -m export` wrote)")
    if not os.access(path, os.X_OK):
        raise BundleError(f"{path}: cannot be read by this user; change its owner or mode")
    if not os.path.exists(path / MANIFEST):
        raise BundleError(f"{path} is no bundle: it holds no {MANIFEST}; give the folder that `python -m export` wrote")


def _parse(path: Path, name: str, schema: type[ModelT], data: bytes) -> ModelT:
    try:
        return schema.model_validate_json(data)
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(str(part) for part in item['loc']) or 'the file'}: {item['msg']}" for item in error.errors()[:5]
        )
        raise BundleError(f"{path}: {name}: {problems}; export the bundle again, or update edged") from error


def _read(path: Path, limit: int) -> bytes:
    try:
        data = read_regular(path, limit)
    except OSError as error:
        raise BundleError(f"{path.parent}: {path.name} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise BundleError(f"{path.parent}: {path.name} is larger than {limit} bytes; export the bundle again")
    return data

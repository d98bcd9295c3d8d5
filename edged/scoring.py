"""Scoring files once, without a daemon: `edged score`, `edged calibrate`, `edged inspect`."""

import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edged.errors import BundleError, ConfigError, PictureError
from edged.files import open_regular
from edged.media import overlays
from edged.media.decoding import DecoderPool, Outcome
from edged.media.imaging import Limits, find_pictures
from edged.models import bundle as bundles
from edged.models.bundle import Calibration
from edged.models.calibration import Threshold, conformal_threshold
from edged.models.detector import Detector
from edged.models.runtime import Device, usable_cpus
from edged.results import Frame, Record, Result, make_record, new_id, printable

SOURCE: Final = "score"
"""The `source` of records that no daemon made."""

_BATCH: Final = 4
_MAX_NAME: Final = 255
_SHOWN: Final = 300
_AHEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to score, and its name relative to what the user named."""

    path: Path
    relative: Path


def load(
    bundle: Path,
    device: Device,
    *,
    target_fpr: float | None = None,
    threshold: float | None = None,
    denoiser: Path | None = None,
) -> Detector:
    """Loads a bundle for one command; says on standard error when it does not run on what could be expected."""
    detector = Detector.load(bundle, device=device, target_fpr=target_fpr, threshold=threshold)
    if detector.session.fell_back:
        print(f"edged: {printable(detector.session.fell_back)}", file=sys.stderr)  # noqa: T201
    return detector.with_denoiser(None if denoiser is None else Detector.load(denoiser, device=device))


def find(paths: Sequence[Path], patterns: Sequence[str]) -> list[Picture]:
    """The files that the arguments name: files as they are, folders searched for names that match `patterns`.

    Raises:
        ConfigError: a path is not there, or a folder holds no pictures.
    """
    problems, pictures = [], []
    for path in paths:
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            problems.append(f"{printable(str(path))}: there is no such file or folder")
            continue
        except OSError as error:
            problems.append(f"{printable(str(path))[:_SHOWN]}: cannot be read: {error.strerror}")
            continue
        found = [
            Picture(item, item.relative_to(path) if path.is_dir() else Path(item.name))
            for item in find_pictures(path, patterns)
        ]
        if not found:
            problems.append(f"{printable(str(path))}: holds nothing to score ({', '.join(patterns)})")
        pictures += found
    if problems:
        raise ConfigError(problems)
    return pictures


def score(
    detector: Detector,
    pictures: Sequence[Picture],
    *,
    heatmaps: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[Record]:
    """One record a picture, in their order.

    Args:
        detector: what scores.
        pictures: what to score.
        heatmaps: a folder for overlays.
        limits: what is refused.
    """
    if heatmaps is not None:
        _check_outputs(pictures, heatmaps)
    for batch in _decoded(detector, pictures, limits):
        yield from _score_batch(detector, batch, heatmaps)


def denoise(
    denoiser: Detector,
    pictures: Sequence[Picture],
    out: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[tuple[Picture, PictureError | None]]:
    """Writes the cleaned pictures as PNG below `out`; gives each picture, with its error where it had one.

    Raises:
        BundleError: the model gives no pictures.
        ConfigError: `out` cannot be written.
    """
    taken = denoiser.bundle.manifest.input
    if taken.kind != "image":
        raise BundleError(f"{denoiser.bundle.path} takes {taken.plural}, and only pictures can be cleaned")
    _check_outputs(pictures, out)
    for batch in _decoded(denoiser, pictures, limits):
        images = [outcome.decoded.pixels for _, outcome in batch if outcome.decoded is not None]
        cleaned = iter(denoiser.reconstruct(np.stack(images)) if images else ())
        for picture, outcome in batch:
            if outcome.decoded is not None:
                pixels: NDArray[np.uint8] = next(cleaned)
                save(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), out / picture.relative)
            yield picture, outcome.error


def read(detector: Detector, path: Path) -> NDArray[np.uint8]:
    """One picture at the model's size: uint8 (H, W, C).

    Raises:
        ConfigError: it cannot be read or decoded.
    """
    with DecoderPool(1, Limits()) as pool:
        outcome = _decode(pool, path, detector)
    if outcome.decoded is None:
        raise ConfigError([f"{printable(str(path))}: {outcome.error}"])
    return outcome.decoded.pixels


def _check_outputs(pictures: Sequence[Picture], out: Path) -> None:
    """Refuses to write over what is read."""
    inputs = {os.path.realpath(picture.path) for picture in pictures}
    targets: set[str] = set()
    for picture in pictures:
        target = _as_png(out / picture.relative)
        real = os.path.realpath(target)
        if real in targets:
            raise ConfigError(
                [f"{printable(str(target))} would be written for two pictures; score their folders one by one"]
            )
        targets.add(real)
        if real in inputs:
            raise ConfigError([f"{printable(str(target))} is one of the pictures; choose another folder than {out}"])


def _decoded(
    detector: Detector, pictures: Sequence[Picture], limits: Limits
) -> Iterator[Sequence[tuple[Picture, Outcome]]]:
    """Small batches in the order of `pictures`, decoded ahead in other processes; shows progress on a terminal."""
    cpus = usable_cpus()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        # A bar only where it disturbs nothing: not when both streams are the same terminal.
        disable=not sys.stderr.isatty() or sys.stdout.isatty(),
    )
    with DecoderPool(cpus, limits) as pool, ThreadPoolExecutor(cpus) as executor, progress:
        task = progress.add_task("pictures", total=len(pictures))
        waiting: deque[tuple[Picture, Future[Outcome]]] = deque()
        for start in range(0, len(pictures) + _AHEAD, _BATCH):
            waiting.extend(
                (picture, executor.submit(_decode, pool, picture.path, detector))
                for picture in pictures[start : start + _BATCH]
            )
            if start >= _AHEAD and waiting:
                ready = [waiting.popleft() for _ in range(min(_BATCH, len(waiting)))]
                yield [(picture, future.result()) for picture, future in ready]
                progress.advance(task, len(ready))


def fitted_on(detector: Detector, records: Iterable[Record]) -> int:
    """How many of these records are of files that the model, or its denoiser, was fitted on: they score too low."""
    models = (detector, detector.denoiser) if detector.denoiser else (detector,)
    fitted = {mark for model in models for mark in model.bundle.manifest.fitted}
    return sum(record.sha256 is not None and bundles.mark_of(record.sha256) in fitted for record in records)


def calibrate(detector: Detector, records: Sequence[Record], target_fpr: float | None) -> tuple[Threshold, int]:
    """Replaces a bundle's calibration with the scores of these records.

    Returns:
        The new threshold, and how many records repeat a file that was counted already.

    Raises:
        ConfigError: no picture could be scored.
        BundleError: the bundle cannot be written.
    """
    scores = {record.sha256: record.score for record in records if record.score is not None}
    if not scores:
        raise ConfigError(["--good: none of the pictures could be scored; the calibration is as it was"])
    if min(scores.values(), default=0.0) <= 0:
        raise ConfigError(
            [f"{detector.bundle.path} gives scores that are not above 0; the calibration is as it was. Export it again"]
        )
    rate = detector.bundle.calibration.target_fpr if target_fpr is None else target_fpr
    ordered = sorted(scores.values())
    bundles.write_calibration(
        detector.bundle.path,
        Calibration(
            model_sha256=detector.bundle.model_sha256,
            created=datetime.now(UTC),
            target_fpr=rate,
            n=len(ordered),
            scores=ordered,
        ),
    )
    scored = sum(record.score is not None for record in records)
    return conformal_threshold(ordered, rate), scored - len(ordered)


def _decode(pool: DecoderPool, path: Path, detector: Detector) -> Outcome:
    try:
        with open_regular(path) as file:
            return pool.decode(file, detector.bundle.manifest.input)
    except OSError as error:
        return Outcome(None, None, PictureError("unreadable", error.strerror or str(error)), 0.0)


def _score_batch(
    detector: Detector, batch: Sequence[tuple[Picture, Outcome]], heatmaps: Path | None
) -> Iterator[Record]:
    frames = [
        Frame(SOURCE, new_id(), _captured_at(picture.path), outcome.decoded.pixels)
        for picture, outcome in batch
        if outcome.decoded is not None
    ]
    results = iter(zip(frames, detector.detect(frames) if frames else [], strict=True))
    for picture, outcome in batch:
        result: Result | PictureError | None = outcome.error
        id_ = new_id()
        if outcome.decoded is not None:
            frame, result = next(results)
            id_ = frame.frame_id
            if heatmaps is not None and isinstance(result, Result):
                _draw(frame, result, heatmaps / picture.relative)
        assert result is not None
        yield make_record(
            result,
            id_=id_,
            source=SOURCE,
            path=str(picture.path.absolute()),
            sha256=outcome.sha256,
            captured_at=_captured_at(picture.path),
            model=detector.identity,
            decode_seconds=outcome.seconds,
        )


def _draw(frame: Frame, result: Result, wanted: Path) -> None:
    save(overlays.draw(frame, result), wanted)


def save(image: Image.Image, wanted: Path) -> Path:
    """Writes a picture as PNG, whole or not at all; its name gets the ending if it has another.

    Returns:
        Where it is.

    Raises:
        ConfigError: it cannot be written.
    """
    if not wanted.name:
        raise ConfigError([f"{wanted} is no name of a file; give one that ends in .png"])
    named = _as_png(wanted)
    partial = named.with_name(f".{os.getpid()}.part")
    try:
        named.parent.mkdir(parents=True, exist_ok=True)
        try:
            image.save(partial, "PNG")
            partial.replace(named)  # a link is replaced, not followed
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigError(
            [f"{printable(str(named))} cannot be written: {error.strerror or error}; choose another folder"]
        ) from error
    return named


def _as_png(wanted: Path) -> Path:
    """The name with the ending; cut where it would be longer than names may be."""
    if wanted.suffix.lower() == ".png":
        return wanted
    stem = os.fsencode(wanted.name)[: _MAX_NAME - len(b".png")]
    return wanted.with_name(os.fsdecode(stem) + ".png")


def _captured_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

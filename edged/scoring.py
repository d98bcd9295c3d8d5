"""Scoring files once, without a daemon: `edged score`, `edged calibrate`, `edged inspect`."""

import os
import stat
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edged import bundle as bundles
from edged import overlays
from edged.bundle import Calibration
from edged.calibration import Threshold, conformal_threshold
from edged.decoding import DecoderPool, Outcome
from edged.detector import DEFAULT_TARGET_FPR, Detector
from edged.errors import ConfigError, PictureError
from edged.imaging import Limits, find_pictures
from edged.results import Frame, Record, Result, make_record, new_id, printable
from edged.runtime import Device, usable_cpus

SOURCE: Final = "score"
"""The `source` of records that no daemon made."""

_BATCH: Final = 4
_AHEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Picture:
    """A file to score, and its name relative to what the user named."""

    path: Path
    relative: Path


def load(bundle: Path, device: Device, *, target_fpr: float | None = None, threshold: float | None = None) -> Detector:
    """Loads a bundle for one command, and says on standard error what a person should know of it."""
    detector = Detector.load(bundle, device=device, target_fpr=target_fpr, threshold=threshold)
    for warning in (detector.session.fell_back, detector.threshold.shortfall):
        if warning:
            print(f"edged: {printable(warning)}", file=sys.stderr)  # noqa: T201
    return detector


def find(paths: Sequence[Path]) -> list[Picture]:
    """The pictures that the arguments name: files as they are, folders searched.

    Raises:
        ConfigError: a path is not there, or a folder holds no pictures.
    """
    problems, pictures = [], []
    for path in paths:
        if not path.exists():
            problems.append(f"{printable(str(path))}: there is no such file or folder")
            continue
        found = [
            Picture(item, item.relative_to(path) if path.is_dir() else Path(item.name)) for item in find_pictures(path)
        ]
        if not found:
            problems.append(f"{printable(str(path))}: holds no pictures (png, jpg, tif, bmp, webp)")
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
    """One record a picture, in their order; decodes ahead in other processes, shows progress on a terminal.

    Args:
        detector: what scores.
        pictures: what to score.
        heatmaps: a folder for overlays.
        limits: what is refused.
    """
    cpus = usable_cpus()
    progress = Progress(
        TextColumn("scoring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=Console(stderr=True)
    )
    # A bar only where it disturbs nothing: not when both streams are the same terminal.
    shown = sys.stderr.isatty() and not sys.stdout.isatty()
    with DecoderPool(cpus, limits) as pool, ThreadPoolExecutor(cpus) as executor:
        waiting: deque[tuple[Picture, Future[Outcome]]] = deque()
        batch: list[tuple[Picture, Outcome]] = []
        task = progress.add_task("scoring", total=len(pictures))
        if shown:
            progress.start()
        try:
            for index in range(len(pictures) + _AHEAD):
                if index < len(pictures):
                    picture = pictures[index]
                    waiting.append((picture, executor.submit(_decode, pool, picture.path, detector)))
                if index >= _AHEAD and waiting:
                    done, future = waiting.popleft()
                    batch.append((done, future.result()))
                if len(batch) == _BATCH or (batch and not waiting):
                    yield from _score_batch(detector, batch, heatmaps)
                    progress.advance(task, len(batch))
                    batch.clear()
        finally:
            progress.stop()


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
    rate = DEFAULT_TARGET_FPR if target_fpr is None else target_fpr
    ordered = sorted(score for score in scores.values() if score is not None)
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
        # A FIFO would keep an ordinary open waiting for a writer.
        with open(
            os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb", 0
        ) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return Outcome(None, None, PictureError("unreadable", "not a regular file"), 0.0)
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
    named = wanted if wanted.suffix.lower() == ".png" else wanted.with_name(wanted.name + ".png")
    try:
        named.parent.mkdir(parents=True, exist_ok=True)
        overlays.render(frame.pixels, result.anomaly_map).save(named, "PNG")
    except OSError as error:
        raise ConfigError([f"--heatmaps: {named} cannot be written: {error.strerror}"]) from error


def _captured_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0

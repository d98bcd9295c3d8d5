"""Scoring without a daemon: items in, records out. The command line adds progress and printing around it."""

import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edged.errors import BundleError, ConfigError, PictureError
from edged.files import open_regular
from edged.media import imaging, overlays
from edged.media.decoding import DecoderPool, Outcome
from edged.media.frames import Taken
from edged.media.imaging import ImageInput, Limits, find_pictures
from edged.models.manifest import mark_of
from edged.models.runtime import worker_count
from edged.models.scorer import Scorer
from edged.results import Frame, Record, Result, make_record, new_id, printable

SOURCE: Final = "score"
"""The `source` of records that no daemon made."""

_MAX_NAME: Final = 255
_SHOWN: Final = 300
_AHEAD: Final = 4
"""Items a CPU that are read ahead."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Item:
    """A file to score, and its name relative to what the user named."""

    path: Path
    relative: Path


def find(paths: Sequence[Path], patterns: Sequence[str]) -> list[Item]:
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
            Item(item, item.relative_to(path) if path.is_dir() else Path(item.name))
            for item in find_pictures(path, patterns)
        ]
        if not found:
            problems.append(f"{printable(str(path))}: holds nothing to score ({', '.join(patterns)})")
        pictures += found
    if problems:
        raise ConfigError(problems)
    return pictures


def score(
    scorer: Scorer,
    items: Iterable[Item],
    *,
    heatmaps: Path | None = None,
    limits: Limits = Limits(),  # noqa: B008
    tell: Callable[[Path, str], None] = lambda *_: None,
) -> Iterator[Record]:
    """One record an item, in their order; a few are read ahead, so `items` may go on without end.

    Args:
        scorer: what scores.
        items: what to score.
        heatmaps: a folder for overlays; see `check_outputs`.
        limits: what is refused.
        tell: is told of a picture of another shape or scale than those of training, and how it differs; from a thread.
    """

    def work(pool: DecoderPool, item: Item) -> Record:
        outcome, frame_id, captured_at = _decode(pool, item.path, scorer), new_id(), _captured_at(item.path)
        result: Result | PictureError
        if outcome.decoded is None:
            assert outcome.error is not None
            result = outcome.error
        else:
            if words := scorer.view.other_shape(outcome.decoded.width, outcome.decoded.height):
                tell(item.path, words)
            frame = Frame(SOURCE, frame_id, captured_at, outcome.decoded.pixels, item.path.name)
            result = scorer.score(frame)
            if heatmaps is not None and isinstance(result, Result):
                save(overlays.draw(frame, result), heatmaps / item.relative)
        return make_record(
            result,
            id_=frame_id,
            source=SOURCE,
            path=str(item.path.absolute()),
            sha256=outcome.sha256,
            captured_at=captured_at,
            model=scorer.identity,
            decode_seconds=outcome.seconds,
        )

    return _ahead(work, items, limits)


def score_frames(
    scorer: Scorer, frames: Iterable[Taken], *, tell: Callable[[Path, str], None] = lambda *_: None
) -> Iterator[tuple[Record, str]]:
    """One record a frame of a video, as of the file that training makes of it, and the name of its group.

    Args:
        scorer: of a model that takes pictures.
        frames: of good stretches.
        tell: as for `score`.
    """
    spec = scorer.view.input
    assert isinstance(spec, ImageInput)
    for taken in frames:
        if words := scorer.view.other_shape(*taken.image.size):
            tell(taken.path, words)
        id_, pixels = new_id(), np.asarray(imaging.fit(taken.image, spec, taken.image.size), np.uint8)
        result = scorer.score(Frame(SOURCE, id_, taken.at, pixels.reshape(spec.shape), taken.path.name))
        record = make_record(
            result,
            id_=id_,
            source=SOURCE,
            path=f"{taken.path.absolute()}#t={taken.seconds:.3f}",
            sha256=hashlib.sha256(taken.png()).hexdigest(),
            captured_at=taken.at,
            model=scorer.identity,
            decode_seconds=0.0,
        )
        yield record, taken.group


def denoise(
    denoiser: Scorer,
    items: Sequence[Item],
    out: Path,
    *,
    limits: Limits = Limits(),  # noqa: B008
) -> Iterator[tuple[Item, PictureError | None]]:
    """Writes the cleaned pictures as PNG below `out`; gives each item, with its error where it had one.

    Raises:
        BundleError: the model gives no pictures.
        ConfigError: `out` cannot be written.
    """
    taken = denoiser.bundle.manifest.input
    if taken.kind != "image":
        raise BundleError(f"{denoiser.bundle.path} takes {taken.plural}, and only pictures can be cleaned")
    check_outputs(items, out)

    def work(pool: DecoderPool, item: Item) -> tuple[Item, PictureError | None]:
        outcome = _decode(pool, item.path, denoiser)
        if outcome.decoded is not None:
            pixels = denoiser.reconstruct(outcome.decoded.pixels[None])[0]
            save(Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels), out / item.relative)
        return item, outcome.error

    return _ahead(work, items, limits)


def _ahead(work: Callable[[DecoderPool, Item], _T], items: Iterable[Item], limits: Limits) -> Iterator[_T]:
    """What `work` gives for each item, in their order; as many at a time as keep the CPUs busy."""
    workers = worker_count()
    with DecoderPool(workers - 1, limits) as pool, ThreadPoolExecutor(workers) as executor:  # one is scoring
        waiting: deque[Future[_T]] = deque()
        try:
            for item in items:
                waiting.append(executor.submit(work, pool, item))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the caller has seen enough
                future.cancel()


def read(scorer: Scorer, path: Path) -> NDArray[np.uint8]:
    """One picture at the model's size: uint8 (H, W, C).

    Raises:
        ConfigError: it cannot be read or decoded.
    """
    with DecoderPool(1, Limits()) as pool:
        outcome = _decode(pool, path, scorer)
    if outcome.decoded is None:
        raise ConfigError([f"{printable(str(path))}: {outcome.error}"])
    return outcome.decoded.pixels


def check_outputs(items: Sequence[Item], out: Path) -> None:
    """Refuses to write over what is read, or two pictures to one name.

    Raises:
        ConfigError: `out` is no folder for pictures of these.
    """
    inputs = {os.path.realpath(item.path) for item in items}
    targets: set[str] = set()
    for item in items:
        target = _as_png(out / item.relative)
        real = os.path.realpath(target)
        if real in targets:
            raise ConfigError(
                [f"{printable(str(target))} would be written for two pictures; score their folders one by one"]
            )
        targets.add(real)
        if real in inputs:
            raise ConfigError([f"{printable(str(target))} is one of the pictures; choose another folder than {out}"])


def knower(scorer: Scorer) -> Callable[[Record], bool]:
    """Tells whether a record is of a file that the model, or its denoiser, was fitted on: those score too low."""
    models = (scorer, scorer.denoiser) if scorer.denoiser else (scorer,)
    fitted = {mark for model in models for mark in model.bundle.manifest.fitted}
    return lambda record: record.sha256 is not None and mark_of(record.sha256) in fitted


def _decode(pool: DecoderPool, path: Path, scorer: Scorer) -> Outcome:
    try:
        with open_regular(path) as file:
            return pool.decode(file, scorer.view.input)
    except OSError as error:
        return Outcome(None, None, PictureError("unreadable", error.strerror or str(error)), 0.0)


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
    partial = named.with_name(f".{os.getpid()}-{threading.get_ident()}.part")
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

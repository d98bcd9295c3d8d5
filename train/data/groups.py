"""Pictures that belong together, such as frames of one stretch of a video, and so leave together.

A near-copy of a picture among those that it is judged by makes its score too low, and a threshold of such scores a lie.
"""

import csv
import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from train.data.pictures import Picture, PictureSet
from train.errors import TrainError

SEQUENCE: Final = (
    "sequence: neighbours in the good folder are far more alike than others, as frames of a video are. Near-copies "
    "make the threshold too low: name what belongs together, such as --groups time:60 or --groups folder"
)
"""The warning where `looks_like_a_sequence`."""

_FOLDER: Final = "folder"
_TIME: Final = "time:"
_EXIF, _TAKEN, _CHANGED, _FORMAT = 0x8769, 0x9003, 0x0132, "%Y:%m:%d %H:%M:%S"
_SHOWN: Final = 5
_ALIKE: Final = 0.3
"""Neighbours this much nearer than others, by the median, are taken for a sequence: frames of a fixed camera have 0.01
to 0.25, solar cells, whose neighbours are of one module, 0.37 to 0.6."""

_SIDE: Final = 32  # values a side that pictures are compared by
_COMPARED: Final = 500


def members_of_groups(pictures: Sequence[Picture]) -> list[NDArray[np.int64]]:
    """Which pictures, by their index, stand in each group: one array a group."""
    groups: dict[str, list[int]] = {}
    for index, picture in enumerate(pictures):
        groups.setdefault(picture.group or f"/{index}", []).append(index)
    return [np.array(members, dtype=np.int64) for members in groups.values()]


def check(rule: str) -> None:
    """Refuses a rule that no pictures could follow, before they are read.

    Raises:
        TrainError: it is none of those of `grouped`.
    """
    if rule.startswith(_TIME):
        _seconds(rule)
    elif rule != _FOLDER:
        _rows(Path(rule))


def grouped(found: PictureSet, rule: str, folder: Path, *, alone: bool = True) -> PictureSet:
    """The pictures with the names of their groups.

    Args:
        found: good pictures.
        rule: "folder", the one that a picture lies in; "time:SECONDS", stretches of so long; or a CSV file, a line a
            picture: its path, as it stands below `folder`, and the name of its group.
        folder: of the good pictures.
        alone: whether they have only each other to be compared with, so that one group is too few.

    Raises:
        TrainError: the rule cannot be followed, or leaves all pictures in one group.
    """
    if rule == _FOLDER:
        names = [str(Path(picture.path).parent) for picture in found.pictures]
    elif rule.startswith(_TIME):
        names = _by_time(found.pictures, _seconds(rule))
    else:
        names = _by_file(found.pictures, Path(rule), folder)
    if alone and len(set(names)) < 2:
        copied = (
            ". Without EXIF data a picture is as old as its file; `cp -p` keeps that" if rule.startswith(_TIME) else ""
        )
        raise TrainError(
            f"--groups {rule}: all {len(names)} pictures are in one group, and none would be left to compare it with; "
            f"group them more finely{copied}"
        )
    pictures = tuple(replace(picture, group=name) for picture, name in zip(found.pictures, names, strict=True))
    return replace(found, pictures=pictures)


def looks_like_a_sequence(found: PictureSet) -> bool:
    """Whether neighbours, in the order of their paths or of time, are far more alike than others are."""
    if len(found.pictures) < 3 * _SHOWN or found.pixels.ndim != 4:
        return False
    by_time = sorted(found.pictures, key=lambda picture: _taken(Path(picture.path)))
    return any(_neighbours_alike(found.pixels, pictures) for pictures in (found.pictures, by_time))


def _neighbours_alike(pixels: NDArray[np.uint8], pictures: Sequence[Picture]) -> bool:
    first = np.arange(0, len(pictures) - 1, max(1, len(pictures) // _COMPARED))
    small = {i: shrunk(pixels[pictures[i].row]) for i in {*first.tolist(), *(first + 1).tolist()}}
    near = [np.abs(small[i] - small[i + 1]).mean() for i in first.tolist()]
    others = np.random.default_rng(0).permutation(first).tolist()
    far = [np.abs(small[a] - small[b]).mean() for a, b in zip(first.tolist(), others, strict=True) if abs(a - b) > 1]
    return bool(far) and float(np.median(near)) < _ALIKE * float(np.median(far))


def shrunk(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """A picture, uint8 (H, W, C), as the means of blocks, about `_SIDE` a side: what pictures are compared by."""
    down, across = (max(1, side // _SIDE) for side in pixels.shape[:2])
    height, width = pixels.shape[0] // down * down, pixels.shape[1] // across * across
    blocks = pixels[:height, :width].reshape(height // down, down, width // across, across, -1)
    means: NDArray[np.float64] = blocks.mean(axis=(1, 3))
    return means


def _seconds(rule: str) -> float:
    try:
        seconds = float(rule.removeprefix(_TIME))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise TrainError(f"--groups {rule}: write a number of seconds above 0, such as time:60")
    return seconds


def _by_time(pictures: Sequence[Picture], seconds: float) -> list[str]:
    """Stretches of so many seconds, each begun, and named, by the first picture that the last one does not hold."""
    times = [_taken(Path(picture.path)) for picture in pictures]
    names, begun = [""] * len(times), -float("inf")
    for index in sorted(range(len(times)), key=times.__getitem__):
        if times[index] - begun >= seconds:
            begun = times[index]
        # Later pictures (`--update`) are of other stretches, and must not share their names.
        names[index] = f"stretch of {datetime.fromtimestamp(begun, UTC):%Y-%m-%d %H:%M:%S.%f}"
    return names


def _taken(path: Path) -> float:
    """When a picture was taken, by its EXIF data; else when its file was last written: seconds."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            text = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_CHANGED)
        return datetime.strptime(str(text), _FORMAT).replace(tzinfo=UTC).timestamp()
    except (OSError, ValueError, SyntaxError):
        return path.stat().st_mtime


def _rows(file: Path) -> list[list[str]]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise TrainError(
            f"--groups {file}: is none of folder, time:SECONDS and a file that can be read: "
            f"{getattr(error, 'strerror', None) or error}"
        ) from error
    if any(len(row) != 2 or not row[1].strip() for row in rows):
        raise TrainError(f"--groups {file}: every line must be PATH,GROUP")
    return rows


def _by_file(pictures: Sequence[Picture], file: Path, folder: Path) -> list[str]:
    by_path = {os.path.realpath(folder / path.strip()): group.strip() for path, group in _rows(file)}
    names = [by_path.get(os.path.realpath(picture.path)) for picture in pictures]
    if absent := [picture.path for picture, name in zip(pictures, names, strict=True) if name is None]:
        shown = "; ".join(absent[:_SHOWN])
        raise TrainError(f"--groups {file}: names no group of {len(absent)} of {len(pictures)} pictures: {shown}")
    return [name for name in names if name is not None]

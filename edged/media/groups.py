"""Which files belong together, such as those of a burst or of a batch: by folder, by time, or by a list."""

import csv
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from PIL import Image

from edged.errors import ConfigError

_FOLDER: Final = "folder"
_TIME: Final = "time:"
_EXIF, _TAKEN, _CHANGED, _FORMAT = 0x8769, 0x9003, 0x0132, "%Y:%m:%d %H:%M:%S"
_SHOWN: Final = 5


def check(rule: str) -> None:
    """Refuses a rule that no files could follow, before they are read.

    Raises:
        ConfigError: it is none of those of `names_of`.
    """
    if rule.startswith(_TIME):
        _seconds(rule)
    elif rule != _FOLDER:
        _rows(Path(rule))


def names_of(paths: Sequence[str], rule: str, folder: Path, *, alone: bool = True) -> list[str]:
    """The name of the group of each file.

    Args:
        paths: absolute.
        rule: "folder", the one that a file lies in; "time:SECONDS", stretches of so long; or a CSV file, a line a
            file: its path, as it stands below `folder`, and the name of its group.
        folder: that they were found in.
        alone: whether they have only each other to be compared with, so that one group is too few.

    Raises:
        ConfigError: the rule cannot be followed, or leaves all files in one group.
    """
    if rule == _FOLDER:
        names = [str(Path(path).parent) for path in paths]
    elif rule.startswith(_TIME):
        names = _by_time([Path(path) for path in paths], _seconds(rule))
    else:
        names = _by_file(paths, Path(rule), folder)
    if alone and len(set(names)) < 2:
        copied = ". Without EXIF data a file is as old as it says; `cp -p` keeps that" if rule.startswith(_TIME) else ""
        raise ConfigError(
            [
                f"--groups {rule}: all {len(names)} pictures are in one group, and none would be left to compare it "
                f"with; group them more finely{copied}"
            ]
        )
    return names


def taken_at(path: Path) -> float:
    """When a picture was taken, by its EXIF data; else when its file was last written: seconds."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            text = exif.get_ifd(_EXIF).get(_TAKEN) or exif.get(_CHANGED)
        return datetime.strptime(str(text), _FORMAT).replace(tzinfo=UTC).timestamp()
    except (OSError, ValueError, SyntaxError):
        return path.stat().st_mtime


def _seconds(rule: str) -> float:
    try:
        seconds = float(rule.removeprefix(_TIME))
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError([f"--groups {rule}: write a number of seconds above 0, such as time:60"])
    return seconds


def _by_time(paths: Sequence[Path], seconds: float) -> list[str]:
    """Stretches of so many seconds, each begun, and named, by the first file that the last one does not hold."""
    times = [taken_at(path) for path in paths]
    names, begun = [""] * len(times), -float("inf")
    for index in sorted(range(len(times)), key=times.__getitem__):
        if times[index] - begun >= seconds:
            begun = times[index]
        # Later pictures (`--update`) are of other stretches, and must not share their names.
        names[index] = f"stretch of {datetime.fromtimestamp(begun, UTC):%Y-%m-%d %H:%M:%S.%f}"
    return names


def _rows(file: Path) -> list[list[str]]:
    try:
        with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            [
                f"--groups {file}: is none of folder, time:SECONDS and a file that can be read: "
                f"{getattr(error, 'strerror', None) or error}"
            ]
        ) from error
    if any(len(row) != 2 or not row[1].strip() for row in rows):
        raise ConfigError([f"--groups {file}: every line must be PATH,GROUP"])
    return rows


def _by_file(paths: Sequence[str], file: Path, folder: Path) -> list[str]:
    by_path = {os.path.realpath(folder / path.strip()): group.strip() for path, group in _rows(file)}
    names = [by_path.get(os.path.realpath(path)) for path in paths]
    if absent := [path for path, name in zip(paths, names, strict=True) if name is None]:
        shown = "; ".join(absent[:_SHOWN])
        raise ConfigError([f"--groups {file}: names no group of {len(absent)} of {len(paths)} pictures: {shown}"])
    return [name for name in names if name is not None]

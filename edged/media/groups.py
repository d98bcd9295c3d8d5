"""Which files belong together, such as those of a burst or of a batch: by folder, by time, or by a list."""

import csv
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


def names_of(paths: Sequence[str], rule: str, folder: Path) -> list[str]:
    """The name of the group of each file.

    Args:
        paths: absolute.
        rule: "folder", the one that a file lies in; "time:SECONDS", stretches of so long; or a CSV file, a line a
            file: its path, as it stands below `folder`, and the name of its group.
        folder: that they were found in.

    Raises:
        ConfigError: the rule cannot be followed, or leaves all files in one group.
    """
    if rule == _FOLDER:
        names = [str(Path(path).parent) for path in paths]
    elif rule.startswith(_TIME):
        names = _by_time([Path(path) for path in paths], rule.removeprefix(_TIME))
    else:
        names = _by_file(paths, Path(rule), folder)
    if len(set(names)) < 2:
        raise ConfigError(
            [
                f"--groups {rule}: all {len(names)} pictures are in one group, and none would be left to compare it "
                "with; group them more finely"
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


def _by_time(paths: Sequence[Path], text: str) -> list[str]:
    """Stretches of so many seconds, each begun by the first file that the last one does not hold."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise ConfigError([f"--groups time:{text}: write a number of seconds above 0, such as time:60"])
    times = [taken_at(path) for path in paths]
    names, begun, stretch = [""] * len(times), -float("inf"), -1
    for index in sorted(range(len(times)), key=times.__getitem__):
        if times[index] - begun >= seconds:
            begun, stretch = times[index], stretch + 1
        names[index] = f"stretch {stretch}"
    return names


def _by_file(paths: Sequence[str], file: Path, folder: Path) -> list[str]:
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(
            [f"--groups {file}: is none of folder, time:SECONDS and a file that can be read: {error}"]
        ) from error
    if any(len(row) != 2 or not row[1].strip() for row in rows):
        raise ConfigError([f"--groups {file}: every line must be PATH,GROUP"])
    by_path = {str((folder / path.strip()).absolute()): group.strip() for path, group in rows}
    if absent := [path for path in paths if path not in by_path]:
        shown = "; ".join(absent[:_SHOWN])
        raise ConfigError([f"--groups {file}: names no group of {len(absent)} of {len(paths)} pictures: {shown}"])
    return [by_path[path] for path in paths]

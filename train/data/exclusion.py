"""Good pictures that a person has looked at and wants left out."""

import os
from dataclasses import replace
from pathlib import Path

from train.data.pictures import PictureSet
from train.errors import TrainError


def read_list(file: Path) -> list[str]:
    """The lines of a list of pictures to leave out; empty ones and those with # in front say nothing.

    Raises:
        TrainError: the list cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")  # names of files may be any bytes
    except OSError as error:
        raise TrainError(f"--exclude {file}: cannot be read: {error.strerror or error}") from error
    return [line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#")]


def without_excluded(found: PictureSet, file: Path, folder: Path) -> PictureSet:
    """The pictures that a list does not name, by any of the names that they have.

    Args:
        found: good pictures.
        file: a path a line, absolute, as it stands below `folder`, or as it stands from here.
        folder: of the good pictures.

    Raises:
        TrainError: the list cannot be read, or names what is not among them.
    """
    shown_by = {os.path.realpath(picture.path): picture.path for picture in found.pictures}
    shown_by |= {os.path.realpath(path): other for path, other in found.stand_ins.items() if other is not None}
    known = {*shown_by, *map(os.path.realpath, found.stand_ins)}
    named: set[str] = set()
    unknown: list[str] = []
    for line in dict.fromkeys(read_list(file)):
        paths = (os.path.realpath(folder / line), os.path.realpath(line))
        path = next((path for path in paths if path in known), None)
        if path is None:
            unknown.append(line)
        else:
            named.add(path)
    if unknown:
        raise TrainError(
            f"--exclude {file}: {len(unknown)} of its lines name no good picture below {folder}: "
            f"{'; '.join(unknown[:5])}"
        )
    left_out = {shown_by[path] for path in named if path in shown_by}
    pictures = tuple(picture for picture in found.pictures if picture.path not in left_out)
    return replace(
        found, pictures=pictures, warnings=(*found.warnings, f"excluded: {len(left_out)} left out by {file}")
    )

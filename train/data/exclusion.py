"""Good pictures that a person has looked at and wants left out."""

from dataclasses import replace
from pathlib import Path

from train.data.pictures import PictureSet
from train.errors import TrainError


def without_excluded(found: PictureSet, file: Path, folder: Path) -> PictureSet:
    """The pictures that a list does not name.

    Args:
        found: good pictures.
        file: a path a line, absolute or as it stands below `folder`; empty lines and those with # in front say nothing.
        folder: of the good pictures.

    Raises:
        TrainError: the list cannot be read, or names what is not among them.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise TrainError(f"--exclude {file}: cannot be read: {error}") from error
    named = {str((folder / line).absolute()) for line in lines if line and not line.startswith("#")}
    if unknown := sorted(named - {picture.path for picture in found.pictures}):
        raise TrainError(
            f"--exclude {file}: {len(unknown)} of {len(named)} are not among the good ones below {folder}: "
            f"{'; '.join(unknown[:5])}"
        )
    pictures = tuple(picture for picture in found.pictures if picture.path not in named)
    return replace(
        found, pictures=pictures, warnings=(*found.warnings, f"excluded: {len(named)} were left out by {file}")
    )

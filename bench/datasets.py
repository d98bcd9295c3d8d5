"""The data sets that quality is measured on: which pictures train, which test, and where their masks are."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from edged.media.imaging import find_pictures

TRAIN_SHARE: Final = 0.7


class AbsentError(Exception):
    """A data set is not there; the text says what to do."""


@dataclass(frozen=True, slots=True)
class DataSet:
    """Pictures, split.

    Attributes:
        train: good ones to train and calibrate with.
        good: good ones to test with.
        bad: defective ones to test with.
        masks: of the defective ones, where white is defective; none where the set has no masks.
    """

    train: tuple[Path, ...]
    good: tuple[Path, ...]
    bad: tuple[Path, ...]
    masks: tuple[Path, ...] = ()


def load(name: str, root: Path | None) -> DataSet:
    """A data set by name.

    Args:
        name: one of `NAMES`.
        root: where `magnetic-tile` or `folders` are.

    Raises:
        AbsentError: its pictures are not there.
    """
    return NAMES[name](root)


def few(data: DataSet, n: int, seed: int) -> DataSet:
    """The same with n pictures to train, drawn anew for each seed; all where there are no more than n."""
    chosen = np.random.RandomState(seed).permutation(len(data.train))[:n]
    return replace(data, train=tuple(data.train[index] for index in sorted(chosen)))


def elongated(data: DataSet, aspect: float, folder: Path) -> DataSet:
    """Strips of the pictures, along their longer side, through the defect where a mask says where it is.

    Args:
        data: whole pictures.
        aspect: the longer side over the shorter; pictures that are so already stay as they are.
        folder: for the strips, which have new names.
    """
    marked = data.masks or (None,) * len(data.bad)

    def strip(name: str, path: Path, mask: Path | None = None) -> Path:
        made = folder / f"{name}.png"
        with Image.open(path) as image:
            image.crop(_strip(image.size, aspect, mask)).save(made)
        return made

    return DataSet(
        tuple(strip(f"train{index:06}", path) for index, path in enumerate(data.train)),
        tuple(strip(f"good{index:06}", path) for index, path in enumerate(data.good)),
        tuple(strip(f"bad{index:06}", *pair) for index, pair in enumerate(zip(data.bad, marked, strict=True))),
        tuple(strip(f"mask{index:06}", mask, mask) for index, mask in enumerate(data.masks)),
    )


def _strip(size: tuple[int, int], aspect: float, mask: Path | None) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a strip of a picture of this width and height."""
    width, height = size
    wanted = (width, round(width / aspect)) if width >= height else (round(height / aspect), height)
    kept = min(width, wanted[0]), min(height, wanted[1])
    middle = (width / 2, height / 2)
    if mask is not None:
        with Image.open(mask) as image:
            down, across = np.nonzero(np.asarray(image.convert("L")) >= 128)
        if down.size:
            middle = (across.mean(), down.mean())
    left, top = (int(min(max(0, at - new / 2), old - new)) for at, new, old in zip(middle, kept, size, strict=True))
    return left, top, left + kept[0], top + kept[1]


def _split(good: list[Path], bad: list[Path], masks: tuple[Path, ...] = ()) -> DataSet:
    """By path, shuffled with RandomState(0), as published figures are given for."""
    good = sorted(good)
    np.random.RandomState(0).shuffle(good)  # type: ignore[arg-type]
    cut = int(TRAIN_SHARE * len(good))
    return DataSet(tuple(good[:cut]), tuple(good[cut:]), tuple(bad), masks)


def _solar(kind: str) -> DataSet:
    try:
        data = Path(str(files("elpv_dataset"))) / "data"
    except ModuleNotFoundError as error:
        raise AbsentError("the solar cells (CC BY-NC-SA 4.0) are not installed: pip install elpv-dataset") from error
    rows = [line.split() for line in (data / "labels.csv").read_text(encoding="ascii").splitlines()]
    good, bad = (
        sorted(data / path for path, probability, what in rows if what == kind and float(probability) == wanted)
        for wanted in (0.0, 1.0)
    )
    return _split(good, bad)


def _tiles(root: Path | None) -> DataSet:
    if root is None or not (root / "MT_Free").is_dir():
        raise AbsentError(
            "--root must name the folder with MT_Free, MT_Blowhole, ... of the magnetic tile set (Huang et al., 2018)"
        )
    pictures = sorted(root.rglob("*.jpg"))
    bad = [path for path in pictures if "MT_Free" not in path.parts]
    return _split(
        [path for path in pictures if "MT_Free" in path.parts], bad, tuple(p.with_suffix(".png") for p in bad)
    )


def _folders(root: Path | None) -> DataSet:
    if root is None or not all((root / part).is_dir() for part in ("good", "bad")):
        raise AbsentError(
            "--root must name a folder with good/ and bad/, and masks/ with the names of bad/ if there are masks"
        )
    bad = sorted(find_pictures(root / "bad"))
    masks = [root / "masks" / path.relative_to(root / "bad").with_suffix(".png") for path in bad]
    return _split(list(find_pictures(root / "good")), bad, tuple(masks) if all(m.is_file() for m in masks) else ())


NAMES: Final[dict[str, Callable[[Path | None], DataSet]]] = {
    "elpv-mono": lambda _: _solar("mono"),
    "elpv-poly": lambda _: _solar("poly"),
    "magnetic-tile": _tiles,
    "folders": _folders,
}

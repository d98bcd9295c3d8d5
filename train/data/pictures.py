"""A folder of pictures -> decoded pixels, without repetitions, in three parts that never share a picture.

Signals go the same way: what is said of a picture and its pixels holds of a signal and its samples.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edged.errors import PictureError
from edged.files import read_regular
from edged.media import imaging
from edged.media.imaging import Decoded, ImageInput, Limits, find_pictures
from edged.media.inputs import PATTERNS, Input, decode
from edged.models.calibration import pictures_needed
from train.data import stores
from train.errors import TrainError

Part = Literal["fit", "statistics", "copies", "calibration", "bad"]

MINIMUM: Final = 10
"""Good pictures below which nothing that is fitted would mean anything."""

_OTHER: Final = {"image": "signal", "signal": "image"}
_SHOWN: Final = 5
_THREADS: Final = 2
_AHEAD: Final = 64


@dataclass(frozen=True, slots=True)
class Picture:
    """One picture of a set.

    Attributes:
        path: absolute.
        sha256: of the file.
        content: SHA-256 of the pixels in the file, whatever the model's size; two files with the same picture share it.
        source_px: width and height in the file, px, turned as its EXIF data say; samples and channels of a signal.
        mode: Pillow's name of the pixel mode in the file; "signal" of a signal.
        row: where its pixels stand in the set's array.
        part: what it is used for; "copies" are changed ones of statistics pictures, for the last fit.
        group: pictures of one name belong together, and leave together; a picture without one stands for itself.
    """

    path: str
    sha256: str
    content: str
    source_px: tuple[int, int]
    mode: str
    row: int
    part: Part
    group: str = ""


@dataclass(frozen=True, slots=True)
class PictureSet:
    """Decoded pictures and what was found on the way.

    Attributes:
        pictures: in the order of their paths.
        pixels: uint8 (rows, H, W, C), or float32 (rows, C, T) of signals, on disk; `Picture.row` points into it.
        warnings: one line each, beginning with its name.
        stand_ins: of files that were read and are no picture of it: the path of the one that shows the same; None for
            a file that could not be read.
    """

    pictures: tuple[Picture, ...]
    pixels: NDArray[Any]
    warnings: tuple[str, ...]
    stand_ins: Mapping[str, str | None] = field(default_factory=dict)

    def part(self, part: Part) -> list[Picture]:
        """The pictures of one part."""
        return [picture for picture in self.pictures if picture.part == part]

    def rows(self, part: Part) -> NDArray[np.int64]:
        """Where the pixels of one part stand, (n,)."""
        return np.array([picture.row for picture in self.part(part)], dtype=np.int64)


def read(
    folder: Path,
    spec: Input,
    *,
    store: Path,
    part: Part = "fit",
    advance: Callable[[int, int], None] | None = None,
) -> PictureSet:
    """Decodes every picture below a folder by the rule that serving uses.

    Args:
        folder: searched with its subfolders.
        spec: what the model takes.
        store: a file for the pixels, made anew.
        part: what all of them are, until `split` says otherwise.
        advance: called with (done, total) as it goes.

    Raises:
        TrainError: the folder is not there or holds no picture that can be read.
    """
    paths, others = find(folder, spec)
    pixels = stores.array(store, spec.dtype, (len(paths), *spec.shape))
    pictures: list[Picture] = []
    broken: list[str] = []
    repeated: list[str] = []
    stand_ins: dict[str, str | None] = {}
    by_content: dict[str, Picture] = {}
    for done, (path, outcome) in enumerate(_decoded(paths, spec), start=1):
        if isinstance(outcome, PictureError):
            broken.append(f"{path} ({outcome})")
            stand_ins[str(path)] = None
        else:
            sha256, content, decoded = outcome
            if content in by_content:
                repeated.append(f"{path} = {by_content[content].path}")
                stand_ins[str(path)] = by_content[content].path
            else:
                picture = Picture(
                    str(path), sha256, content, (decoded.width, decoded.height), decoded.mode, len(pictures), part
                )
                pixels[picture.row] = decoded.pixels
                by_content[content] = picture
                pictures.append(picture)
        if advance is not None:
            advance(done, len(paths))
    if not pictures:
        raise TrainError(f"{folder}: none of its {len(paths)} {spec.plural} can be read: {_some(broken)}")
    warnings = []
    if others:
        warnings.append(f"other-kind: {len(others)} of the files left out, as no {spec.plural}: {_some(others)}")
    if broken:
        warnings.append(f"unreadable: {len(broken)} of {len(paths)} {spec.plural} skipped: {_some(broken)}")
    if repeated:
        warnings.append(f"duplicates: {len(repeated)} of the {spec.plural} dropped, as repetitions: {_some(repeated)}")
    if isinstance(spec, ImageInput):
        warnings += _mixed(pictures, spec)
    return PictureSet(tuple(pictures), pixels, tuple(warnings), stand_ins)


def keep_whole(found: PictureSet, *, target_fpr: float, plural: str = "pictures") -> PictureSet:
    """The good pictures in one part: every one fits, and every one calibrates out of fold.

    Raises:
        TrainError: there are fewer than `MINIMUM`.
    """
    n, needed = len(found.pictures), pictures_needed(target_fpr)
    _check_enough(n, needed, target_fpr, plural)
    warnings = list(found.warnings)
    if words := too_few(n, target_fpr, cross=True, plural=plural):
        warnings.append(words)
    return replace(found, warnings=tuple(warnings))


def split(
    found: PictureSet,
    *,
    target_fpr: float,
    statistics_share: float,
    seed: int,
    calibration_share: float = 0.0,
    plural: str = "pictures",
) -> PictureSet:
    """The good pictures in their parts: by content, so that neither names nor order decide.

    Calibration gets the ceil(1/α - 1) pictures that its promise takes, but never more than a third; more than those
    where `calibration_share` asks for them.

    Args:
        found: good pictures.
        target_fpr: α.
        statistics_share: of those that calibration leaves.
        seed: another seed, another split.
        calibration_share: of all, up to a third: more calibration pictures than α takes steady the threshold.
        plural: what they are called.

    Raises:
        TrainError: there are fewer than `MINIMUM`.
    """
    n, needed = len(found.pictures), pictures_needed(target_fpr)
    _check_enough(n, 3 * needed, target_fpr, plural)
    warnings = list(found.warnings)
    if words := too_few(n, target_fpr, cross=False, plural=plural):
        warnings.append(words)
    calibration, statistics = parts_of(
        n, target_fpr=target_fpr, calibration_share=calibration_share, statistics_share=statistics_share
    )
    groups: dict[str, list[Picture]] = {}
    for picture in found.pictures:
        groups.setdefault(picture.group or picture.content, []).append(picture)
    left: dict[Part, int] = {"calibration": calibration, "statistics": statistics}
    taken: Counter[Part] = Counter()
    parts: dict[str, Part] = {}
    for _, members in sorted(groups.items(), key=lambda item: hashlib.sha256(f"{seed}:{item[0]}".encode()).digest()):
        # A group goes where it brings a part nearer to what it should have; each part takes one in any case.
        part: Part = next((part for part, n in left.items() if not taken[part] or 2 * n > len(members)), "fit")
        if part in left:
            left[part] -= len(members)
        taken[part] += len(members)
        parts |= {picture.content: part for picture in members}
    if not taken["fit"]:
        raise TrainError(
            f"the good {plural} are in {len(groups)} groups, too few or too large for three parts (calibration "
            f"{taken['calibration']}, statistics {taken['statistics']}, fit none); group them more finely"
        )
    pictures = tuple(replace(picture, part=parts[picture.content]) for picture in found.pictures)
    return PictureSet(pictures, found.pixels, tuple(warnings))


def too_few(n: int, target_fpr: float, *, cross: bool, plural: str = "pictures") -> str | None:
    """A warning where n good pictures cannot give the rate: what it takes, what they give, what to do."""
    needed = pictures_needed(target_fpr)
    if n >= (needed if cross else 3 * needed):
        return None
    if cross:
        return (
            f"too-few: a false-positive rate of {target_fpr:g} takes {needed} good {plural}; here are {n}, "
            f"enough for {1 / (n + 1):.3g}; add {plural}, or set a larger target_fpr"
        )
    return (
        f"too-few: a false-positive rate of {target_fpr:g} takes {needed} calibration {plural}: {3 * needed} "
        f"good ones in all; here are {n}. {n // 3} calibrate, which promises {1 / (n // 3 + 1):.3g}; add {plural}, "
        "or calibrate the bundle later on more (`edged calibrate`)"
    )


def parts_of(n: int, *, target_fpr: float, calibration_share: float, statistics_share: float) -> tuple[int, int]:
    """How many of n good pictures go to calibration and to statistics; see `split`."""
    calibration = max(min(pictures_needed(target_fpr), n // 3), int(calibration_share * n))
    return calibration, max(2, round(statistics_share * (n - calibration)))


def without(found: PictureSet, others: PictureSet, *, plural: str = "pictures") -> PictureSet:
    """Bad pictures without those that stand among the good ones too."""
    good = {picture.content: picture.path for picture in others.pictures}
    both = [f"{picture.path} = {good[picture.content]}" for picture in found.pictures if picture.content in good]
    if not both:
        return found
    kept = tuple(picture for picture in found.pictures if picture.content not in good)
    warning = f"good-and-bad: {len(both)} of the bad {plural} dropped, as good ones too: {_some(both)}"
    return PictureSet(kept, found.pixels, (*found.warnings, warning))


def _check_enough(n: int, wanted: int, target_fpr: float, plural: str) -> None:
    if n < MINIMUM:
        raise TrainError(
            f"{n} good {plural} that differ are too few: training takes {MINIMUM}, and {wanted} for a "
            f"false-positive rate of {target_fpr:g}; add {plural}"
        )


def find(folder: Path, spec: Input) -> tuple[list[Path], list[str]]:
    """The files that a model takes, and the names of those that another kind of model would take.

    Raises:
        TrainError: the folder is not there, or holds no files that the model takes.
    """
    if not folder.is_dir():
        raise TrainError(f"{folder}: there is no such folder; name one with {spec.plural} in it")
    paths = [path.absolute() for path in find_pictures(folder, spec.patterns)]
    others = [str(path) for path in find_pictures(folder, sorted({*PATTERNS} - {*spec.patterns})) if path.is_file()]
    if not paths:
        hint = f'; files of another kind: {len(others)}; set input = "{_OTHER[spec.kind]}"' if others else ""
        endings = ", ".join(pattern.removeprefix("*.") for pattern in spec.patterns)
        raise TrainError(f"{folder}: holds no {spec.plural} ({endings}){hint}")
    return paths, others


def _decoded(paths: Sequence[Path], spec: Input) -> Iterator[tuple[Path, tuple[str, str, Decoded] | PictureError]]:
    def one(path: Path) -> tuple[str, str, Decoded] | PictureError:
        try:
            data = read_regular(path, Limits().max_bytes)
            decoded = decode(data, spec, Limits())
            # Of a signal nothing is resized.
            shown = imaging.shown_by(data) if isinstance(spec, ImageInput) else decoded.pixels.tobytes()
            return hashlib.sha256(data).hexdigest(), hashlib.sha256(shown).hexdigest(), decoded
        except OSError as error:
            return PictureError("unreadable", error.strerror or str(error))
        except PictureError as error:
            return error

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(paths), _AHEAD):  # bounds what is decoded and not yet taken
            some = paths[start : start + _AHEAD]
            yield from zip(some, pool.map(one, some), strict=True)


def _mixed(pictures: Sequence[Picture], spec: ImageInput) -> list[str]:
    warnings, part = [], "bad" if pictures[0].part == "bad" else "good"
    sizes = Counter(f"{width}x{height}" for width, height in (picture.source_px for picture in pictures))
    if len(sizes) > 1:
        warnings.append(
            f"mixed-sizes: the {part} pictures have {len(sizes)} sizes ({_counted(sizes)}); each becomes "
            f"{spec.width}x{spec.height} by {spec.resize!r}"
        )
    modes = Counter(picture.mode for picture in pictures)
    if len(modes) > 1:
        warnings.append(
            f"mixed-modes: the {part} pictures have {len(modes)} pixel modes ({_counted(modes)}); each becomes "
            f"{'grey' if spec.channels == 1 else 'RGB'}. A mode that only good or only bad pictures have is learnt too"
        )
    return warnings


def _counted(counter: Counter[str]) -> str:
    shown = ", ".join(f"{count} of {name}" for name, count in counter.most_common(_SHOWN))
    return shown + (", ..." if len(counter) > _SHOWN else "")


def _some(names: Sequence[str]) -> str:
    return "; ".join(names[:_SHOWN]) + (f"; and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")

"""Bytes -> float32 signals: .npy and .csv files, hardened as pictures are.

    .npy   (T,) is one channel, (C, T) several; whole or floating numbers, never objects
    .csv   one row or one column is one channel; else a row is a moment and a column a channel. Numbers have a decimal
           point, and one of comma, semicolon, tab or blanks between them, the same throughout; a first line without
           any number is a heading. Empty cells are refused: a value that is guessed is no measurement

The length is the model's: a signal of another length is refused, for there is no resampling that is right for all.
"""

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from edged.errors import PictureError
from edged.media.imaging import Limits

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PATTERNS: Final = ("*.npy", "*.csv")

_SEPARATOR: Final = re.compile(r"[,;\t]")
_PADDED: Final = re.compile(r"(?:^|,) *0[0-9]")
_DECIMAL_COMMA: Final = "decimal comma (0,076); write a decimal point (0.076)"


@dataclass(frozen=True, slots=True)
class SignalInput:
    """What a model of signals takes: the `input` of its manifest.

    Attributes:
        channels: C, 1 to 1024.
        length: T, samples a channel, 8 to 1,000,000.
        kind: what one item is.
    """

    channels: int
    length: int
    kind: Literal["signal"] = "signal"

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= 1024 and 8 <= self.length <= 1_000_000):
            raise ValueError(
                f"a signal has 1 to 1024 channels of 8 to 1000000 samples, not {self.channels}x{self.length}"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(C, T) of one signal."""
        return self.channels, self.length

    @property
    def singular(self) -> str:
        """What one item is called."""
        return "signal"

    @property
    def plural(self) -> str:
        """What items are called."""
        return "signals"

    @property
    def description(self) -> str:
        """In words, for people."""
        return f"signals of {self.channels} channel(s) of {self.length} samples"

    @property
    def dtype(self) -> str:
        """Of one sample."""
        return "float32"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names that such files have."""
        return PATTERNS


def decode(data: bytes, spec: SignalInput, limits: Limits) -> "NDArray[np.float32]":
    """One file's bytes -> float32 (C, T).

    Raises:
        PictureError: the signal cannot be scored; its `reason` says why.
    """
    import numpy as np

    values = parse(data, limits)
    if values.shape != spec.shape:
        given, wanted = ("x".join(map(str, shape)) for shape in (values.shape, spec.shape))
        raise PictureError("unsupported", f"channels x samples are {given}; the model takes {wanted}")
    if not np.isfinite(values).all():
        raise PictureError("unsupported", "some samples are not finite numbers")
    return values


def parse(data: bytes, limits: Limits) -> "NDArray[np.float32]":
    """One file's bytes -> float32 (C, T), whatever its channels and length, and whatever the numbers.

    Raises:
        PictureError: it is no signal; its `reason` says why.
    """
    if not data:
        raise PictureError("empty", "the file is empty")
    if len(data) > limits.max_bytes:
        raise PictureError("file_too_large", limits.exceeded("max_bytes", f"{len(data)} bytes"))
    try:
        return _from_npy(data) if data.startswith(b"\x93NUMPY") else _from_csv(data, limits)
    except PictureError:
        raise
    except Exception as error:  # on hostile bytes numpy raises nearly every type there is
        raise PictureError("undecodable", f"not a signal: {str(error)[:200] or type(error).__name__}") from error


def _from_npy(data: bytes) -> "NDArray[np.float32]":
    import numpy as np

    file = io.BytesIO(data)
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "iuf" or len(shape) not in {1, 2}:
        raise PictureError("unsupported", f"an array of {dtype} with {len(shape)} axes; save numbers as (C, T) or (T,)")
    if np.prod(shape, dtype=object) * dtype.itemsize != len(data) - file.tell():
        raise PictureError("undecodable", "the file is shorter or longer than its header says")
    array = np.load(io.BytesIO(data), allow_pickle=False)
    return np.ascontiguousarray(np.atleast_2d(array), dtype=np.float32)


def _from_csv(data: bytes, limits: Limits) -> "NDArray[np.float32]":
    import numpy as np

    text = data.decode("utf-8-sig").splitlines()
    lines = [(number, line) for number, line in enumerate(text, 1) if line.strip(" ")]
    separator = _separator([line for _, line in lines[1:] or lines])
    if lines and _is_heading(lines[0][1], separator):
        del lines[0]
    if separator and all(line.rstrip(" ").endswith(separator) for _, line in lines):
        lines = [(number, line.rstrip(" ")[:-1]) for number, line in lines]  # it closes every line, and parts nothing
    rows: list[list[float]] = []
    for number, line in lines:
        cells = _cells(line, separator)
        if (len(rows) + 1) * len(cells) > limits.max_pixels:
            raise PictureError("picture_too_large", limits.exceeded("max_pixels", "its samples"))
        wrong = next((column for column, cell in enumerate(cells) if "_" in cell or not _is_number(cell)), None)
        if wrong is not None:  # Python reads 1_5 as 15
            raise PictureError("undecodable", f"line {number}, column {wrong + 1}: {_why(cells[wrong])}")
        rows.append([float(cell) for cell in cells])
        if len(cells) != len(rows[0]):
            raise PictureError(
                "undecodable", f"line {number} has {len(cells)} numbers, and the first has {len(rows[0])}"
            )
    if not rows:
        raise PictureError("undecodable", "there is no line of numbers")
    if (
        separator == ","
        and any(_PADDED.search(line) for _, line in lines)
        and not any("." in line for _, line in lines)
    ):
        raise PictureError("undecodable", f"no number has a point, and some begin with 0 as in {_DECIMAL_COMMA}")
    values = np.array(rows, dtype=np.float32)
    return np.ascontiguousarray(values if len(rows) == 1 else values.T)


def _separator(lines: list[str]) -> str:
    """What stands between the numbers of all lines: one of `;`, tab and `,`, else a blank, or nothing: "".

    Raises:
        PictureError: there are several, as where numbers are written with a comma.
    """
    found = [separator for separator in ";\t," if any(separator in line for line in lines)]
    if len(found) > 1:
        named = " and ".join(repr(separator) for separator in found)
        raise PictureError("undecodable", f"numbers are separated by {named}; use one, and no {_DECIMAL_COMMA}")
    return found[0] if found else " " if any(" " in line.strip() for line in lines) else ""


def _is_heading(line: str, separator: str) -> bool:
    """Whether no cell is a number; a first line with some numbers in it is a damaged one, not a heading."""
    cells = line.split() if separator == " " else _SEPARATOR.split(line)
    return not any(_is_number(cell) for cell in cells)


def _cells(line: str, separator: str) -> list[str]:
    if not separator:
        return [line]
    return line.split() if separator == " " else line.split(separator)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _why(cell: str) -> str:
    if not cell.strip():
        return "is empty; every channel needs a number at every moment"
    return f"is not a number: {cell.strip()[:60]!r}"

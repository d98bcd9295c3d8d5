"""Bytes -> uint8 pixels: decoding and resizing, by one rule for training and serving, hardened against hostile files.

Pixel modes become channels by the rule of `modes`. EXIF orientation is applied (`orientation`). Of a file with several
pages the first is taken.
"""

import fnmatch
import io
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Le
from PIL import Image, UnidentifiedImageError

from edged.errors import PictureError
from edged.media.modes import to_channels
from edged.media.orientation import is_sideways, upright

if TYPE_CHECKING:  # numpy stays out of the decoder processes, which only pass bytes on
    from numpy.typing import NDArray

FORMATS: Final = ("PNG", "JPEG", "TIFF", "BMP", "WEBP")
PATTERNS: Final = ("*.png", "*.jpg", "*.jpeg", "*.tif", "*.tiff", "*.bmp", "*.webp")

_FILTERS: Final = {
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

Size = tuple[int, int]
"""Width and height, px."""
Region = tuple[int, int, int, int]
"""Left, top, width and height of a rectangle, px of a file's picture, turned as its EXIF data say."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """What a model takes: the `input` of its manifest.

    Attributes:
        height: of the model's picture, 8 to 4096 px.
        width: of the model's picture, 8 to 4096 px.
        channels: 1 (grey) or 3 (RGB).
        resize: "stretch" to the size, "pad" with black to keep the aspect, or "crop" the middle.
        filter: of the resampling, always with antialiasing.
        kind: what one item is.
        roi: the part of a picture that the model looks at; None for all of it.
        source: size of the pictures in their files that the model was trained on, a median. What `roi` is in px of: a
            picture of another size has its own part looked at. None in bundles of an edged that did not note it.
        aspects: lowest and highest width / height of those pictures; None where all count as of the size `source`.
        areas: lowest and highest number of px of those pictures; likewise.
    """

    height: int
    width: int
    channels: Literal[1, 3] = 3
    resize: Literal["stretch", "pad", "crop"] = "stretch"
    filter: Literal["box", "bilinear", "bicubic", "lanczos"] = "bilinear"
    kind: Literal["image"] = "image"
    roi: Region | None = None
    # Two models may take the same and have seen others.
    source: Size | None = field(default=None, compare=False)
    aspects: tuple[float, float] | None = field(default=None, compare=False)
    areas: tuple[int, int] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not (8 <= self.height <= 4096 and 8 <= self.width <= 4096):
            raise ValueError(f"a model's picture is 8 to 4096 px a side, not {self.width}x{self.height}")
        if self.roi is not None and (min(self.roi[:2]) < 0 or min(self.roi[2:]) < 1):
            raise ValueError(f"roi: {list(self.roi)} must be X, Y from 0 and a width and height from 1")

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one picture."""
        return self.height, self.width, self.channels

    @property
    def singular(self) -> str:
        """What one item is called."""
        return "picture"

    @property
    def plural(self) -> str:
        """What items are called."""
        return "pictures"

    @property
    def description(self) -> str:
        """In words, for people."""
        looked_at = "" if self.roi is None else ", of {2}x{3} px at {0},{1} of the file's picture".format(*self.roi)
        return (
            f"pictures of {self.width}x{self.height} px, {self.channels} channel(s), {self.resize}, {self.filter}"
            + looked_at
        )

    @property
    def dtype(self) -> str:
        """Of one value of a pixel."""
        return "uint8"

    @property
    def patterns(self) -> tuple[str, ...]:
        """Names that such files have."""
        return PATTERNS


@dataclass(frozen=True, slots=True)
class Limits:
    """What is refused before it can cost much: `[limits]` of the configuration, which it is checked for there.

    Attributes:
        max_bytes: of a file, 1 to 2e9.
        max_pixels: of a picture, before it is decoded, 1 to 2e9.
        decode_seconds: a decoder that takes longer is killed; above 0, up to 3600.
    """

    max_bytes: Annotated[int, Ge(1), Le(2_000_000_000)] = 100_000_000
    max_pixels: Annotated[int, Ge(1), Le(2_000_000_000)] = 100_000_000
    decode_seconds: Annotated[float, Gt(0), Le(3600)] = 20.0
    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # noqa: RUF012 -- pydantic's name for it

    def exceeded(self, key: Literal["max_bytes", "max_pixels"], what: str) -> str:
        """What to say of `what` that is more than a limit, also where a command or training reads it."""
        return f"{what} are more than limits.{key} = {getattr(self, key)}, which a daemon's configuration alone raises"


@dataclass(frozen=True, slots=True)
class Decoded:
    """One picture at the model's size, or one signal.

    Attributes:
        pixels: uint8 (H, W, C), or float32 (C, T) of a signal.
        width: of the picture in the file, px, turned as its EXIF data say; samples of a signal.
        height: of the picture in the file, px, likewise; channels of a signal.
        mode: Pillow's name of the mode in the file, or "signal".
        pages: 1, or 2 for "more than one".
    """

    pixels: "NDArray[Any]"
    width: int
    height: int
    mode: str
    pages: int


def decode(data: bytes, spec: ImageInput, limits: Limits) -> Decoded:
    """Decodes one file's bytes to the model's size in this process.

    Raises:
        PictureError: the picture cannot be scored; its `reason` says why.
    """
    import numpy as np

    opened = open_picture(data, spec, limits)
    pixels = np.asarray(opened.image, dtype=np.uint8).reshape(spec.shape)
    return Decoded(pixels, opened.width, opened.height, opened.mode, opened.pages)


@dataclass(frozen=True, slots=True)
class Opened:
    """`Decoded` before numpy: `image` has the mode L or RGB and the model's size."""

    image: Image.Image
    width: int
    height: int
    mode: str
    pages: int


def open_picture(data: bytes, spec: ImageInput, limits: Limits) -> Opened:
    """Decodes and resizes one file's bytes with Pillow.

    Raises:
        PictureError: the picture cannot be scored; its `reason` says why.
    """
    if not data:
        raise PictureError("empty", "the file is empty")
    if len(data) > limits.max_bytes:
        raise PictureError("file_too_large", limits.exceeded("max_bytes", f"{len(data)} bytes"))
    Image.MAX_IMAGE_PIXELS = None  # our own cap, below, stands in its place and before any pixel is decoded
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            width, height = image.size
            if width * height > limits.max_pixels:
                raise PictureError("picture_too_large", limits.exceeded("max_pixels", f"{width}x{height} pixels"))
            mode, pages = image.mode, 2 if getattr(image, "n_frames", 1) > 1 else 1
            # A large photograph is decoded at 1/2, 1/4 or 1/8 by the DCT, never below twice the model's size.
            longest = math.ceil(2 * max(spec.height, spec.width) * _share_looked_at(spec, width, height))
            image.draft(None, (longest, longest))
            image.load()
            if is_sideways(image):
                width, height = height, width
            fitted = fit(upright(image), spec, (width, height), image.format or "")
            return Opened(fitted, width, height, mode, pages)
    except PictureError:
        raise
    except Exception as error:  # on hostile bytes Pillow raises nearly every type there is
        raise PictureError("undecodable", _explain(error)) from error


def fit(image: Image.Image, spec: ImageInput, size: Size, file_format: str = "") -> Image.Image:
    """What the model sees of a picture, in its channels and at its size.

    Args:
        image: upright.
        spec: what the model takes.
        size: width and height of the picture in the file, px, of which `image` may be a smaller copy.
        file_format: Pillow's name of it.

    Raises:
        PictureError: it is "unsupported".
    """
    # A source's own part, px of its files; that of a model is a share of every picture.
    if spec.roi is not None and spec.source is None and (spec.roi[0] >= size[0] or spec.roi[1] >= size[1]):
        part = "{},{},{},{}".format(*spec.roi)
        raise PictureError("unsupported", f"{size[0]}x{size[1]} px have nothing of the part to look at, roi = {part}")
    seen = _looked_at(image, spec, *size)
    resized = _resize(to_channels(seen, file_format, spec.channels), spec)
    return resized.convert("RGB") if spec.channels == 3 and resized.mode == "L" else resized


def looked_at(spec: ImageInput, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what the model sees of a picture of this size, px; before "crop" takes more."""
    if spec.roi is None:
        return 0, 0, width, height
    full_width, full_height = spec.source or (width, height)
    x, y, w, h = spec.roi
    across, down = width / full_width, height / full_height
    left, top = min(round(x * across), width - 1), min(round(y * down), height - 1)
    right, bottom = min(round((x + w) * across), width), min(round((y + h) * down), height)
    return left, top, max(right, left + 1), max(bottom, top + 1)


def shown_by(data: bytes) -> bytes:
    """What a file that `decode` takes shows, whatever a model makes of it: its size and its pixels, upright, as RGB.

    Raises:
        PictureError: its pixel mode has no fixed scale.
    """
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        image.load()
        rgb = to_channels(upright(image), image.format or "", 3).convert("RGB")
    return f"{rgb.width}x{rgb.height}:".encode() + rgb.tobytes()


def find_pictures(root: Path, patterns: Iterable[str] = PATTERNS) -> Iterator[Path]:
    """The files below `root` that match, in the order of their paths; `root` itself when it is a file.

    Patterns match the file's name whatever its case. Links to folders are not followed. A folder that cannot be read
    is given itself, at the end, so that it is not passed over in silence.
    """
    if not root.is_dir():
        yield root
        return
    lowered = [pattern.lower() for pattern in patterns]
    unreadable: list[Path] = []
    for folder, folders, names in os.walk(root, onerror=lambda error: unreadable.append(Path(error.filename))):
        folders.sort()
        for name in sorted(names):
            if any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in lowered):
                yield Path(folder, name)
    yield from unreadable


def _share_looked_at(spec: ImageInput, width: int, height: int) -> float:
    """How many times the part that is looked at goes into the picture, at most; before EXIF turns it."""
    if spec.roi is None:
        return 1.0
    full = spec.source or (width, height)
    return max(1.0, max(full) / min(spec.roi[2:]))


def _looked_at(image: Image.Image, spec: ImageInput, width: int, height: int) -> Image.Image:
    """The part of a picture of `width` x `height` that may have been decoded at a fraction of it."""
    if spec.roi is None:
        return image
    left, top, right, bottom = looked_at(spec, width, height)
    across, down = image.width / width, image.height / height
    return image.crop(
        (
            min(round(left * across), image.width - 1),
            min(round(top * down), image.height - 1),
            max(round(right * across), 1),
            max(round(bottom * down), 1),
        )
    )


def _resize(image: Image.Image, spec: ImageInput) -> Image.Image:
    size, resample = (spec.width, spec.height), _FILTERS[spec.filter]
    if spec.resize == "stretch":
        return image if image.size == size else image.resize(size, resample)
    fit = min if spec.resize == "pad" else max
    scale = fit(spec.width / image.width, spec.height / image.height)
    scaled = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    placed = Image.new(image.mode, size)
    placed.paste(scaled, ((spec.width - scaled.width) // 2, (spec.height - scaled.height) // 2))
    return placed


def _explain(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return f"not a picture of a known format ({', '.join(FORMATS)})"
    if isinstance(error, MemoryError):
        return "decoding needs more memory than the decoder may take"
    return f"cannot be decoded: {str(error)[:200] or type(error).__name__}"

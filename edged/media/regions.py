"""The part of a picture that a model looks at, in the pixels of a file, of the model's picture and of its map."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from PIL import Image

from edged.files import open_regular
from edged.media.imaging import FORMATS, ImageInput, Limits, Region, Size, decode, looked_at
from edged.media.orientation import is_sideways

if TYPE_CHECKING:
    from numpy.typing import NDArray

_MID_GREY: Final = 127
_OTHER_ASPECT: Final = 1.1
_OTHER_SCALE: Final = 1.5


def upright_size(path: Path) -> Size | None:
    """Width and height of a file's picture, turned as its EXIF data say, without decoding it; None when it is none."""
    Image.MAX_IMAGE_PIXELS = None
    try:
        with open_regular(path) as file, Image.open(file, formats=FORMATS) as image:
            width, height = image.size
            return (height, width) if is_sideways(image) else (width, height)
    except Exception:  # noqa: BLE001 -- decoding it says what is wrong
        return None


def box_of(spec: ImageInput, width: int, height: int) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of what comes to the model of a picture of this size, px; after "crop" took more."""
    left, top, right, bottom = looked_at(spec, width, height)
    if spec.resize == "crop":
        scale = max(spec.width / (right - left), spec.height / (bottom - top))
        across, down = round(spec.width / scale), round(spec.height / scale)
        left, top = left + (right - left - across) // 2, top + (bottom - top - down) // 2
        right, bottom = left + across, top + down
    return left, top, right, bottom


def other_shape(spec: ImageInput, width: int, height: int, *, roi: Region | None = None) -> str | None:
    """What differs between a picture of this size and those that the model was trained on, in words; None if little.

    Args:
        spec: what the model takes.
        width: of the picture in its file, px, turned upright.
        height: likewise.
        roi: the part of this picture that is looked at, px of its file; None for the same part as when it was trained.
    """
    if spec.source is None:
        return None
    (trained_width, trained_height), what = spec.source, ""
    aspects, areas = spec.aspects, spec.areas
    if roi is not None:
        width, height, what = *_size_of(looked_at(taken(spec, roi), width, height)), "the part of "
        (trained_width, trained_height), aspects, areas = _size_of(looked_at(spec, *spec.source)), None, None
    trained = f"{trained_width}x{trained_height} px, which it was trained on"
    if aspects is not None or areas is not None:
        trained = f"those that it was trained on, of {trained_width}x{trained_height} px in the middle"
    aspect, (tallest, widest) = width / height, aspects or 2 * (trained_width / trained_height,)
    if max(aspect / widest, tallest / aspect) > _OTHER_ASPECT and spec.resize == "stretch":
        return f"{what}{width}x{height} px has another shape than {trained}: it is stretched otherwise"
    area, (least, most) = width * height, areas or 2 * (trained_width * trained_height,)
    if math.sqrt(max(area / most, least / area)) > _OTHER_SCALE:
        return f"{what}{width}x{height} px has another scale than {trained}: what it shows is seen at another size"
    return None


def taken(spec: ImageInput, roi: Region) -> ImageInput:
    """How a model takes pictures of which it looks at a part of their own, px of each picture's file."""
    return replace(spec, roi=roi, source=None)


def mask_of(data: bytes, spec: ImageInput) -> "NDArray[Any]":
    """Where a model looks: a mask's bytes, a picture of any size, black where to ignore -> bool (H, W).

    It comes to the model's size as pictures do: what `roi` leaves out is left out of the mask too.

    Raises:
        PictureError: it cannot be decoded.
    """
    pixels = decode(data, replace(spec, channels=1, filter="box"), Limits()).pixels
    return pixels[:, :, 0] > _MID_GREY


def positions_that_count(looked_at: "NDArray[Any]", height: int, width: int) -> "NDArray[Any]":
    """A mask of the model's picture, bool (H, W) -> of its map, bool (height, width): half of each is looked at.

    Where no position is looked at by half, those that are looked at most count: a model must see something.
    """
    share = looked_at.reshape(height, looked_at.shape[0] // height, width, -1).mean(axis=(1, 3))
    counting: NDArray[Any] = (share >= 0.5) | (share == share.max())
    return counting


def _size_of(box: tuple[int, int, int, int]) -> Size:
    left, top, right, bottom = box
    return right - left, bottom - top

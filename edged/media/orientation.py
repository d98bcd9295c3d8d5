"""How the EXIF data of a file turn its picture."""

from typing import Final

from PIL import Image

_ORIENTATION_TAG: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = (5, 6, 7, 8)


def upright(image: Image.Image) -> Image.Image:
    """An opened file's picture as its EXIF data turn it."""
    orientation = _orientation(image)
    return image.transpose(_TURNS[orientation]) if orientation in _TURNS else image


def is_sideways(image: Image.Image) -> bool:
    """Whether the EXIF data of an opened file turn its picture by a quarter."""
    return _orientation(image) in _SIDEWAYS


def _orientation(image: Image.Image) -> object:
    try:
        return image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 -- damaged EXIF is no reason to refuse a picture that decodes
        return None

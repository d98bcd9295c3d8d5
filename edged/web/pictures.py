"""What a sink has drawn, for a browser: read as the one format that it may be, and encoded again."""

import io
from typing import Final

from PIL import Image

from edged.errors import PictureError

_MAX_PIXELS: Final = 16_000_000


def encode_again(data: bytes) -> bytes:
    """A PNG of the pixels of a PNG, and of nothing else that may be in it.

    Raises:
        PictureError: it is none, or too large.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as picture:
            if picture.width * picture.height > _MAX_PIXELS:
                raise PictureError("picture_too_large", f"{picture.width}x{picture.height} pixels")
            pixels = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise PictureError("undecodable", f"cannot be decoded: {error}") from error
    clean, buffer = Image.frombytes("RGB", pixels.size, pixels.tobytes()), io.BytesIO()
    clean.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()

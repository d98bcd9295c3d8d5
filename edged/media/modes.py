"""Pixel modes of files -> one channel of grey, or RGB; the same rule for training and serving.

The rule of each pixel mode (the tests hold one golden picture for each):

    1, L              grey as it is (a set bit is 255)
    P                 through its palette; transparency as for RGBA
    LA, RGBA          composited over black
    RGB, YCbCr, CMYK  Pillow's conversion to RGB
    I;16 and kin      value x 255 / 65535, rounded: a fixed scale, never the picture's own minimum and maximum
    I, F, LAB, HSV    refused as "unsupported": there is no scale that is right for every picture

A colour picture becomes grey by ITU-R 601 luma where the model takes one channel; grey is repeated where it takes
three.
"""

import functools

from PIL import Image

from edged.errors import PictureError


@functools.cache
def _scale_of_16_bits() -> list[int]:
    return [(value * 255 + 32767) // 65535 for value in range(65536)]


def to_channels(image: Image.Image, file_format: str, channels: int) -> Image.Image:
    """L where one channel is wanted, or where it is grey: grey repeated before or after resizing is the same picture.

    Any other becomes RGB.
    """
    target = "L" if channels == 1 else "RGB"
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and file_format == "PNG"):
        return image.convert("I").point(_scale_of_16_bits(), "L")
    if mode in {"LA", "La", "PA", "RGBA", "RGBa"} or (mode in {"1", "L", "P", "RGB"} and "transparency" in image.info):
        opaque = Image.new("RGBA", image.size, (0, 0, 0, 255))
        opaque.alpha_composite(image.convert("RGBA"))
        return opaque.convert("RGB").convert(target)
    if mode in {"L", target}:
        return image
    if mode == "1":
        return image.convert("L")
    if mode in {"P", "RGB", "RGBX", "CMYK", "YCbCr"}:
        return image.convert("RGB").convert(target)
    raise PictureError(
        "unsupported",
        f"pixel mode {mode} ({file_format}) has no fixed scale to 8 bit; save as 8-bit or 16-bit grey, or RGB",
    )

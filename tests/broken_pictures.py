"""Broken pictures of every format that Pillow opens, to see that a decoder survives them.

python -m tests.broken_pictures DIR     writes them for a person to look at
"""

import io
import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

# First bytes of formats that Pillow opens and does not write; rubbish follows.
HEADS = {
    "BUFR": b"BUFR" + bytes(8),
    "CUR": b"\0\0\2\0\1\0\x20\x20\0\0\0\0\0\0\xff\xff\0\0\x16\0\0\0",
    "DCX": b"\xb1\x68\xde\x3a\x10\0\0\0\0\0\0\0",
    "FITS": b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =                    8".ljust(80),
    "FLI": b"\0\1\0\0\x11\xaf\1\0\x20\0\x20\0\x08\0" + bytes(114),
    "FTEX": b"FTEX\1\0\0\0\x20\0\0\0\x20\0\0\0\1\0\0\0\1\0\0\0",
    "GBR": b"\0\0\0\x1c\0\0\0\2\0\0\0\x20\0\0\0\x20\0\0\0\1GIMP\0\0\0\1",
    "GRIB": b"GRIB\0\0\0\1",
    "HDF5": b"\x89HDF\r\n\x1a\n",
    "IMT": b"*** made up\n*width 32\n*height 32\n\x0c",
    "IPTC": b"\x1c\3\x3c\0\2\1\1\x1c\3\x14\0\1\x20",
    "MCIDAS": b"\0\0\0\0\0\0\0\4" + bytes(248),
    "MPEG": b"\0\0\1\xb3\x02\0\x20\x14",
    "PCD": bytes(2048) + b"PCD_" + bytes(1534),
    "PIXAR": b"\x80\xe8\0\0" + bytes(508),
    "PSD": b"8BPS\0\1\0\0\0\0\0\0\0\3\0\0\0\x20\0\0\0\x20\0\x08\0\3\0\0\0\0",
    "QOI": b"qoif\0\0\0\x20\0\0\0\x20\4\0",
    "SUN": b"\x59\xa6\x6a\x95\0\0\0\x20\0\0\0\x20\0\0\0\x08\0\0\4\0\0\0\0\1\0\0\0\0\0\0\0\0",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0\0\0\0\0\x20\0\x20\0\x60\0" + bytes(10) + b"\1\0\t\0",
    "XPM": b'/* XPM */\nstatic char *x[] = {\n"32 32 2 1",\n"a c #000000",\n"b c #ffffff",\n',
    "XVTHUMB": b"P7 332\n#END_OF_COMMENTS\n32 32 255\n",
}
"""By Pillow's name of the format."""

_MODES = ("RGB", "L", "P", "1", "RGBA", "F")


def formats() -> list[str]:
    """Every format that Pillow opens here."""
    Image.init()
    return sorted(Image.OPEN)


def whole(name: str) -> bytes:
    """A file of this format, as whole as Pillow or `HEADS` makes one; b"" where neither knows how."""
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    for mode in _MODES:
        buffer = io.BytesIO()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # some formats are to go
                Image.fromarray(pixels).convert(mode).save(buffer, name)
        except (OSError, ValueError, KeyError, AttributeError):
            continue
        return buffer.getvalue()
    return HEADS.get(name, b"") + random.Random(name).randbytes(400) if name in HEADS else b""


def broken(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """One file in the ways in which files break."""
    chance = random.Random(name)
    yield "whole", data
    for share in (1, 10, 50, 90, 99):
        yield f"cut-{share}", data[: len(data) * share // 100]
    yield "cut-last", data[:-1]
    yield "zeros", data[: len(data) // 2] + bytes(len(data) - len(data) // 2)
    yield "twice", data + data
    yield "no-head", data[4:]
    for number in range(8):
        hurt = bytearray(data)
        for _ in range(1 + number):
            hurt[chance.randrange(min(len(hurt), 64 if number % 2 else len(hurt)))] = chance.randrange(256)
        yield f"bits-{number}", bytes(hurt)
    yield "huge-numbers", data[:8] + b"\xff" * 24 + data[32:]


def corpus() -> Iterator[tuple[str, bytes]]:
    """(name, bytes) of every broken picture; the same ones every time with the same Pillow."""
    for name in formats():
        if data := whole(name):
            yield from ((f"{name}-{way}".lower(), hurt) for way, hurt in broken(name, data))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for title, content in corpus():
        (folder / title).write_bytes(content)

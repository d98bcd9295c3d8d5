"""The kinds of input that a model may take, behind one face: pictures and signals.

What kind it is stands in the manifest as data. Everything else in edged asks an input for its `shape`, `dtype`,
`kind` and `patterns`, and comes here to have bytes decoded.
"""

from typing import Any, Final

from edged.media import imaging, signals
from edged.media.imaging import Decoded, ImageInput, Limits
from edged.media.signals import SignalInput

Input = ImageInput | SignalInput

PATTERNS: Final = (*imaging.PATTERNS, *signals.PATTERNS)
"""Names that files of any kind have."""

_KINDS: Final = {"image": ImageInput, "signal": SignalInput}


def from_dict(keys: dict[str, Any]) -> Input:
    """The input that `dataclasses.asdict` made these keys of."""
    kind: type[Input] = _KINDS[keys["kind"]]
    return kind(**keys)


def decode(data: bytes, spec: Input, limits: Limits) -> Decoded:
    """Decodes one file's bytes in this process.

    Raises:
        PictureError: it cannot be scored; its `reason` says why.
    """
    if isinstance(spec, ImageInput):
        return imaging.decode(data, spec, limits)
    values = signals.decode(data, spec, limits)
    return Decoded(values, spec.length, spec.channels, "signal", 1)


def to_bytes(data: bytes, spec: Input, limits: Limits) -> tuple[bytes, dict[str, Any]]:
    """`decode` for a process that passes the values on: their bytes in C order, and `Decoded`'s other fields.

    Raises:
        PictureError: it cannot be scored; its `reason` says why.
    """
    if isinstance(spec, ImageInput):  # without numpy, which would cost every decoder its start
        opened = imaging.open_picture(data, spec, limits)
        about = {"width": opened.width, "height": opened.height, "mode": opened.mode, "pages": opened.pages}
        return opened.image.tobytes(), about
    decoded = decode(data, spec, limits)
    about = {"width": decoded.width, "height": decoded.height, "mode": decoded.mode, "pages": decoded.pages}
    return decoded.pixels.tobytes(), about

"""A picture and its anomaly map -> an overlay that a person can read."""

import functools
import unicodedata
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from edged.results import Frame, Result, printable

# Colour begins at a level that the model's threshold gives, and is full at three times as much: the scale is the same
# on every picture of a model.
_FULL: Final = 3.0
_LEVELS = np.array([0.0, 0.5, 1.0])
_COLOURS = np.array([[255, 221, 0], [255, 128, 0], [220, 0, 0]], dtype=np.float64)
_MAX_OPACITY = 0.6
_STRIPE_PX = 4
_SHADE = 0.5

_LEAST_WIDTH: Final = 320  # px, for the legend
_SHOT_PX: Final = 104  # wide: three in the narrowest legend
_TEXT: Final = 12
_LINE: Final = 16
_INK, _FLAGGED = (40, 40, 40), (176, 0, 0)


def draw(frame: Frame, result: Result) -> Image.Image:
    """The overlay of a result, of a picture or of a signal, over a legend: name, score, verdict, what colours mean."""
    if frame.pixels.ndim == 2:
        drawn = render_signal(frame.pixels, result.anomaly_map, coloured_from=result.coloured_from)
    else:
        drawn = render(
            frame.pixels, result.anomaly_map, result.cleaned, result.ignored, coloured_from=result.coloured_from
        )
    sheet = _with_legend(drawn, result, frame.name)
    return _with_shots(sheet, frame) if frame.shots else sheet


def render(
    pixels: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    cleaned: NDArray[np.uint8] | None = None,
    ignored: NDArray[np.bool_] | None = None,
    *,
    coloured_from: float = 1.0,
) -> Image.Image:
    """The picture, what a denoiser made of it where there is one, and the picture under its heat map, side by side.

    What is ignored is hatched under the heat map, and never coloured.

    Args:
        pixels: uint8 (H, W, C), C 1 or 3.
        anomaly_map: float32 (h, w) in the manifest's units.
        cleaned: uint8 (H, W, C), or None.
        ignored: bool (h, w), or None.
        coloured_from: level of the map at which colour begins.

    Returns:
        RGB, 2·W or 3·W wide and H high.
    """
    height, width = pixels.shape[:2]
    plain = np.broadcast_to(pixels, (height, width, 3)).astype(np.float64)
    heat = np.asarray(Image.fromarray(anomaly_map).resize((width, height), Image.Resampling.BILINEAR))
    # No pixel stands in the middle of a position; the highest one keeps its value, by which colour and verdict agree.
    heat = heat * (anomaly_map.max() / max(heat.max(), 1e-30))
    overlay = _coloured(plain, heat, coloured_from)
    if ignored is not None:
        overlay = _hatched(plain, overlay, ignored)
    middle = [] if cleaned is None else [np.broadcast_to(cleaned, (height, width, 3)).astype(np.float64)]
    return Image.fromarray(np.concatenate([plain, *middle, overlay], axis=1).round().astype(np.uint8))


def render_signal(
    signal: NDArray[np.float32], anomaly_map: NDArray[np.float32], *, coloured_from: float = 1.0
) -> Image.Image:
    """The channels of a signal as lines, one above the other, over their heat map.

    Args:
        signal: float32 (C, T).
        anomaly_map: float32 (h, w) in the manifest's units; its columns are moments.
        coloured_from: level of the map at which colour begins.

    Returns:
        RGB.
    """
    channels, length = signal.shape
    width, height = min(max(length, 280), 2000), 120
    # A position of the map stands for equally many samples; the last one may reach beyond the end.
    heat_of_samples = np.repeat(anomaly_map.max(axis=0), -(-length // anomaly_map.shape[1]))[None, :length]
    heat = Image.fromarray(heat_of_samples).resize((width, height), Image.Resampling.BILINEAR)
    sheet = Image.fromarray(
        _coloured(np.full((height, width, 3), 255.0), np.asarray(heat), coloured_from).round().astype(np.uint8)
    )
    sheet_of_all = Image.new("RGB", (width, height * min(channels, 16)))
    for index, values in enumerate(signal[:16]):
        strip = sheet.copy()
        low, high = float(values.min()), float(values.max())
        level = height - 5 - (values - low) / max(high - low, 1e-9) * (height - 10)
        points = zip(np.linspace(0, width - 1, length).tolist(), level.tolist(), strict=True)
        ImageDraw.Draw(strip).line(list(points), fill=(30, 30, 30), width=2)
        sheet_of_all.paste(strip, (0, index * height))
    return sheet_of_all


def _hatched(
    plain: NDArray[np.float64], coloured: NDArray[np.float64], ignored: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """`coloured`, (H, W, 3), and where the map, bool (h, w), does not count the plain picture with darker stripes."""
    height, width = plain.shape[:2]
    where = np.asarray(Image.fromarray(ignored).resize((width, height), Image.Resampling.NEAREST))
    stripe = (np.add.outer(np.arange(height), np.arange(width)) // _STRIPE_PX) % 2 == 0
    shade = np.where(where & stripe, _SHADE, 1.0)[..., None]
    return np.where(where[..., None], plain * shade, coloured)


def _coloured(plain: NDArray[np.float64], heat: NDArray[np.float32], coloured_from: float) -> NDArray[np.float64]:
    """(H, W, 3) of 0 to 255 under the colours of a heat map (H, W)."""
    strength = (heat / max(coloured_from, 1e-9) - 1) / (_FULL - 1)
    shown = np.clip(strength, 0.0, 1.0)
    colour = np.stack([np.interp(shown, _LEVELS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    opacity = np.where(strength > 0, 0.25 + (_MAX_OPACITY - 0.25) * shown, 0.0)[..., None]
    blended: NDArray[np.float64] = plain * (1 - opacity) + colour * opacity
    return blended


def _with_legend(drawn: Image.Image, result: Result, name: str) -> Image.Image:
    sheet = Image.new("RGB", (max(drawn.width, _LEAST_WIDTH), drawn.height + 3 * _LINE + 6), "white")
    sheet.paste(drawn, (0, 0))
    font, pen, top = _font(), ImageDraw.Draw(sheet), drawn.height + 2
    verdict, ratio = "ANOMALY" if result.is_anomaly else "ok", result.score / max(result.threshold, 1e-30)
    pen.text((4, top), _fitting(_in_ascii(printable(name)), font, sheet.width - 8), _INK, font)
    scored = f"{verdict}: score {result.score:.4g} = {ratio:.2f} x threshold"
    pen.text((4, top + _LINE), scored, _FLAGGED if result.is_anomaly else _INK, font)
    scale = np.linspace(1, _FULL, 80, dtype=np.float32)[None] * np.ones((10, 1), np.float32)
    bar = _coloured(np.full((10, 80, 3), 150.0), scale * 1.0001, 1.0).round().astype(np.uint8)
    sheet.paste(Image.fromarray(bar), (4, top + 2 * _LINE + 4))
    pen.text((90, top + 2 * _LINE), f"map {result.coloured_from:.3g} to {_FULL * result.coloured_from:.3g}", _INK, font)
    return sheet


def _with_shots(drawn: Image.Image, frame: Frame) -> Image.Image:
    """The pictures of an event below its peak's, each over when it was taken and its score over the threshold."""
    side = _SHOT_PX * frame.pixels.shape[0] // max(frame.pixels.shape[1], 1)
    across = max(1, (drawn.width + 4) // (_SHOT_PX + 4))
    rows = -(-len(frame.shots) // across)
    sheet = Image.new("RGB", (drawn.width, drawn.height + rows * (side + _LINE + 4)), "white")
    sheet.paste(drawn, (0, 0))
    pen = ImageDraw.Draw(sheet)
    for index, shot in enumerate(frame.shots):
        left, top = index % across * (_SHOT_PX + 4), drawn.height + index // across * (side + _LINE + 4)
        small = Image.fromarray(np.broadcast_to(shot.pixels, (*shot.pixels.shape[:2], 3)))
        sheet.paste(small.resize((_SHOT_PX, side), Image.Resampling.BILINEAR), (left, top))
        words = f"{shot.seconds - frame.started:+.1f} s {shot.ratio:.2f} x"
        pen.text((left + 2, top + side), words, _FLAGGED if shot.is_anomaly else _INK, _font())
    return sheet


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_TEXT)


def _in_ascii(text: str) -> str:
    """The text in the letters that Pillow's own font has: others without their marks, or else escaped."""
    letters = []
    for letter in text:
        plain = "".join(part for part in unicodedata.normalize("NFKD", letter) if not unicodedata.combining(part))
        letters.append((plain if plain.isascii() else letter).encode("ascii", "backslashreplace").decode())
    return "".join(letters)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """The text, its beginning left out where it is too long."""
    if font.getlength(text) <= width:
        return text
    while len(text) > 1 and font.getlength(f"…{text}") > width:
        text = text[1:]
    return f"…{text}"

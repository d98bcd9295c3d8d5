"""A picture and its anomaly map -> an overlay that a person can read."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from edged.results import Frame, Result

# What good pictures show stays clear: colour begins at 1.0, the level that they exceed at one pixel in a thousand,
# and is full at 3.0. The scale is the same on every picture.
_CLEAR = 1.0
_FULL = 3.0
_LEVELS = np.array([0.0, 0.5, 1.0])
_COLOURS = np.array([[255, 221, 0], [255, 128, 0], [220, 0, 0]], dtype=np.float64)
_MAX_OPACITY = 0.6
_STRIPE_PX = 4
_SHADE = 0.5


def draw(frame: Frame, result: Result) -> Image.Image:
    """The overlay of a result: of a picture or of a signal."""
    if frame.pixels.ndim == 2:
        return render_signal(frame.pixels, result.anomaly_map)
    return render(frame.pixels, result.anomaly_map, result.cleaned, result.ignored)


def render(
    pixels: NDArray[np.uint8],
    anomaly_map: NDArray[np.float32],
    cleaned: NDArray[np.uint8] | None = None,
    ignored: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """The picture, what a denoiser made of it where there is one, and the picture under its heat map, side by side.

    What is ignored is hatched under the heat map, and never coloured.

    Args:
        pixels: uint8 (H, W, C), C 1 or 3.
        anomaly_map: float32 (h, w) in the manifest's units.
        cleaned: uint8 (H, W, C), or None.
        ignored: bool (h, w), or None.

    Returns:
        RGB, 2·W or 3·W wide and H high.
    """
    height, width = pixels.shape[:2]
    plain = np.broadcast_to(pixels, (height, width, 3)).astype(np.float64)
    heat = np.asarray(Image.fromarray(anomaly_map).resize((width, height), Image.Resampling.BILINEAR))
    overlay = _coloured(plain, heat) if ignored is None else _hatched(plain, heat, ignored)
    middle = [] if cleaned is None else [np.broadcast_to(cleaned, (height, width, 3)).astype(np.float64)]
    return Image.fromarray(np.concatenate([plain, *middle, overlay], axis=1).round().astype(np.uint8))


def render_signal(signal: NDArray[np.float32], anomaly_map: NDArray[np.float32]) -> Image.Image:
    """The channels of a signal as lines, one above the other, over their heat map.

    Args:
        signal: float32 (C, T).
        anomaly_map: float32 (h, w) in the manifest's units; its columns are moments.

    Returns:
        RGB.
    """
    channels, length = signal.shape
    width, height = min(max(length, 280), 2000), 120
    # A position of the map stands for equally many samples; the last one may reach beyond the end.
    heat_of_samples = np.repeat(anomaly_map.max(axis=0), -(-length // anomaly_map.shape[1]))[None, :length]
    heat = Image.fromarray(heat_of_samples).resize((width, height), Image.Resampling.BILINEAR)
    sheet = Image.fromarray(_coloured(np.full((height, width, 3), 255.0), np.asarray(heat)).round().astype(np.uint8))
    sheet_of_all = Image.new("RGB", (width, height * min(channels, 16)))
    for index, values in enumerate(signal[:16]):
        strip = sheet.copy()
        low, high = float(values.min()), float(values.max())
        level = height - 5 - (values - low) / max(high - low, 1e-9) * (height - 10)
        points = zip(np.linspace(0, width - 1, length).tolist(), level.tolist(), strict=True)
        ImageDraw.Draw(strip).line(list(points), fill=(30, 30, 30), width=2)
        sheet_of_all.paste(strip, (0, index * height))
    return sheet_of_all


def _hatched(plain: NDArray[np.float64], heat: NDArray[np.float32], ignored: NDArray[np.bool_]) -> NDArray[np.float64]:
    """`_coloured`, with darker stripes where the map, bool (h, w), does not count."""
    height, width = heat.shape
    where = np.asarray(Image.fromarray(ignored).resize((width, height), Image.Resampling.NEAREST))
    stripe = (np.add.outer(np.arange(height), np.arange(width)) // _STRIPE_PX) % 2 == 0
    shade = np.where(where & stripe, _SHADE, 1.0)[..., None]
    return np.where(where[..., None], plain * shade, _coloured(plain, heat))


def _coloured(plain: NDArray[np.float64], heat: NDArray[np.float32]) -> NDArray[np.float64]:
    """(H, W, 3) of 0 to 255 under the colours of a heat map (H, W)."""
    strength = np.clip((heat - _CLEAR) / (_FULL - _CLEAR), 0.0, 1.0)
    colour = np.stack([np.interp(strength, _LEVELS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    opacity = np.where(strength > 0, 0.25 + (_MAX_OPACITY - 0.25) * strength, 0.0)[..., None]
    blended: NDArray[np.float64] = plain * (1 - opacity) + colour * opacity
    return blended

"""A picture and its anomaly map -> an overlay that a person can read."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

# What good pictures show stays clear: colour begins at 1.0, the level that they exceed at one pixel in a thousand,
# and is full at 3.0. The scale is the same on every picture.
_CLEAR = 1.0
_FULL = 3.0
_LEVELS = np.array([0.0, 0.5, 1.0])
_COLOURS = np.array([[255, 221, 0], [255, 128, 0], [220, 0, 0]], dtype=np.float64)
_MAX_OPACITY = 0.6


def render(
    pixels: NDArray[np.uint8], anomaly_map: NDArray[np.float32], cleaned: NDArray[np.uint8] | None = None
) -> Image.Image:
    """The picture, what a denoiser made of it where there is one, and the picture under its heat map, side by side.

    Args:
        pixels: uint8 (H, W, C), C 1 or 3.
        anomaly_map: float32 (h, w) in the manifest's units.
        cleaned: uint8 (H, W, C), or None.

    Returns:
        RGB, 2·W or 3·W wide and H high.
    """
    height, width = pixels.shape[:2]
    plain = np.broadcast_to(pixels, (height, width, 3)).astype(np.float64)
    heat = np.asarray(Image.fromarray(anomaly_map).resize((width, height), Image.Resampling.BILINEAR))
    strength = np.clip((heat - _CLEAR) / (_FULL - _CLEAR), 0.0, 1.0)
    colour = np.stack([np.interp(strength, _LEVELS, _COLOURS[:, channel]) for channel in range(3)], axis=-1)
    opacity = np.where(strength > 0, 0.25 + (_MAX_OPACITY - 0.25) * strength, 0.0)[..., None]
    overlay = plain * (1 - opacity) + colour * opacity
    middle = [] if cleaned is None else [np.broadcast_to(cleaned, (height, width, 3)).astype(np.float64)]
    return Image.fromarray(np.concatenate([plain, *middle, overlay], axis=1).round().astype(np.uint8))

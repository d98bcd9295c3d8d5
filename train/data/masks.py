"""Where to look: a mask of any size -> one of the model's picture, and into the graph."""

from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from edged.errors import PictureError
from edged.files import read_regular
from edged.media.imaging import ImageInput, Limits
from edged.media.regions import mask_of, positions_that_count
from train.config.base import ModelConfig
from train.errors import OptionError
from train.nets.detector import Detector
from train.nets.features import Masked
from train.nets.head import Head
from train.nets.vae import VaeDetector

_WHITE: Final = 255


def write(given: Path, spec: ImageInput, out: Path) -> None:
    """Brings a mask to the model's size, as pictures come to it, and writes it as PNG.

    Raises:
        OptionError: it cannot be read, or is black everywhere.
    """
    try:
        looked_at = mask_of(read_regular(given, Limits().max_bytes), spec)
    except (OSError, PictureError) as error:
        raise OptionError([f"mask: {given}: {getattr(error, 'strerror', None) or error}"]) from error
    if not looked_at.any():
        raise OptionError([f"mask: {given} is black everywhere that the model looks; what is black is ignored"])
    Image.fromarray(looked_at.astype(np.uint8) * _WHITE).save(out, "PNG")


def fill(detector: Detector | VaeDetector, config: ModelConfig) -> None:
    """Puts the mask of the model's size, which `config.mask` names by now, into a detector with fresh weights."""
    if config.mask is None:
        return
    assert isinstance(detector.extractor, Masked)
    assert isinstance(detector.head, Head)
    looked_at: NDArray[np.bool_] = np.asarray(Image.open(config.mask)) > _WHITE // 2
    detector.extractor.looked_at.copy_(torch.from_numpy(looked_at))
    kept = detector.head.kept
    assert kept is not None
    kept.copy_(torch.from_numpy(positions_that_count(looked_at, *kept.shape)))

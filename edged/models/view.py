"""What a model looks at of a source's pictures: what it was trained to look at, or a part that the source names."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edged.errors import BundleError, ConfigError, PictureError
from edged.files import read_regular
from edged.media.imaging import ImageInput, Limits, Region
from edged.media.inputs import Input
from edged.media.regions import mask_of, other_shape, positions_that_count, taken
from edged.models.bundle import Bundle


@dataclass(frozen=True, slots=True)
class View:
    """How pictures come to a model, and what of its map counts.

    Attributes:
        input: by what rule they are decoded.
        trained: by what rule those were that the model was trained on.
        roi: the part that the source names, px of its files; None for the one that the model was trained on.
        ignored: bool (h, w), the positions that do not count, of the map that the score is made of; None where all do.
        masked_by_source: whether the source ignores some of them, which the score in the graph counts.
    """

    input: Input
    trained: Input
    roi: Region | None = None
    ignored: NDArray[np.bool_] | None = None
    masked_by_source: bool = False

    @classmethod
    def of_bundle(cls, bundle: Bundle) -> "View":
        """That of training.

        Raises:
            BundleError: the bundle's mask cannot be used.
        """
        spec, name = bundle.manifest.input, bundle.manifest.mask
        if name is None or not isinstance(spec, ImageInput):
            return cls(spec, spec)
        try:
            looked_at = mask_of(bundle.read(name), replace(spec, roi=None, resize="stretch"))
            ignored = ~positions_that_count(looked_at, *_map_of(bundle))
        except (PictureError, ValueError) as error:
            raise BundleError(f"{bundle.path}: {name} cannot be used: {error}; export the bundle again") from error
        return cls(spec, spec, ignored=ignored)

    def narrowed(self, bundle: Bundle, *, roi: Region | None, mask: Path | None) -> "View":
        """This one for a source that names a part of its pictures, or a mask, or both.

        Raises:
            ConfigError: `key: what is wrong` of each.
        """
        spec = self.input
        if roi is None and mask is None:
            return self
        if not isinstance(spec, ImageInput):
            raise ConfigError([f"{'roi' if mask is None else 'mask'}: is of pictures, and the model takes signals"])
        if roi is not None:
            spec = taken(spec, roi)
        view = replace(self, input=spec, roi=roi)
        if mask is None:
            return view
        if bundle.manifest.map_reference.top is None:
            raise ConfigError(
                [
                    f"mask: the score of {bundle.path} is not made of its map alone, or it does not say how; export it "
                    "again, or train with --mask"
                ]
            )
        try:
            looked_at = mask_of(read_regular(mask, Limits().max_bytes), spec)
        except (OSError, PictureError) as error:
            hint = "" if roi is None else "; beside roi, a mask is as large as the pictures"
            raise ConfigError([f"mask: {mask}: {getattr(error, 'strerror', None) or error}{hint}"]) from error
        if not looked_at.any():
            raise ConfigError([f"mask: {mask} is black everywhere that the model looks; what is black is ignored"])
        ignored = ~positions_that_count(looked_at, *_map_of(bundle))
        if self.ignored is not None:
            ignored |= self.ignored
        if ignored.all():
            raise ConfigError([f"mask: {mask} and the mask of {bundle.path} leave nothing to look at"])
        return replace(view, ignored=ignored, masked_by_source=True)

    @property
    def is_of_training(self) -> bool:
        """Whether the source shows what the model was trained and calibrated on, and no part of its own."""
        return self.roi is None and not self.masked_by_source

    def other_shape(self, width: int, height: int) -> str | None:
        """What differs, in words, between a picture of this size and those of training; None if little."""
        if not isinstance(self.trained, ImageInput):
            return None
        return other_shape(self.trained, width, height, roi=self.roi)

    def score(self, bundle: Bundle, score: float, anomaly_map: NDArray[np.float32]) -> float:
        """The score of what counts: the graph's, or the same made of the positions that the source does not ignore.

        Args:
            bundle: whose model gave both.
            score: of the graph.
            anomaly_map: float32 (h, w), the one that the score is made of.
        """
        if not self.masked_by_source or self.ignored is None or bundle.manifest.map_reference.top is None:
            return score
        counting = np.sort(anomaly_map[~self.ignored])[-bundle.manifest.map_reference.top :]
        return float(counting.mean(dtype=np.float64) * bundle.manifest.map_reference.value)


def _map_of(bundle: Bundle) -> tuple[int, int]:
    outputs = bundle.manifest.outputs
    height, width = (outputs.get("score_map") or outputs["anomaly_map"]).shape[1:]
    return int(height), int(width)

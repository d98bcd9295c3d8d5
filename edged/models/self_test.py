"""Proof that the whole path still works when no parts arrive: a VAE's own sample, and a golden picture, end to end."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edged.errors import EdgedError
from edged.media.decoding import Outcome
from edged.media.imaging import ImageInput
from edged.media.inputs import Input
from edged.models.bundle import Golden
from edged.models.sampling import Sampler
from edged.models.scorer import Scorer
from edged.results import Frame, Result, new_id

SOURCE = "self-test"

Decode = Callable[[BinaryIO, Input], Outcome]


@dataclass(frozen=True, slots=True)
class SelfTest:
    """One model's self-test; what it scores is never a row of the journal."""

    scorer: Scorer
    sampler: Sampler
    golden: Golden
    spec: Input
    """Of pictures that are at the model's size already, and show only what it looks at."""

    @classmethod
    def load(cls, scorer: Scorer) -> "SelfTest":
        """Opens the decoder of a loaded VAE on the device that its model runs on.

        Raises:
            BundleError: the model is no VAE on pixels.
        """
        device, threads = scorer.asked
        sampler = Sampler.load(scorer, device=device, threads=threads)
        spec = scorer.bundle.manifest.input
        whole = replace(spec, roi=None) if isinstance(spec, ImageInput) else spec
        return cls(scorer, sampler, scorer.bundle.golden(), whole)

    def check(self, decode: Decode, seed: int) -> float:
        """Samples a picture and scores it, and a golden one, as if both had arrived as files.

        Args:
            decode: of the pool that decodes pictures.
            seed: of the sample, and of the choice of the golden picture.

        Returns:
            Score / threshold of the sample.

        Raises:
            EdgedError: a picture did not come through, or the golden one's score is not what it was at export.
        """
        index = seed % len(self.golden.score)
        score = self._score(decode, self.golden.image[index]).score
        expected, tolerance = float(self.golden.score[index]), self.scorer.bundle.manifest.tolerance
        if abs(score - expected) > tolerance.atol + tolerance.rtol * abs(expected):
            raise EdgedError(f"the golden picture {index} scores {score:.6g}; at export it was {expected:.6g}")
        sampled = self._score(decode, self.sampler.prior(1, seed)[0])
        return sampled.score / sampled.threshold

    def _score(self, decode: Decode, pixels: NDArray[np.uint8]) -> Result:
        png = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, "PNG")
        png.seek(0)
        outcome = decode(png, self.spec)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.decoded is not None
        result = self.scorer.score(Frame(SOURCE, new_id(), 0.0, outcome.decoded.pixels))
        if not isinstance(result, Result):
            raise result
        return result

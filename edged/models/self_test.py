"""Proof that the whole path still works when no parts arrive: a VAE's own sample, and a golden picture, end to end."""

import io
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image

from edged.errors import EdgedError
from edged.media.decoding import DecodingAborted, Outcome
from edged.media.inputs import Input
from edged.models.bundle import Golden
from edged.models.detector import Detector
from edged.models.sampling import Sampler
from edged.results import Frame, Result, new_id
from edged.service.metrics import Metrics

SOURCE = "canary"

Decode = Callable[[BinaryIO, Input], Outcome]


@dataclass(frozen=True, slots=True)
class Canary:
    """One model's canary; what it scores is never a row of the journal."""

    detector: Detector
    sampler: Sampler
    golden: Golden

    @classmethod
    def load(cls, detector: Detector) -> "Canary":
        """Opens the decoder of a loaded VAE on the device that its model runs on.

        Raises:
            BundleError: the model is no VAE on pixels.
        """
        device, threads = detector.asked
        sampler = Sampler.load(detector, device=device, threads=threads)
        return cls(detector, sampler, detector.bundle.golden())

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
        expected, tolerance = float(self.golden.score[index]), self.detector.bundle.manifest.tolerance
        if abs(score - expected) > tolerance.atol + tolerance.rtol * abs(expected):
            raise EdgedError(f"the golden picture {index} scores {score:.6g}; at export it was {expected:.6g}")
        sampled = self._score(decode, self.sampler.prior(1, seed)[0])
        return sampled.score / sampled.threshold

    def _score(self, decode: Decode, pixels: NDArray[np.uint8]) -> Result:
        png = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(png, "PNG")
        png.seek(0)
        outcome = decode(png, self.detector.bundle.manifest.input)
        if outcome.error is not None:
            raise outcome.error
        assert outcome.decoded is not None
        (result,) = self.detector.detect([Frame(SOURCE, new_id(), 0.0, outcome.decoded.pixels)])
        if not isinstance(result, Result):
            raise result
        return result


class CanaryRunner:
    """Checks one canary again and again, in a thread of its own, and exports the outcome."""

    def __init__(self, model: str, canary: Canary, interval_s: float, decode: Decode, metrics: Metrics) -> None:
        """Prepares it; `start` starts the thread."""
        self._canary, self._interval_s, self._decode = canary, interval_s, decode
        self._ok, self._ratio = metrics.canary_ok.labels(model), metrics.canary_score_ratio.labels(model)
        self._log = structlog.get_logger().bind(model=model)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"canary-{model}")
        self.start = self._thread.start

    def join(self) -> None:
        """Waits for the thread, if it ever ran."""
        if self._thread.ident is not None:
            self._thread.join()

    def ask_to_stop(self) -> None:
        """Ends the thread after the check that is under way."""
        self._stopping.set()

    def _loop(self) -> None:
        seed, was_ok = 0, True
        while True:
            try:
                self._ratio.set(self._canary.check(self._decode, seed))
                is_ok = True
            except DecodingAborted:
                return
            except Exception as error:  # noqa: BLE001
                is_ok = False
                if was_ok:
                    self._log.error("the canary failed: the path from file to score is broken", error=str(error))
            if is_ok and not was_ok:
                self._log.info("the canary is well again")
            self._ok.set(is_ok)
            was_ok = is_ok
            seed += 1
            if self._stopping.wait(self._interval_s):
                return

"""Drawing new normal pictures from a VAE: from the prior, around a picture, or on the way between two.

Kingma and Welling, *Auto-Encoding Variational Bayes* (2014): the prior is a standard normal distribution over latents
z (L), the posterior of a picture a normal one with the mean and log-variance that the encoder gives.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edged.errors import BundleError
from edged.models.runtime import Device, Session, open_session
from edged.models.scorer import Scorer

DECODER: Final = "decoder.onnx"

_BATCH: Final = 16
_MAX_LATENT: Final = 65_536
_GAP_PX: Final = 2


@dataclass(frozen=True, slots=True)
class Sampler:
    """A VAE's decoder, and its encoder for what starts from a picture.

    The same seed gives the same pictures on the same machine, provider and version of ONNX Runtime: latents are drawn
    by numpy's PCG64 and decoded in batches of a fixed size.
    """

    scorer: Scorer
    session: Session
    latent: int

    @classmethod
    def load(cls, scorer: Scorer, *, device: Device = "auto", threads: int = 0) -> "Sampler":
        """Opens the decoder of a loaded bundle.

        Raises:
            BundleError: the bundle has none, for only a VAE on pixels does; or it does not belong to the encoder.
        """
        bundle = scorer.bundle
        if DECODER not in bundle.manifest.files:
            kind, backbone = bundle.manifest.kind, bundle.manifest.backbone
            raise BundleError(
                f"{bundle.path} cannot sample: only a vae on pixels can, and this is {kind} on {backbone}"
            )
        session = open_session(bundle.read(DECODER), device=device, threads=threads, name=f"{bundle.path}/{DECODER}")
        inputs = session.ort.get_inputs()
        latents = [one.shape[1] for one in inputs if len(one.shape) == 2 and isinstance(one.shape[1], int)]
        if len(inputs) != 1 or len(latents) != 1 or not 1 <= latents[0] <= _MAX_LATENT:
            taken = ", ".join(f"{one.name} {one.shape}" for one in inputs)
            raise BundleError(f"{bundle.path}: {DECODER} takes {taken}, not z (N, L); export the bundle again")
        (drawn,) = session.run(["image"], np.zeros((_BATCH, latents[0]), np.float32))
        if drawn.dtype != np.uint8 or drawn.shape != (_BATCH, *bundle.manifest.input.shape):
            raise BundleError(
                f"{bundle.path}: {DECODER} gives {drawn.dtype} {drawn.shape}, not pictures uint8 "
                f"{(_BATCH, *bundle.manifest.input.shape)}; export the bundle again"
            )
        return cls(scorer, session, latents[0])

    def prior(self, n: int, seed: int) -> NDArray[np.uint8]:
        """N pictures from the prior: uint8 (n, H, W, C)."""
        return self.decode(np.random.default_rng(seed).standard_normal((n, self.latent), dtype=np.float32))

    def around(self, image: NDArray[np.uint8], n: int, seed: int) -> NDArray[np.uint8]:
        """N pictures from the posterior of image: uint8 (H, W, C) -> uint8 (n, H, W, C)."""
        mean, log_variance = self._encode(image[None])
        noise = np.random.default_rng(seed).standard_normal((n, self.latent), dtype=np.float32)
        return self.decode((mean + np.exp(log_variance / 2) * noise).astype(np.float32))

    def between(self, first: NDArray[np.uint8], second: NDArray[np.uint8], n: int) -> NDArray[np.uint8]:
        """N pictures on the straight line between the means of two: uint8 (H, W, C) -> uint8 (n, H, W, C)."""
        mean, _ = self._encode(np.stack([first, second]))
        share = np.linspace(0, 1, n, dtype=np.float32)[:, None]
        return self.decode(((1 - share) * mean[0] + share * mean[1]).astype(np.float32))

    def decode(self, z: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Latents float32 (n, L) -> pictures uint8 (n, H, W, C)."""
        batches = [np.zeros((_BATCH, self.latent), dtype=np.float32) for _ in range(ceil(len(z) / _BATCH))]
        for index, batch in enumerate(batches):
            part = z[index * _BATCH : (index + 1) * _BATCH]
            batch[: len(part)] = part
        images = [self.session.run(["image"], batch)[0] for batch in batches]
        return np.concatenate(images)[: len(z)]

    def _encode(self, image: NDArray[np.uint8]) -> Sequence[NDArray[np.float32]]:
        names = ["latent_mean", "latent_logvar"]
        if not set(names) <= self.scorer.bundle.manifest.outputs.keys():
            raise BundleError(f"{self.scorer.bundle.path} has no encoder outputs; export the bundle again")
        latents = self.scorer.session.run(names, image)
        if any(latent.shape != (len(image), self.latent) for latent in latents):
            raise BundleError(f"{self.scorer.bundle.path}: encoder and decoder do not fit; export the bundle again")
        return latents


def grid(images: NDArray[np.uint8]) -> Image.Image:
    """Pictures uint8 (n, H, W, C) as one, in rows that are about as many as columns."""
    n, height, width, channels = images.shape
    columns = ceil(sqrt(n))
    rows = ceil(n / columns)
    shape = (rows * (height + _GAP_PX) - _GAP_PX, columns * (width + _GAP_PX) - _GAP_PX, channels)
    sheet = np.full(shape, 255, dtype=np.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + _GAP_PX), index % columns * (width + _GAP_PX)
        sheet[top : top + height, left : left + width] = image
    return Image.fromarray(sheet[..., 0] if channels == 1 else sheet)

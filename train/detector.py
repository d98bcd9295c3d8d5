"""The whole model: uint8 pixels -> score, anomaly map and, for pixel models, the reconstruction."""

import torch
from torch import Tensor, nn

from train.config import AutoencoderConfig
from train.features import Extractor, FoldedPixels, make_extractor
from train.head import Head
from train.models import ConvAutoencoder


class Detector(nn.Module):
    """Extractor, standardising, autoencoder and head: what is trained, exported and run is this one graph."""

    center: Tensor
    scale: Tensor

    def __init__(self, extractor: Extractor, autoencoder: ConvAutoencoder, head: Head) -> None:
        super().__init__()
        self.extractor = extractor
        self.autoencoder = autoencoder
        self.head = head
        self.register_buffer("center", torch.zeros(extractor.channels, 1, 1))
        self.register_buffer("scale", torch.ones(extractor.channels, 1, 1))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns, in its order."""
        names = ("score", "anomaly_map")
        return (*names, "reconstruction") if isinstance(self.extractor, FoldedPixels) else names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Scores pictures.

        Args:
            image: uint8 (N, H, W, C).

        Returns:
            score: float32 (N,), above 0, larger is worse.
            anomaly_map: float32 (N, h, w), above 0.
            reconstruction: uint8 (N, H, W, C); of pixel models alone.
        """
        features = self.extractor(image.permute(0, 3, 1, 2).float())
        standardised = (features - self.center) / self.scale
        reconstruction = self.autoencoder(standardised)
        score, anomaly_map = self.head(standardised - reconstruction)
        if isinstance(self.extractor, FoldedPixels):
            return score, anomaly_map, self.extractor.unfold(reconstruction * self.scale + self.center)
        return score, anomaly_map


def make_detector(config: AutoencoderConfig) -> Detector:
    """A detector with fresh weights and an empty head."""
    extractor = make_extractor(config)
    height, width = (side // extractor.stride for side in config.size)
    autoencoder = ConvAutoencoder(
        channels=extractor.channels,
        height=height,
        width=width,
        hidden=config.width,
        depth=config.depth,
        latent=config.latent,
    )
    head = Head(
        channels=extractor.channels,
        height=height,
        width=width,
        regions=config.regions,
        smoothing=config.smoothing,
        top=config.top,
    )
    return Detector(extractor, autoencoder, head)

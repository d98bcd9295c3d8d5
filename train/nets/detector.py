"""The whole model: uint8 pixels -> score, anomaly map and, for pixel models, the reconstruction."""

import torch
from torch import Tensor, nn

from train.config.base import ModelConfig
from train.config.denoiser import DenoiserConfig
from train.config.kinds import AutoencoderConfig
from train.config.signal import SignalConfig
from train.config.vae import VaeConfig
from train.data.signals import FoldedSamples, OnSignal, WholeHead, make_network
from train.nets.detail import Detail
from train.nets.features import (
    Extractor,
    FoldedPixels,
    PictureExtractor,
    detail_of,
    make_extractor,
    to_planes,
    unmasked,
)
from train.nets.head import Head
from train.nets.models import Autoencoder, conv_networks, dense_networks, strided_networks
from train.nets.unet import OnPicture, StridedDenoiser, UNet
from train.nets.vae import Vae, VaeDetector

_PLENTY = 10**9  # pictures: a configuration whose regions nobody has settled yet gets the most
_VAE_HIDDEN = 400  # units of the tutorials' dense VAE


class Detector(nn.Module):
    """Extractor, standardising, autoencoder or denoiser, and head: what is trained, exported and run, one graph.

    It takes pictures uint8 (N, H, W, C), or, behind `FoldedSamples`, signals float32 (N, C, T).
    """

    center: Tensor
    scale: Tensor

    def __init__(
        self, extractor: Extractor, autoencoder: nn.Module, head: Head | WholeHead, detail: Detail | None = None
    ) -> None:
        super().__init__()
        self.extractor = extractor
        self.autoencoder = autoencoder
        self.head = head
        self.detail = detail
        self.register_buffer("center", torch.zeros(extractor.channels, 1, 1))
        self.register_buffer("scale", torch.ones(extractor.channels, 1, 1))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns, in its order."""
        names = ("score", "anomaly_map") if self.detail is None else ("score", "anomaly_map", "score_map")
        return (*names, "reconstruction") if isinstance(self.inner, FoldedPixels | FoldedSamples) else names

    @property
    def inner(self) -> Extractor:
        """The extractor, without its mask if it has one."""
        return unmasked(self.extractor)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Scores pictures or signals.

        Args:
            image: uint8 (N, H, W, C) or float32 (N, C, T).

        Returns:
            score: float32 (N,), above 0, larger is worse.
            anomaly_map: float32 (N, h, w), above 0; (N, 1, t) of signals.
            score_map: where the anomaly map is finer than what the score is made of, that one.
            reconstruction: like `image`; of models of pixels and of signals alone.
        """
        if self.detail is not None:
            return self._in_detail(image, self.detail)
        standardised = self.standardised(image)
        reconstruction = self.autoencoder(standardised)
        score, anomaly_map = self.head(standardised - reconstruction)
        if isinstance(inner := self.inner, FoldedPixels | FoldedSamples):
            return score, anomaly_map, inner.unfold(reconstruction * self.scale + self.center)
        return score, anomaly_map

    def _in_detail(self, image: Tensor, detail: Detail) -> tuple[Tensor, ...]:
        assert isinstance(self.head, Head)
        assert not isinstance(self.extractor, FoldedPixels | FoldedSamples)
        joined, finest = self.extractor.both(to_planes(image))
        standardised = (joined - self.center) / self.scale
        excess = self.head.excess(standardised - self.autoencoder(standardised))
        score = self.head.score(excess)
        finer = detail(excess, score, finest, self.head.kept)
        return score, finer / self.head.reference, excess / self.head.reference

    def standardised(self, image: Tensor) -> Tensor:
        """Pictures or signals -> what the autoencoder takes: float32 (N, C, h, w)."""
        return (self.extractor(to_planes(image)) - self.center) / self.scale

    def residual(self, image: Tensor) -> Tensor:
        """Pictures or signals -> what the autoencoder cannot reconstruct: float32 (N, C, h, w)."""
        standardised = self.standardised(image)
        return standardised - self.autoencoder(standardised)


def make_detector(config: AutoencoderConfig | SignalConfig) -> Detector:
    """An autoencoder detector with fresh weights and an empty head."""
    if isinstance(config, SignalConfig):
        return _make_signal_detector(config)
    extractor = make_extractor(config)
    height, width = (side // extractor.stride for side in config.size)
    if config.architecture == "dense":
        encoder, decoder = dense_networks(
            shape=(extractor.channels, height, width), hidden=None, outputs=config.latent, latent=config.latent
        )
        autoencoder = Autoencoder(encoder.append(nn.ReLU()), decoder.append(nn.Sigmoid()))
    else:
        autoencoder = Autoencoder(
            *conv_networks(
                channels=extractor.channels,
                height=height,
                width=width,
                hidden=config.width,
                depth=config.depth,
                outputs=config.latent,
                latent=config.latent,
            )
        )
    detail = detail_of(extractor)
    return Detector(
        extractor,
        autoencoder,
        _head(config, extractor),
        None if detail is None else Detail(detail[0], config.top),
    )


def _make_signal_detector(config: SignalConfig) -> Detector:
    extractor = FoldedSamples(*config.spec.shape, config.patch, config.scaling)
    height, width = extractor.map_size
    local = Head(
        channels=extractor.channels,
        height=height,
        width=width,
        regions=config.regions,
        smoothing=config.smoothing,
        top=config.top,
    )
    autoencoder = OnSignal(Autoencoder(*make_network(config)), extractor)
    return Detector(extractor, autoencoder, WholeHead(local) if config.score == "error" else local)


def make_denoiser(config: DenoiserConfig) -> Detector:
    """A denoiser with fresh weights and an empty head."""
    extractor = make_extractor(config)
    network: nn.Module
    if config.architecture == "strided":
        network = StridedDenoiser(config.channels)
    else:
        network = UNet(channels=config.channels, width=config.width, depth=config.depth)
    return Detector(extractor, OnPicture(network), _head(config, extractor))


def make_vae(config: VaeConfig) -> VaeDetector:
    """A VAE detector with fresh weights and empty scores."""
    extractor = make_extractor(config)
    height, width = (side // extractor.stride for side in config.size)
    sizes = {"outputs": 2 * config.latent, "latent": config.latent}
    if config.architecture == "dense":
        networks = dense_networks(shape=(extractor.channels, height, width), hidden=_VAE_HIDDEN, **sizes)
    elif config.architecture == "strided":
        networks = strided_networks(channels=config.channels, height=config.size[0], width=config.size[1], **sizes)
    else:
        networks = conv_networks(
            channels=extractor.channels,
            height=height,
            width=width,
            hidden=config.width,
            depth=config.depth,
            units=config.units,
            **sizes,
        )
    vae = Vae(*networks, latent=config.latent, channels=extractor.channels, likelihood=config.likelihood)
    head = _head(config, extractor)
    return VaeDetector(extractor, vae, head, score=config.score, elbo_samples=config.elbo_samples)


def _head(config: ModelConfig, extractor: PictureExtractor) -> Head:
    height, width = (side // extractor.stride for side in config.size)
    return Head(
        channels=extractor.channels,
        height=height,
        width=width,
        regions=config.for_pictures(_PLENTY).regions,
        smoothing=config.smoothing,
        top=config.top,
        masked=config.mask is not None,
    )

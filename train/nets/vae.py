"""The variational autoencoder: its networks' distributions, its ELBO, and the detector made of it.

Kingma and Welling, *Auto-Encoding Variational Bayes* (2014). The approximate posterior is normal with a diagonal
covariance, the prior a standard normal, the likelihood Bernoulli (pixels, 0 to 1) or normal with one learned deviation
for all values (Rybkin et al., *Simple and effective VAE training with calibrated decoders*, 2021).
"""

import math
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from train.nets.features import FoldedPixels, PictureExtractor, to_planes, unmasked
from train.nets.head import Head, above_zero

_LOG_VARIANCE: Final = 10.0  # of a latent, at most and at least: beyond it exp would overflow before training reacts
_LEAST_LOG_DEVIATION: Final = -4.0
_LOG_2PI: Final = math.log(2 * math.pi)


class Vae(nn.Module):
    """Encoder, decoder, and what they mean; x is what the detector standardised."""

    center: Tensor
    scale: Tensor

    def __init__(self, encoder: nn.Module, decoder: nn.Module, *, latent: int, channels: int, likelihood: str) -> None:
        """Puts the networks together.

        Args:
            encoder: (N, C, h, w) -> (N, 2 L), means and log-variances.
            decoder: (N, L) -> (N, C, h, w), logits for Bernoulli, means for Gaussian.
            latent: L.
            channels: C.
            likelihood: "bernoulli" or "gaussian".
        """
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.latent = latent
        self.is_bernoulli = likelihood == "bernoulli"
        self.log_deviation = nn.Parameter(torch.zeros(()))  # in standardised units; unused by Bernoulli
        self.register_buffer("center", torch.zeros(channels, 1, 1))
        self.register_buffer("scale", torch.ones(channels, 1, 1))

    def standardise(self, features: Tensor) -> Tensor:
        """Features or folded pixels -> what the encoder takes, same shape."""
        return (features - self.center) / self.scale

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C, h, w) -> mean and log-variance of the posterior, each (N, L)."""
        mean, log_variance = self.encoder(x).split(self.latent, dim=1)
        return mean, log_variance.clamp(-_LOG_VARIANCE, _LOG_VARIANCE)

    def expectation(self, decoded: Tensor) -> Tensor:
        """Mean of the likelihood, in the units of the features: (N, C, h, w) -> the same."""
        return torch.sigmoid(decoded) if self.is_bernoulli else decoded * self.scale + self.center

    def negative_log_likelihood(self, features: Tensor, decoded: Tensor) -> Tensor:
        """-log p(x | z) in nats, summed over C, h and w: (N,).

        Bernoulli takes grey levels as the probability of a set pixel; Gaussian is the density of standardised values.
        """
        if self.is_bernoulli:
            return F.binary_cross_entropy_with_logits(decoded, features, reduction="none").flatten(1).sum(dim=1)
        log_deviation = self.log_deviation.clamp_min(_LEAST_LOG_DEVIATION)
        deviations = (self.standardise(features) - decoded) * torch.exp(-log_deviation)
        return (0.5 * deviations.square() + log_deviation + 0.5 * _LOG_2PI).flatten(1).sum(dim=1)


def kl_divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(q || p) of each latent dimension from the standard normal prior, in nats: (N, L) -> (N, L).

    In closed form: 0.5 (μ² + σ² - 1 - log σ²), appendix B of Kingma and Welling (2014).
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)


class VaeDetector(nn.Module):
    """Extractor, VAE and head: what is trained, exported and run is this one graph, and nothing in it is random."""

    level: Tensor
    spread: Tensor
    draws: Tensor

    def __init__(self, extractor: PictureExtractor, vae: Vae, head: Head, *, score: str, elbo_samples: int) -> None:
        super().__init__()
        self.extractor = extractor
        self.vae = vae
        self.head = head
        self.scores_elbo = score == "elbo"
        self.register_buffer("level", torch.zeros(()))
        self.register_buffer("spread", torch.ones(()))
        # None at all is one at the posterior's mean.
        self.register_buffer("draws", torch.randn(elbo_samples, vae.latent) if elbo_samples else torch.zeros(1, 1))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns, in its order."""
        pictures = ("reconstruction",) if isinstance(unmasked(self.extractor), FoldedPixels) else ()
        return ("score", "anomaly_map", *pictures, "latent_mean", "latent_logvar")

    def features(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> features or folded pixels, (N, C, h, w)."""
        return self.extractor(to_planes(image))

    def residual(self, image: Tensor) -> Tensor:
        """uint8 (N, H, W, C) -> what the decoder cannot make at the mean latent, standardised: (N, C, h, w)."""
        features = self.features(image)
        mean, _ = self.vae.encode(self.vae.standardise(features))
        return self._residual(features, self.vae.decoder(mean))

    def negative_elbo(self, features: Tensor, mean: Tensor, log_variance: Tensor) -> Tensor:
        """Expected -log p(x | z) over the kept draws, plus the KL divergence, in nats: (N,)."""
        deviation = torch.exp(log_variance / 2)
        expected = torch.stack(
            [
                self.vae.negative_log_likelihood(features, self.vae.decoder(mean + deviation * draw))
                for draw in self.draws.unbind()
            ]
        ).mean(dim=0)
        return expected + kl_divergence(mean, log_variance).sum(dim=1)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Scores pictures.

        Args:
            image: uint8 (N, H, W, C).

        Returns:
            score: float32 (N,), above 0, larger is worse.
            anomaly_map: float32 (N, h, w), above 0; of the residual, whatever the score is.
            reconstruction: uint8 (N, H, W, C), at the mean latent; of pixel models alone.
            latent_mean: float32 (N, L).
            latent_logvar: float32 (N, L).
        """
        features = self.features(image)
        mean, log_variance = self.vae.encode(self.vae.standardise(features))
        decoded = self.vae.decoder(mean)
        score, anomaly_map = self.head(self._residual(features, decoded))
        if self.scores_elbo:
            # In deviations above good pictures, and above 0 although a density's logarithm need not be.
            score = above_zero((self.negative_elbo(features, mean, log_variance) - self.level) / self.spread)
        if isinstance(inner := unmasked(self.extractor), FoldedPixels):
            picture = inner.unfold(self.vae.expectation(decoded))
            return score, anomaly_map, picture, mean, log_variance
        return score, anomaly_map, mean, log_variance

    def _residual(self, features: Tensor, decoded: Tensor) -> Tensor:
        return (features - self.vae.expectation(decoded)) / self.vae.scale


class Decoder(nn.Module):
    """The decoder alone, as decoder.onnx: latents -> pictures."""

    def __init__(self, detector: VaeDetector) -> None:
        super().__init__()
        inner = unmasked(detector.extractor)
        assert isinstance(inner, FoldedPixels)
        self.vae = detector.vae
        self.extractor = inner

    def forward(self, z: Tensor) -> Tensor:
        """float32 (N, L) -> uint8 (N, H, W, C), the mean of the likelihood."""
        return self.extractor.unfold(self.vae.expectation(self.vae.decoder(z)))

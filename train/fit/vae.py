"""Training a variational autoencoder, the loop in sight: pictures -> features -> posterior -> sample -> likelihood."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.config.vae import VaeConfig
from train.data import masks
from train.data.pictures import Part, PictureSet
from train.fit import residuals
from train.fit.head import HeadReport, fit_head
from train.fit.loop import CPU, optimise, shuffled, steps_of
from train.fit.trained import Log, Trained
from train.nets.detector import make_vae
from train.nets.features import Features, of_pictures
from train.nets.head import above_zero
from train.nets.vae import Vae, VaeDetector, kl_divergence
from train.progress import Track

_LEAST_SPREAD = 1e-3


def train_vae(
    config: VaeConfig, good: PictureSet, *, cache: Path, log: Log, track: Track, device: torch.device = CPU
) -> Trained[VaeDetector]:
    """Trains on the fit pictures, keeps the epoch with the best ELBO on the statistics pictures, fits the scores.

    The loss is a mean over pictures of -log p(x | z), summed over C, h and w, plus beta times the KL divergence,
    summed over the latent dimensions, in nats; z is one sample, drawn through the reparameterisation z = μ + σ ε. A
    dimension whose KL divergence, a mean over the batch, is below `free_bits` costs `free_bits` and learns nothing
    from it (Kingma et al., *Improving variational inference with inverse autoregressive flow*, 2016).

    Args:
        config: hyper-parameters.
        good: pictures in their parts.
        cache: a folder for what is computed once.
        log: metrics, one line an epoch and one for the head.
        track: shows progress.
        device: where features are computed and the model is trained.
    """
    torch.manual_seed(config.seed)
    detector = make_vae(config).eval()
    masks.fill(detector, config)
    vae = detector.vae
    fit, statistics = good.rows("fit"), good.rows("statistics")
    features = of_pictures(detector.extractor, good, cache=cache, track=track, device=device)
    if config.architecture == "conv":  # the others are made for 0 to 1
        vae.center.copy_(features.center)
        vae.scale.copy_(features.scale)

    size, steps = config.batch_size, steps_of(len(fit), config.batch_size)
    done = count(1)

    def beta(step: int) -> float:
        return config.beta * min(1.0, step / max(1.0, config.warmup * config.epochs * steps))

    def loss(rows: NDArray[np.int64]) -> Tensor:
        x = _raw(features, rows).to(device)  # (N, C, h, w)
        mean, log_variance = vae.encode(vae.standardise(x))  # (N, L) each
        z = mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        likelihood = vae.negative_log_likelihood(x, vae.decoder(z)).mean()
        divergence = kl_divergence(mean, log_variance).mean(dim=0).clamp_min(config.free_bits).sum()
        return likelihood + beta(next(done)) * divergence

    epochs = count(1)

    def held_out() -> dict[str, float]:
        found, divergence = held_out_loss(vae, partial(_batches, features, statistics), seed=config.seed, device=device)
        now = beta(next(epochs) * steps)
        return {"loss_statistics": found, "kl_statistics": divergence, "beta": now}

    kept = optimise(
        vae,
        config,
        batches=partial(shuffled, fit, size),
        loss=loss,
        held_out=held_out,
        steps=steps,
        device=device,
        log=log,
        track=track,
        most_gradient=10 * math.prod(features.values.shape[1:]),
    )

    report = _fit_scores(detector, config, good, features, cache=cache, track=track)
    log({"event": "head", "held_out_ratio": report.held_out_ratio, "reference": report.reference})
    return Trained(detector, kept.epoch, kept.loss, report)


def _fit_scores(
    detector: VaeDetector, config: VaeConfig, good: PictureSet, features: Features, *, cache: Path, track: Track
) -> HeadReport:
    """The head, and where the ELBO is the score its level and spread on the statistics pictures."""
    found = {}
    parts: tuple[Part, ...] = ("fit", "statistics")
    for part in parts:
        with track(f"residuals, {part}") as advance:
            store, rows = cache / f"residuals-{part}.npy", good.rows(part)
            found[part] = residuals.compute(detector.residual, good.pixels, rows=rows, store=store, advance=advance)
    report = fit_head(detector.head, found["fit"], found["statistics"], shrinkage=config.shrinkage)
    if detector.scores_elbo:
        scores = _fit_elbo(detector, partial(_batches, features, good.rows("statistics")))
        report = replace(report, statistics_scores=scores)
    return report


@torch.no_grad()
def held_out_loss(
    vae: Vae, batches: Callable[[], Iterator[Tensor]], *, seed: int, device: torch.device = CPU
) -> tuple[float, float]:
    """Negative ELBO (beta 1, one sample of z, the same at every call) and its KL part: nats a picture, means."""
    generator = torch.Generator().manual_seed(seed)
    losses, divergences = [], []
    for batch in batches():
        x = batch.to(device)
        mean, log_variance = vae.encode(vae.standardise(x))
        z = mean + torch.exp(log_variance / 2) * torch.randn(mean.shape, generator=generator).to(device)
        divergences.append(kl_divergence(mean, log_variance).sum(dim=1))
        losses.append(vae.negative_log_likelihood(x, vae.decoder(z)) + divergences[-1])
    return float(torch.cat(losses).mean()), float(torch.cat(divergences).mean())


@torch.no_grad()
def _fit_elbo(detector: VaeDetector, batches: Callable[[], Iterator[Tensor]]) -> NDArray[np.float32]:
    """Level and spread of the negative ELBO on the statistics pictures; gives their scores."""
    vae = detector.vae
    found = torch.cat([detector.negative_elbo(x, *vae.encode(vae.standardise(x))) for x in batches()])
    detector.level.copy_(found.mean())
    detector.spread.copy_(found.std().clamp_min(_LEAST_SPREAD))
    return above_zero((found - detector.level) / detector.spread).numpy()


def _raw(features: Features, rows: NDArray[np.int64]) -> Tensor:
    """Features as the extractor gave them: float32 (N, C, h, w)."""
    return torch.from_numpy(features.values[rows]).float()


def _batches(features: Features, rows: NDArray[np.int64]) -> Iterator[Tensor]:
    for start in range(0, len(rows), 64):
        yield _raw(features, rows[start : start + 64])

"""Training an autoencoder detector, the loop in sight: pictures (and copies) -> features -> autoencoder -> head."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.config.kinds import EFFICIENTNET, AutoencoderConfig
from train.config.signal import SignalConfig
from train.data import masks
from train.data.augmentation import augmentation, with_copies
from train.data.groups import members_of_groups
from train.data.pictures import PictureSet
from train.data.signals import WholeHead, fit_whole
from train.fit.head import HeadReport, fit_head
from train.fit.loop import CPU, optimise, shuffled, steps_of
from train.fit.out_of_fold import OutOfFold, fit_head_on_all
from train.fit.trained import Log, Trained
from train.nets.detector import Detector, make_detector
from train.nets.features import Features, of_pictures
from train.progress import Track


def train_detector(
    config: AutoencoderConfig | SignalConfig,
    good: PictureSet,
    *,
    cache: Path,
    log: Log,
    track: Track,
    device: torch.device = CPU,
) -> Trained[Detector]:
    """Trains the autoencoder on the fit pictures and fits the head; calibration pictures are not looked at.

    Where every picture fits (`config.cross`), nothing is held out to stop by, and the head gives scores out of fold.

    The loss is the mean error, squared or absolute, over N, C, h and w, of standardised features: squared, 1 is
    predicting their mean.

    Args:
        config: hyper-parameters.
        good: pictures or signals in their parts.
        cache: a folder for what is computed once.
        log: metrics, one line an epoch and one for the head.
        track: shows progress.
        device: where features are computed and the autoencoder is trained.
    """
    torch.manual_seed(config.seed)
    detector = make_detector(config).eval()
    if isinstance(config, AutoencoderConfig):
        masks.fill(detector, config)
    n, groups = len(good.part("fit")), members_of_groups(good.part("fit"))
    if change := augmentation(config, good):
        with track("copies") as advance:
            good = with_copies(good, change, seed=config.seed, store=cache / "copies.npy", advance=advance)
    fit, statistics, copies = (good.rows(part) for part in ("fit", "statistics", "copies"))
    features = of_pictures(detector.extractor, good, cache=cache, track=track, device=device)
    if isinstance(config, AutoencoderConfig) and config.architecture == "dense":  # ends in a sigmoid and sees 0 to 1
        features = replace(features, center=detector.center, scale=detector.scale)
    detector.center.copy_(features.center)
    detector.scale.copy_(features.scale)
    if detector.detail is not None and features.finest is not None:
        detector.detail.fit(*features.finest)

    model, size = detector.autoencoder, config.batch_size

    def loss(rows: NDArray[np.int64]) -> Tensor:
        x = features.batch(rows).to(device)  # (N, C, h, w)
        noisy = x + config.noise * torch.randn_like(x) if config.noise else x
        return _error(model(noisy) - x, config.loss).mean()

    @torch.no_grad()
    def held_out() -> dict[str, float]:
        """Mean error over whole pictures, of standardised features."""
        maps = (x.to(device) for x in features.batches(statistics))
        losses = [_error(model(x) - x, config.loss).mean(dim=(1, 2, 3)) for x in maps]
        return {"loss_statistics": float(torch.cat(losses).mean())}

    kept = optimise(
        model,
        config,
        batches=partial(shuffled, fit, size),
        loss=loss,
        held_out=(dict) if config.cross else held_out,
        steps=steps_of(len(fit), size),
        device=device,
        log=log,
        track=track,
    )

    report, out_of_fold = fit_head_of(
        detector, features, fit=fit, statistics=statistics, copies=copies, groups=groups, config=config, track=track
    )
    log({"event": "head", "held_out_ratio": report.held_out_ratio, "reference": report.reference})
    on_features = isinstance(config, AutoencoderConfig) and config.backbone == EFFICIENTNET
    values = _originals_first(features.values, fit, statistics, copies, n) if on_features else None
    return Trained(detector, kept.epoch, kept.loss, report, out_of_fold, values)


def fit_head_of(
    detector: Detector,
    features: Features,
    *,
    fit: NDArray[np.int64],
    statistics: NDArray[np.int64],
    copies: NDArray[np.int64],
    groups: Sequence[NDArray[np.int64]],
    config: AutoencoderConfig | SignalConfig,
    track: Track,
) -> tuple[HeadReport, OutOfFold | None]:
    """Fits the head of a trained autoencoder; scores out of fold where every picture fits.

    Args:
        detector: its head is to be filled.
        features: standardised as the autoencoder takes them.
        fit: rows of the fit pictures, and then of their copies.
        statistics: rows of the statistics pictures.
        copies: rows of their copies.
        groups: which fit pictures, by their index, leave together.
        config: hyper-parameters.
        track: shows progress.
    """
    model = detector.autoencoder

    def residual(rows: NDArray[np.int64]) -> Tensor:
        x = features.batch(rows)
        found: Tensor = x - model(x)
        return found

    def residuals(rows: NDArray[np.int64]) -> Any:
        return lambda: (x - model(x) for x in features.batches(rows))

    out_of_fold = None
    with track("statistics") as advance, torch.no_grad():
        parts = residuals(fit), residuals(statistics), residuals(copies)
        if isinstance(detector.head, WholeHead):
            report = fit_whole(detector.head, *parts, shrinkage=config.shrinkage)
        elif config.cross:
            versions = fit.reshape(-1, sum(map(len, groups)))
            report, out_of_fold = fit_head_on_all(detector.head, residual, versions, groups, shrinkage=config.shrinkage)
        else:
            report = fit_head(detector.head, *parts, shrinkage=config.shrinkage)
        advance(1, 1)
    return report, out_of_fold


def _originals_first(
    values: NDArray[np.floating],
    fit: NDArray[np.int64],
    statistics: NDArray[np.int64],
    copies: NDArray[np.int64],
    n: int,
) -> NDArray[np.floating]:
    """Features of n fit pictures and the statistics pictures, and then of their copies."""
    rows = np.concatenate([fit[:n], statistics, fit[n:], copies])
    in_order = len(rows) == len(values) and (rows == np.arange(len(rows))).all()
    return values if in_order else values[rows]  # they may be more than memory holds, and as a rule are in order


def _error(residual: Tensor, loss: str) -> Tensor:
    return residual.square() if loss == "mse" else residual.abs()

"""Training an autoencoder detector, the loop in sight: pictures -> features -> autoencoder -> head."""

import copy
import math
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from train.config import AutoencoderConfig
from train.config_signal import SignalConfig
from train.detector import Detector, make_detector
from train.features import Features, compute
from train.head_fit import fit_head
from train.pictures import PictureSet
from train.progress import Track
from train.signals import WholeHead, fit_whole
from train.trained import Log, Trained, share_of_peak


def train_detector(
    config: AutoencoderConfig | SignalConfig, good: PictureSet, *, cache: Path, log: Log, track: Track
) -> Trained[Detector]:
    """Trains the autoencoder on the fit pictures and fits the head; calibration pictures are not looked at.

    The loss is the mean error, squared or absolute, over N, C, h and w, of standardised features: squared, 1 is
    predicting their mean.

    Args:
        config: hyper-parameters.
        good: pictures or signals in their parts.
        cache: a folder for what is computed once.
        log: metrics, one line an epoch and one for the head.
        track: shows progress.
    """
    torch.manual_seed(config.seed)
    detector = make_detector(config).eval()
    fit, statistics = good.rows("fit"), good.rows("statistics")
    with track("features") as advance:
        features = compute(
            detector.extractor,
            good.pixels,
            rows=np.concatenate([fit, statistics]),
            fit=fit,
            store=cache / "features.npy",
            advance=advance,
        )
    if isinstance(config, AutoencoderConfig) and config.architecture == "dense":  # ends in a sigmoid and sees 0 to 1
        features = replace(features, center=detector.center, scale=detector.scale)
    detector.center.copy_(features.center)
    detector.scale.copy_(features.scale)

    model = detector.autoencoder
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    steps = config.epochs * max(1, len(fit) // config.batch_size)
    share = partial(share_of_peak, total=steps, schedule=config.schedule)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    best, best_loss, best_epoch = copy.deepcopy(model.state_dict()), math.inf, 0
    began = time.monotonic()

    with track("training") as advance:
        for epoch in range(1, config.epochs + 1):
            model.train()
            order = fit[torch.randperm(len(fit)).numpy()]
            total = 0.0
            # The last, smaller batch is left to another epoch's shuffle: its batch statistics would be noise.
            for start in range(0, max(1, len(fit) - config.batch_size + 1), config.batch_size):
                x = features.batch(order[start : start + config.batch_size])  # (N, C, h, w)
                noisy = x + config.noise * torch.randn_like(x) if config.noise else x
                loss = _error(model(noisy) - x, config.loss).mean()
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                schedule.step()
                total += loss.item()

            model.eval()
            held_out = _loss(model, features, statistics, config.loss)
            log(
                {
                    "event": "epoch",
                    "epoch": epoch,
                    "loss_fit": total / max(1, len(fit) // config.batch_size),
                    "loss_statistics": held_out,
                    "learning_rate": schedule.get_last_lr()[0],
                    "seconds": round(time.monotonic() - began, 3),
                }
            )
            if held_out < best_loss:
                best, best_loss, best_epoch = copy.deepcopy(model.state_dict()), held_out, epoch
            advance(epoch, config.epochs)
            if epoch - best_epoch >= config.patience:
                break

    model.load_state_dict(best)
    model.requires_grad_(False).eval()

    def residuals(rows: Any) -> Any:
        return lambda: (x - model(x) for x in features.batches(rows))

    with track("statistics") as advance:
        parts = residuals(fit), residuals(statistics)
        if isinstance(detector.head, WholeHead):
            report = fit_whole(detector.head, *parts, shrinkage=config.shrinkage)
        else:
            report = fit_head(detector.head, *parts, shrinkage=config.shrinkage)
        advance(1, 1)
    log({"event": "head", "held_out_ratio": report.held_out_ratio, "reference": report.reference})
    return Trained(detector, best_epoch, best_loss, report)


@torch.no_grad()
def _loss(model: nn.Module, features: Features, rows: Any, loss: str) -> float:
    """Mean error over whole pictures, of standardised features."""
    losses: list[Tensor] = [_error(model(x) - x, loss).mean(dim=(1, 2, 3)) for x in features.batches(rows)]
    return float(torch.cat(losses).mean())


def _error(residual: Tensor, loss: str) -> Tensor:
    return residual.square() if loss == "mse" else residual.abs()

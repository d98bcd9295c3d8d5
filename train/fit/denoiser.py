"""Training a denoiser, the loop in sight: clean pictures -> crops -> corrupted crops -> U-Net -> clean again."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.config.base import FOLD
from train.config.denoiser import DenoiserConfig
from train.data.corruption import corruption
from train.data.pictures import PictureSet
from train.fit import residuals
from train.fit.head import fit_head
from train.fit.loop import CPU, optimise, shuffled, steps_of
from train.fit.trained import Log, Trained
from train.nets.detector import Detector, make_denoiser
from train.nets.head import Head
from train.progress import Track

_BATCH = 16
_MOST_GRADIENT = 10.0  # a norm twice as large is usual; without batch norm, one much larger could end training
_LEAST_ERROR = 1e-3  # of a picture, in what the network is given, under the logarithm: better needs no reward


def train_denoiser(
    config: DenoiserConfig, good: PictureSet, *, cache: Path, log: Log, track: Track, device: torch.device = CPU
) -> Trained[Detector]:
    """Trains the network on pairs made of the fit pictures and fits the head on what it takes away from clean ones.

    A picture's error is a mean over C, H and W, in units of the pixels' variance. The loss is a mean over pictures of
    half the error's logarithm, so that pictures with much noise or a defect to repair do not drown those with little;
    or of the error itself. The one that decides which epoch is kept is that on whole statistics pictures, corrupted
    the same way every time.

    Args:
        config: hyper-parameters.
        good: pictures in their parts.
        cache: a folder for what is computed once.
        log: metrics, one line an epoch and one for the head.
        track: shows progress.
        device: where the network is trained.
    """
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    detector = make_denoiser(config).eval()
    fit, statistics = good.rows("fit"), good.rows("statistics")
    if config.architecture == "unet":  # the other one ends in a sigmoid and sees 0 to 1
        _standardise(detector, good.pixels, fit)

    model, corrupt = detector.autoencoder, corruption(config)
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # the stubs lack it. A fifth faster on CPUs
    height, width = (min(config.crop, side) for side in config.size)
    crops = round(math.prod(config.size) / (height * width))  # of each picture, so that an epoch sees all of it
    size, steps = config.batch_size, steps_of(len(fit) * crops, config.batch_size)

    def loss(rows: NDArray[np.int64]) -> Tensor:
        clean = _crops(good.pixels, rows, height, width, generator)  # (N, C, h, w), 0 to 1
        x, noisy = _standardised(detector, clean), _standardised(detector, corrupt(clean, generator))
        return _loss((model(noisy.to(device)) - x.to(device)).square().mean(dim=(1, 2, 3)), config)

    kept = optimise(
        model,
        config,
        batches=partial(shuffled, fit, size, passes=crops, generator=generator),
        loss=loss,
        held_out=lambda: _held_out(detector, config, good.pixels, statistics, device),
        steps=steps,
        device=device,
        log=log,
        track=track,
        most_gradient=_MOST_GRADIENT,
    )

    found = {}
    for part, rows in (("fit", fit), ("statistics", statistics)):
        with track(f"residuals, {part}") as advance:
            store = cache / f"residuals-{part}.npy"
            found[part] = residuals.compute(detector.residual, good.pixels, rows=rows, store=store, advance=advance)
    assert isinstance(detector.head, Head)
    report = fit_head(detector.head, found["fit"], found["statistics"], shrinkage=config.shrinkage)
    log({"event": "head", "held_out_ratio": report.held_out_ratio, "reference": report.reference})
    return Trained(detector, kept.epoch, kept.loss, report)


def _standardise(detector: Detector, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> None:
    """One mean and one deviation for all channels: noise that is equal in all stays so."""
    total, squares = 0.0, 0.0
    for row in rows:
        picture = pixels[row].astype(np.float64) / 255
        total += picture.mean()
        squares += np.square(picture).mean()
    mean = total / len(rows)
    detector.center.fill_(mean)
    detector.scale.fill_(max(math.sqrt(max(squares / len(rows) - mean**2, 0.0)), 1e-2))


def _crops(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64], height: int, width: int, generator: torch.Generator
) -> Tensor:
    """One random crop of each picture: float32 (N, C, height, width), 0 to 1."""
    tops = torch.randint(pixels.shape[1] - height + 1, (len(rows),), generator=generator).tolist()
    lefts = torch.randint(pixels.shape[2] - width + 1, (len(rows),), generator=generator).tolist()
    crops = np.stack([pixels[row, t : t + height, s : s + width] for row, t, s in zip(rows, tops, lefts, strict=True)])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255


def _standardised(detector: Detector, picture: Tensor) -> Tensor:
    """float32 (N, C, H, W), 0 to 1 -> what the network takes: (N, 16 C, H/4, W/4)."""
    folded = torch.nn.functional.pixel_unshuffle(picture, FOLD)
    return (folded - detector.center) / detector.scale


def _loss(error: Tensor, config: DenoiserConfig) -> Tensor:
    """Of pictures with these errors, (N,)."""
    return 0.5 * torch.log(error + _LEAST_ERROR).mean() if config.loss == "psnr" else error.mean()


@torch.no_grad()
def _held_out(
    detector: Detector, config: DenoiserConfig, pixels: NDArray[np.uint8], rows: NDArray[np.int64], device: torch.device
) -> dict[str, float]:
    """Loss, and mean peak signal-to-noise ratio in dB, on whole pictures; the same corruption at every call."""
    generator = torch.Generator().manual_seed(config.seed + 1)
    errors = []
    for start in range(0, len(rows), _BATCH):
        picture = torch.from_numpy(pixels[rows[start : start + _BATCH]]).permute(0, 3, 1, 2).float() / 255
        x = _standardised(detector, picture)
        noisy = _standardised(detector, corruption(config)(picture, generator))
        cleaned = detector.autoencoder(noisy.to(device)).cpu()
        errors.append((cleaned - x).square().mean(dim=(1, 2, 3)))
    error = torch.cat(errors)
    psnr = -10 * torch.log10(error * detector.scale.square().mean() + 1e-12)
    return {"loss_statistics": float(_loss(error, config)), "psnr_statistics": float(psnr.mean())}

"""The training loop that every kind shares: steps, a look at held-out pictures each epoch, the best epoch kept."""

import copy
import math
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from train.config.kinds import Config
from train.errors import TrainError
from train.fit.trained import Log
from train.progress import Track

CPU = torch.device("cpu")

_BatchT = TypeVar("_BatchT")


@dataclass(frozen=True, slots=True)
class Kept:
    """The epoch whose weights the model has.

    Attributes:
        epoch: from 1.
        loss: there, on the statistics pictures, or on the fit pictures where none are held out.
    """

    epoch: int
    loss: float


def choose_device(name: str) -> torch.device:
    """Where to train: "cpu", "cuda", or "auto" for CUDA where there is one.

    Raises:
        TrainError: CUDA is asked for and cannot be used.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return CPU
    if not torch.cuda.is_available():
        raise TrainError("--device cuda: this torch finds no CUDA device; install a CUDA build, or use --device auto")
    return torch.device("cuda")


def optimise(
    model: nn.Module,
    config: Config,
    *,
    batches: Callable[[], Iterable[_BatchT]],
    loss: Callable[[_BatchT], Tensor],
    held_out: Callable[[], dict[str, float]],
    steps: int,
    device: torch.device,
    log: Log,
    track: Track,
    most_gradient: float = math.inf,
) -> Kept:
    """Trains by AdamW and leaves the model on the CPU with its best epoch's weights; its last where none is held out.

    On CUDA the forward pass runs in mixed precision (bfloat16 by torch's autocast); weights, the loss and what is
    computed of held-out pictures stay float32.

    Args:
        model: what is trained.
        config: epochs, patience, rate, schedule, decay.
        batches: of an epoch, shuffled anew at each call.
        loss: of a batch, a scalar on `device`.
        held_out: figures after an epoch; "loss_statistics" decides which epoch is kept. Without it all are trained.
        steps: an epoch.
        device: where the model runs.
        log: metrics, one line an epoch.
        track: shows progress.
        most_gradient: norm that gradients are clipped to.

    Raises:
        TrainError: the loss is no finite number any more.
    """
    model.to(device)
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=config.weight_decay)
    share = partial(share_of_peak, total=config.epochs * steps, schedule=config.schedule)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
    best, kept = copy.deepcopy(model.state_dict()), Kept(0, math.inf)
    began, reached = time.monotonic(), None
    with track("training") as advance:
        for epoch in range(1, config.epochs + 1):
            model.train()
            total = 0.0
            for batch in batches():
                with _mixed(device):
                    found = loss(batch)
                optimiser.zero_grad()
                found.backward()
                if most_gradient < math.inf:
                    nn.utils.clip_grad_norm_(model.parameters(), most_gradient)
                optimiser.step()
                schedule.step()
                total += found.item()
            model.eval()
            figures = {"loss_fit": total / steps, **held_out()}
            if not all(map(math.isfinite, figures.values())):
                raise TrainError(
                    f"training diverged: in epoch {epoch} the loss is no finite number. Set a learning_rate below "
                    f"{config.learning_rate:g}, and other hyper-parameters nearer to their defaults"
                )
            log(
                {
                    "event": "epoch",
                    "epoch": epoch,
                    **figures,
                    "learning_rate": schedule.get_last_lr()[0],
                    "seconds": round(time.monotonic() - began, 3),
                }
            )
            reached = figures.get("loss_statistics")
            if reached is None:
                kept = Kept(epoch, figures["loss_fit"])
            elif reached < kept.loss:
                best, kept = copy.deepcopy(model.state_dict()), Kept(epoch, reached)
            advance(epoch, config.epochs)
            if epoch - kept.epoch >= config.patience:
                break
    if reached is not None:
        model.load_state_dict(best)
    model.to(CPU).requires_grad_(False).eval()
    return kept


def shuffled(
    rows: NDArray[np.int64], size: int, *, passes: int = 1, generator: torch.Generator | None = None
) -> Iterator[NDArray[np.int64]]:
    """The batches of an epoch, in a new order each time.

    The last, smaller batch is left to another epoch's shuffle: its batch statistics would be noise.

    Args:
        rows: of the fit pictures.
        size: of a batch.
        passes: how often a picture comes in an epoch.
        generator: of the order; torch's own by default.
    """
    order = np.concatenate([rows[torch.randperm(len(rows), generator=generator).numpy()] for _ in range(passes)])
    return (order[step * size : (step + 1) * size] for step in range(steps_of(len(order), size)))


def steps_of(n: int, size: int) -> int:
    """Steps of an epoch of n pictures."""
    return max(1, n // size)


def share_of_peak(step: int, *, total: int, schedule: str) -> float:
    """Of the learning rate: 1 throughout, or a linear rise over the first tenth and a cosine down to 0."""
    if schedule == "constant":
        return 1.0
    warm = max(1, total // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warm) / max(1, total - warm))))


def _mixed(device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

"""Residuals of pixel models: computed once, kept on disk, read in batches as often as the head's fitting asks."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from train.data import stores
from train.fit.head import Residuals
from train.progress import Advance

_BATCH = 16


@torch.no_grad()
def compute(
    residual: Callable[[Tensor], Tensor],
    pixels: NDArray[np.uint8],
    *,
    rows: NDArray[np.int64],
    store: Path,
    advance: Advance,
) -> Residuals:
    """Runs the model once over the pictures of these rows.

    Args:
        residual: pictures uint8 (N, H, W, C) -> float32 (N, C, h, w).
        pixels: uint8 (n, H, W, C).
        rows: of the pictures.
        store: a file for the residuals, made anew.
        advance: called with (done, total).

    Returns:
        What gives them in batches, float32 (N, C, h, w), in the order of `rows`, as often as it is called.
    """
    values: NDArray[np.float16] | None = None
    for start in range(0, len(rows), _BATCH):
        some = residual(torch.from_numpy(pixels[rows[start : start + _BATCH]])).numpy()
        if values is None:
            # Half precision is far below the residuals' own spread, and halves what a large set takes on disk.
            shape = (len(rows), *some.shape[1:])
            values = stores.array(store, np.float16, shape)
        values[start : start + len(some)] = some
        advance(start + len(some), len(rows))
    assert values is not None

    def batches() -> Iterator[Tensor]:
        for start in range(0, len(rows), _BATCH):
            yield torch.from_numpy(np.asarray(values[start : start + _BATCH], dtype=np.float32))

    return batches

"""Does ONNX Runtime compute what torch does? On real pictures, alone and in a batch."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edged.bundle import Tolerance
from edged.runtime import open_session
from export.graph import Traceable
from train.errors import TrainError

TOLERANCES: Final = {
    # Ten times and more of what is seen on x86; other devices sum in another order.
    "fp32": Tolerance(rtol=1e-3, atol=1e-3),
    "fp16": Tolerance(rtol=1e-3, atol=1e-3),
    # The trunk's activations have 8 bits; export.quantise has the gate that decides whether the scores survive it.
    "int8": Tolerance(rtol=0.3, atol=1.0),
}
"""What goes into the manifest, by precision."""


@dataclass(frozen=True, slots=True)
class Reference:
    """What torch gives.

    Attributes:
        image: uint8 (N, H, W, C), or float32 (N, C, T) of signals.
        score: float32 (N,).
        anomaly_map: float32 (N, h, w).
    """

    image: NDArray[Any]
    score: NDArray[np.float32]
    anomaly_map: NDArray[np.float32]


@torch.no_grad()
def reference(detector: Traceable, image: NDArray[Any]) -> Reference:
    """Torch's outputs for image: uint8 (N, H, W, C), or float32 (N, C, T) of signals."""
    score, anomaly_map, *_ = detector(torch.from_numpy(image))
    return Reference(image, score.numpy(), anomaly_map.numpy())


def check(model: bytes, expected: Reference, tolerance: Tolerance) -> float:
    """Compares at batch 1 and at batch N.

    Args:
        model: the graph.
        expected: of real pictures.
        tolerance: |a - b| ≤ atol + rtol · |b| must hold everywhere.

    Returns:
        The largest |a - b| / (atol + rtol · |b|).

    Raises:
        TrainError: it exceeds 1.
    """
    session = open_session(model, device="cpu")
    worst = 0.0
    n = len(expected.image)
    for batch in sorted({1, n}):
        for start in range(0, n, batch):
            some = slice(start, start + batch)
            got = session.run(["score", "anomaly_map"], expected.image[some])
            for ours, torchs in zip(got, (expected.score[some], expected.anomaly_map[some]), strict=True):
                if ours.shape != torchs.shape or not np.isfinite(ours).all():
                    raise TrainError(f"ONNX Runtime gives {ours.shape} at batch {batch}, torch {torchs.shape}")
                allowed = tolerance.atol + tolerance.rtol * np.abs(torchs)
                worst = max(worst, float(np.max(np.abs(ours - torchs) / allowed)))
    if worst > 1:
        raise TrainError(
            f"ONNX Runtime and torch differ by {worst:.3g} times the tolerance (rtol {tolerance.rtol:g}, atol "
            f"{tolerance.atol:g}) on {n} inputs; nothing was written. Try --precision fp32, or report it"
        )
    return worst

"""Does ONNX Runtime compute what torch does? On real pictures, alone and in a batch."""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from edged.models.manifest import Tolerance
from edged.models.runtime import open_session
from export.onnx.graph import Traceable
from train.errors import TrainError
from train.nets.vae import Decoder

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
        given: uint8 (N, H, W, C), or float32 (N, C, T) of signals, or (N, L) of latents.
        outputs: by name. Of a detector: score float32 (N,), anomaly_map float32 (N, h, w), and what else it has.
    """

    given: NDArray[Any]
    outputs: dict[str, NDArray[Any]]

    @property
    def score(self) -> NDArray[np.float32]:
        """float32 (N,)."""
        return self.outputs["score"]


@torch.no_grad()
def reference(detector: Traceable, image: NDArray[Any]) -> Reference:
    """A detector's outputs for image: uint8 (N, H, W, C), or float32 (N, C, T) of signals.

    Raises:
        TrainError: they are no finite numbers.
    """
    found = detector(torch.from_numpy(image))
    outputs = {name: value.numpy() for name, value in zip(detector.output_names, found, strict=True)}
    for name, value in outputs.items():
        if not np.isfinite(value).all():
            raise TrainError(f"the model's {name} is not finite for some of {len(image)} inputs; train again")
    return Reference(image, outputs)


@torch.no_grad()
def reference_of(decoder: Decoder, z: NDArray[np.float32]) -> Reference:
    """A decoder's pictures for z: float32 (N, L)."""
    return Reference(z, {"image": decoder(torch.from_numpy(z)).numpy()})


def check(model: bytes, expected: Reference, tolerance: Tolerance) -> float:
    """Compares every output at batch 1 and at batch N.

    Args:
        model: the graph.
        expected: of real pictures.
        tolerance: |a - b| ≤ atol + rtol · |b| must hold everywhere, of reconstructed signals with atol in units of
            their deviation. Pictures may differ by a grey level, for rounding falls on either side, and by no more.

    Returns:
        The largest |a - b| / (atol + rtol · |b|).

    Raises:
        TrainError: it exceeds 1.
    """
    session = open_session(model, device="cpu")
    names, n = list(expected.outputs), len(expected.given)
    worst, of = 0.0, ""
    for batch in sorted({1, n}):
        for start in range(0, n, batch):
            some = slice(start, start + batch)
            got = session.run(names, expected.given[some])
            for name, ours in zip(names, got, strict=True):
                torchs = expected.outputs[name]
                if ours.shape != torchs[some].shape or not np.isfinite(ours).all():
                    raise TrainError(
                        f"ONNX Runtime's {name} at batch {batch} is {ours.shape} or not finite; torch's is "
                        f"{torchs[some].shape}. Nothing was written; report it"
                    )
                found = _difference(ours, torchs[some], tolerance, unit=_unit(name, torchs))
                if found > worst:
                    worst, of = found, name
    if worst > 1:
        raise TrainError(
            f"ONNX Runtime and torch differ by {worst:.3g} times the tolerance (rtol {tolerance.rtol:g}, atol "
            f"{tolerance.atol:g}) in {of} on {n} inputs; nothing was written. Try --precision fp32, or report it"
        )
    return worst


def _unit(name: str, torchs: NDArray[Any]) -> float:
    """What atol is in units of: a signal has any unit, all else has deviations of good parts."""
    return max(float(torchs.std()), 1e-30) if name == "reconstruction" else 1.0


def _difference(ours: NDArray[Any], torchs: NDArray[Any], tolerance: Tolerance, *, unit: float) -> float:
    """The largest |a - b| / (atol + rtol · |b|); of pictures the grey levels, from two on."""
    apart = np.abs(ours.astype(np.float64) - torchs)
    if torchs.dtype == np.uint8:
        return float(apart.max()) if apart.max() > 1 else 0.0
    return float(np.max(apart / (tolerance.atol * unit + tolerance.rtol * np.abs(torchs))))

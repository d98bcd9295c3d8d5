"""int8: the trunk's convolutions quantised statically, and the gate that decides whether the scores survive it.

Quantised detectors can collapse when only good pictures calibrate them, so what the scores hang on (residual,
whitening, pooling) stays float, and a graph that moves the scores too far is refused.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from numpy.typing import NDArray

from edged.models.runtime import import_onnxruntime
from export.report.metrics import auroc
from train.errors import TrainError

MOST_SHIFT: Final = 0.25
"""Median shift of good pictures' scores, as a share of their interquartile range, that the gate lets pass."""
MOST_AUROC_LOSS: Final = 0.01
"""Loss of AUROC on bad pictures that the gate lets pass."""

_TRUNK: Final = "extractor.trunk."
_BATCH: Final = 8


def quantise(model: onnx.ModelProto, image: NDArray[np.uint8]) -> onnx.ModelProto:
    """Static QDQ quantisation of the trunk's convolutions.

    Args:
        model: float32.
        image: uint8 (n, H, W, C), good pictures that the ranges are taken from.

    Raises:
        TrainError: the model has no trunk.
    """
    import_onnxruntime()  # which sees to it that nothing is sent anywhere
    from onnxruntime import quantization

    convolutions = [
        node.name
        for node in model.graph.node
        if node.op_type == "Conv" and any(name.startswith(_TRUNK) for name in node.input)
    ]
    if not convolutions:
        raise TrainError("--precision int8 quantises the ImageNet trunk, and this model has none; use fp16")

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches: Iterator[dict[str, Any]] = (
                {"image": image[start : start + _BATCH]} for start in range(0, len(image), _BATCH)
            )

        def get_next(self) -> dict[str, Any] | None:
            return next(self._batches, None)

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(model, source)
        quantization.quantize_static(
            source,
            target,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            nodes_to_quantize=convolutions,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Seven bits: on CPUs without VNNI eight-bit products overflow their 16-bit sums.
            reduce_range=True,
        )
        return onnx.load(target)


def gate(
    before: NDArray[np.float64],
    after: NDArray[np.float64],
    bad: tuple[NDArray[np.float64], NDArray[np.float64]] | None,
) -> None:
    """Compares scores of held-out good pictures, and of bad ones where given, before and after.

    Args:
        before: float32 model's scores of good pictures, (n,).
        after: the quantised model's, (n,).
        bad: scores of bad pictures before and after, each (m,).

    Raises:
        TrainError: they moved more than the gate lets pass.
    """
    spread = float(np.subtract(*np.quantile(before, [0.75, 0.25])))
    shift = float(np.median(np.abs(after - before))) / max(spread, 1e-6)
    if shift > MOST_SHIFT:
        raise TrainError(
            f"int8 moves the scores of good pictures by {shift:.2f} of their interquartile range, more than "
            f"{MOST_SHIFT:g}; nothing was written. Use --precision fp16"
        )
    if bad is not None:
        loss = auroc(before, bad[0]) - auroc(after, bad[1])
        if loss > MOST_AUROC_LOSS:
            raise TrainError(
                f"int8 costs {loss:.4f} of AUROC, more than {MOST_AUROC_LOSS:g}; nothing was written. "
                "Use --precision fp16"
            )

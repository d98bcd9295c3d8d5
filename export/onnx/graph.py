"""The detector as one ONNX graph: tracing, storing weights in half precision, checking."""

import contextlib
import copy
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edged.media.inputs import Input
from train.errors import TrainError
from train.nets.detector import Detector
from train.nets.vae import Decoder, VaeDetector

OPSET: Final = 18
Traceable = Detector | VaeDetector

_LEAST_BYTES: Final = 1024  # smaller constants stay as they are: nothing would be gained
_IN_UNITS: Final = ("center", "scale")  # of the data: a signal in units of 1e-8 would be rounded to 0


def trace(detector: Traceable, spec: Input) -> onnx.ModelProto:
    """The graph of a detector, its batch axis dynamic, all weights inside.

    Args:
        detector: fitted, in evaluation mode.
        spec: what it takes.
    """
    example = torch.from_numpy(np.zeros((2, *spec.shape), dtype=spec.dtype))
    return _trace(detector, example, spec.kind, detector.output_names)


def trace_decoder(decoder: Decoder, latent: int) -> onnx.ModelProto:
    """The graph of a VAE's decoder: z float32 (N, L) -> image uint8 (N, H, W, C)."""
    return _trace(decoder, torch.zeros((2, latent)), "z", ("image",))


def _trace(module: nn.Module, example: Tensor, name: str, outputs: Sequence[str]) -> onnx.ModelProto:
    with _quiet():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=list(outputs),
            dynamic_shapes=({0: torch.export.Dim("N")},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    _forget_source(model)
    return model


def with_half_weights(detector: Traceable) -> Traceable:
    """A copy whose weights are rounded to half precision: what a graph that stores them so is compared with.

    Batch norms are folded into their convolutions before, as the exporter does it: what it would fold afterwards would
    not be rounded. A tensor that is too large for half precision stays as it is.
    """
    rounded = copy.deepcopy(detector)
    for module in rounded.modules():
        if isinstance(module, nn.Sequential):
            _fold_batch_norms(module)
    for name, tensor in (*rounded.named_parameters(), *rounded.named_buffers()):
        if tensor.dtype == torch.float32 and name.rpartition(".")[2] not in _IN_UNITS:
            half = tensor.half().float()
            if torch.isfinite(half).all() and _is_large(tensor.numel() * tensor.element_size()):
                tensor.data = half
    return rounded


def store_weights_as_half(model: onnx.ModelProto) -> None:
    """Replaces large float32 constants that lose nothing by it by float16 ones and a Cast, folded when it is loaded.

    What runs stays float32, so that every device can run it; only the file is half as large.
    """
    casts = []
    for constant in model.graph.initializer:
        if constant.data_type != TensorProto.FLOAT or not _is_large(len(constant.raw_data)):
            continue
        name, value = constant.name, numpy_helper.to_array(constant)
        with np.errstate(over="ignore"):
            half = value.astype(np.float16)
        if not np.array_equal(half.astype(np.float32), value):
            continue
        stored = f"{name}.half"
        constant.CopyFrom(numpy_helper.from_array(half, stored))
        casts.append(helper.make_node("Cast", [stored], [name], name=f"cast.{name}", to=TensorProto.FLOAT))
    nodes = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*casts, *nodes])


def checked(model: onnx.ModelProto) -> bytes:
    """The graph's bytes, after ONNX's own checker.

    Raises:
        TrainError: the checker refuses it, or it holds external data.
    """
    if any(constant.data_location == TensorProto.EXTERNAL for constant in model.graph.initializer):
        raise TrainError("the exported graph refers to external data; this is an error of the exporter")
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise TrainError(f"the exported graph is not valid ONNX: {error}") from error
    return model.SerializeToString(deterministic=True)


def _is_large(size_bytes: int) -> bool:
    return size_bytes >= _LEAST_BYTES


def _fold_batch_norms(layers: nn.Sequential) -> None:
    for index, (layer, after) in enumerate(pairwise(list(layers))):
        if isinstance(layer, nn.Conv1d | nn.Conv2d) and isinstance(after, nn.BatchNorm1d | nn.BatchNorm2d):
            layers[index], layers[index + 1] = fuse_conv_bn_eval(layer, after), nn.Identity()


def _forget_source(model: onnx.ModelProto) -> None:
    """Drops stack traces and paths of the training machine, which the exporter notes at every node."""
    values = (*model.graph.input, *model.graph.output, *model.graph.value_info, *model.graph.initializer)
    for item in (model, model.graph, *model.graph.node, *values):
        del item.metadata_props[:]
        item.doc_string = ""
    del model.graph.value_info[:]  # shapes of intermediate values; the runtime infers them


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the exporter's notes on absent optional packages, and its prints, away from the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)

"""Tiny bundles of the other kinds, made where a test needs them: a VAE, a denoiser, a detector behind a denoiser.

All see 32x32 grey and score as tests/tiny_bundle.py does.

vae       latent (4): the means of the quadrants, less middle grey, in units of 8; its decoder paints them again
denoiser  the mean of each 3x3 neighbourhood
behind    the tiny model, calibrated behind that denoiser
fragile   the tiny model, which fails on a batch with a white pixel: it looks behind the end of a table then
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edged.models import bundle as bundles
from edged.models.manifest import Calibration
from tests import tiny_bundle
from tests.conftest import TINY
from tests.tiny_bundle import SIZE

LATENT = 4
PICTURE = [SIZE, SIZE, 1]


def vae(out: Path, its_decoder: onnx.ModelProto | None = None) -> Path:
    """Writes a VAE with its decoder, or with another one."""
    half = SIZE // 2
    nodes = [
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[half, half], strides=[half, half]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Sub", ["flat", "grey"], ["centred"]),
        helper.make_node("Div", ["centred", "latent_unit"], ["latent_mean"]),
        helper.make_node("Mul", ["latent_mean", "zero"], ["zeros"]),
        helper.make_node("Sub", ["zeros", "four"], ["latent_logvar"]),
        helper.make_node("Identity", ["image"], ["reconstruction"]),
    ]
    constants = {"latent_unit": 8.0, "zero": 0.0, "four": 4.0}
    latent = {name: {"dtype": "float32", "shape": ["N", LATENT]} for name in ("latent_mean", "latent_logvar")}
    return _write(
        out, "vae", _grown(nodes, constants, ["latent_mean", "latent_logvar"]), latent, decoder=its_decoder or decoder()
    )


def denoiser(out: Path, dtype: Any = TensorProto.UINT8) -> Path:
    """Writes a denoiser, whose pictures should be uint8."""
    nodes = [
        helper.make_node("AveragePool", ["planes"], ["smooth"], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
        helper.make_node("Round", ["smooth"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["last"], ["reconstruction"], to=dtype),
    ]
    return _write(out, "denoiser", _grown(nodes, {}, [], dtype))


def behind(out: Path, first: Path) -> Path:
    """Writes a detector that was calibrated behind the denoiser at `first`."""
    reference = {"name": first.name, "sha256": hashlib.sha256((first / bundles.MODEL).read_bytes()).hexdigest()}
    return _write(out, "ae", tiny_bundle.model(), reconstructs=False, denoiser=reference)


def fragile(out: Path) -> Path:
    """Writes a detector that fails on white pixels."""
    model = tiny_bundle.model()
    model.graph.node[-1].output[0] = "sum"
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["float", "all_places"], ["brightest"], keepdims=0),
            helper.make_node("Div", ["brightest", "white"], ["share"]),
            helper.make_node("Cast", ["share"], ["index"], to=TensorProto.INT64),
            helper.make_node("Gather", ["table", "index"], ["nothing"]),
            helper.make_node("Add", ["sum", "nothing"], ["score"]),
        ]
    )
    constants = {"all_places": np.array([1, 2, 3]), "white": np.float32(255), "table": np.zeros(1, np.float32)}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items())
    onnx.checker.check_model(model, full_check=True)
    return _write(out, "ae", model, reconstructs=False)


def _grown(
    nodes: list[onnx.NodeProto], constants: dict[str, float], latents: list[str], dtype: Any = TensorProto.UINT8
) -> onnx.ModelProto:
    """The tiny model with more nodes and outputs, a reconstruction among them."""
    model = tiny_bundle.model()
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(numpy_helper.from_array(np.float32(v), name) for name, v in constants.items())
    model.graph.output.append(helper.make_tensor_value_info("reconstruction", dtype, ["N", *PICTURE]))
    model.graph.output.extend(helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", LATENT]) for n in latents)
    onnx.checker.check_model(model, full_check=True)
    return model


def decoder() -> onnx.ModelProto:
    """The decoder of that VAE."""

    def constant(name: str, value: Any, dtype: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)

    nodes = [
        helper.make_node("Mul", ["z", "unit"], ["scaled"]),
        helper.make_node("Add", ["scaled", "grey"], ["levels"]),
        helper.make_node("Reshape", ["levels", "quadrants"], ["small"]),
        helper.make_node("Resize", ["small", "", "scales"], ["large"], mode="nearest"),
        helper.make_node("Clip", ["large", "black", "white"], ["clipped"]),
        helper.make_node("Round", ["clipped"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Cast", ["last"], ["image"], to=TensorProto.UINT8),
    ]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", LATENT])],
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *PICTURE])],
        [
            constant("unit", 8.0, np.float32),
            constant("grey", 128.0, np.float32),
            constant("black", 0.0, np.float32),
            constant("white", 255.0, np.float32),
            constant("quadrants", [-1, 1, 2, 2], np.int64),
            constant("scales", [1, 1, SIZE / 2, SIZE / 2], np.float32),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made)
    return made


def _write(
    out: Path,
    kind: str,
    model: onnx.ModelProto,
    outputs: dict[str, Any] | None = None,
    *,
    reconstructs: bool = True,
    decoder: onnx.ModelProto | None = None,
    denoiser: dict[str, str] | None = None,
) -> Path:
    """Writes a bundle like the committed one, but for its kind and its models."""
    told = json.loads((TINY / bundles.MANIFEST).read_text())
    picture = {"reconstruction": {"dtype": "uint8", "shape": ["N", *PICTURE]}} if reconstructs else {}
    image = np.random.default_rng(0).integers(96, 160, (3, *PICTURE), dtype=np.uint8)
    score, anomaly_map = ReferenceEvaluator(tiny_bundle.model()).run(["score", "anomaly_map"], {"image": image})
    told |= {
        "name": out.name,
        "kind": kind,
        "outputs": {**told["outputs"], **picture, **(outputs or {})},
        "denoiser": denoiser,
    }
    with bundles.writing(out) as folder:
        (folder / bundles.MODEL).write_bytes(model.SerializeToString(deterministic=True))
        if decoder is not None:
            (folder / "decoder.onnx").write_bytes(decoder.SerializeToString(deterministic=True))
        np.savez(folder / bundles.GOLDEN, image=image, score=score, anomaly_map=anomaly_map)
        sealed = bundles.seal(folder, told)
        calibration = Calibration(
            model_sha256=sealed.files[bundles.MODEL].sha256,
            created=sealed.created,
            target_fpr=0.01,
            n=len(tiny_bundle.CALIBRATION),
            scores=tiny_bundle.CALIBRATION.tolist(),
        )
        bundles.write_calibration(folder, calibration)
    return out

"""Writes tests/data/tiny: a bundle of a few kB that needs no torch, so that the runtime is tested against a real one.

    python -m tests.tiny_bundle tests/data/tiny

A picture is 32x32 grey. Its map is how far the mean of each 4x4 patch is from middle grey, in units of 0.25; its
score is the largest of the map plus 0.01. Middle grey scores about 0.1, a black or white patch about 2.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edged.models import bundle as bundles
from edged.models.manifest import Calibration

SIZE, PATCH = 32, 4
CALIBRATION = np.round(np.linspace(0.06, 0.5, 99), 4)


def model() -> onnx.ModelProto:
    """The graph, as `python -m export` would name its inputs and outputs."""

    def constant(name: str, value: object, dtype: type = np.float32) -> onnx.TensorProto:
        return numpy_helper.from_array(np.asarray(value, dtype=dtype), name)

    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["patches"], kernel_shape=[PATCH, PATCH], strides=[PATCH, PATCH]),
        helper.make_node("Sub", ["patches", "grey"], ["difference"]),
        helper.make_node("Abs", ["difference"], ["distance"]),
        helper.make_node("Div", ["distance", "unit"], ["scaled"]),
        helper.make_node("Squeeze", ["scaled", "channel"], ["anomaly_map"]),
        helper.make_node("ReduceMax", ["anomaly_map", "places"], ["largest"], keepdims=0),
        helper.make_node("Add", ["largest", "floor"], ["score"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", SIZE, SIZE, 1])],
        [
            helper.make_tensor_value_info("score", TensorProto.FLOAT, ["N"]),
            helper.make_tensor_value_info("anomaly_map", TensorProto.FLOAT, ["N", SIZE // PATCH, SIZE // PATCH]),
        ],
        [
            constant("grey", 128.0),
            constant("unit", 64.0),
            constant("channel", [1], np.int64),
            constant("places", [1, 2], np.int64),
            constant("floor", 0.01),
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(made, full_check=True)
    return made


def write(out: Path) -> None:
    """Writes the bundle; the same bytes every time."""
    graph = model()
    image = np.random.default_rng(0).integers(96, 160, (3, SIZE, SIZE, 1), dtype=np.uint8)
    image[2, 8:12, 8:12] = 255
    score, anomaly_map = ReferenceEvaluator(graph).run(["score", "anomaly_map"], {"image": image})
    created = datetime(2026, 11, 22, tzinfo=UTC)
    with bundles.writing(out) as folder:
        (folder / bundles.MODEL).write_bytes(graph.SerializeToString(deterministic=True))
        np.savez(folder / bundles.GOLDEN, image=image, score=score, anomaly_map=anomaly_map)
        manifest = bundles.seal(
            folder,
            {
                "name": "tiny",
                "kind": "ae",
                "backbone": "pixels",
                "precision": "fp32",
                "created": created,
                "input": {
                    "kind": "image",
                    "height": SIZE,
                    "width": SIZE,
                    "channels": 1,
                    "resize": "stretch",
                    "filter": "bilinear",
                },
                "outputs": {
                    "score": {"dtype": "float32", "shape": ["N"]},
                    "anomaly_map": {"dtype": "float32", "shape": ["N", SIZE // PATCH, SIZE // PATCH]},
                },
                "map_reference": {"quantile": 0.999, "value": 1.0, "n": 99},
                "drift_reference": {"quantiles": [0.5], "score": [0.28], "brightness": [0.5]},
                "tolerance": {"rtol": 1e-4, "atol": 1e-4},
                "licences": {"weights": "Apache-2.0", "data": "made up"},
                "provenance": {"generator": "tests/tiny_bundle.py"},
            },
        )
        calibration = Calibration(
            model_sha256=manifest.files[bundles.MODEL].sha256,
            created=created,
            target_fpr=0.01,
            n=len(CALIBRATION),
            scores=CALIBRATION.tolist(),
        )
        bundles.write_calibration(folder, calibration)


if __name__ == "__main__":
    write(Path(sys.argv[1]))

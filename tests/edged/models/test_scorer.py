import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from edged.errors import BundleError, DeviceError, PictureError
from edged.models import bundle as bundles
from edged.models.manifest import Calibration
from edged.models.scorer import Scorer
from edged.results import Frame, Result
from tests.conftest import TINY


def frame(value: int, name: str = "f") -> Frame:
    return Frame("line1", name, 0.0, np.full((32, 32, 1), value, np.uint8))


def test_score() -> None:
    scorer = Scorer.load(TINY, device="cpu")
    results = [scorer.score(one) for one in (frame(128, "a"), frame(0, "b"), frame(160, "c"))]
    assert all(isinstance(result, Result) for result in results)
    first, second, third = (result for result in results if isinstance(result, Result))
    assert [result.frame_id for result in (first, second, third)] == ["a", "b", "c"]
    assert [result.score for result in (first, second, third)] == pytest.approx([0.01, 2.01, 0.51])
    assert [result.is_anomaly for result in (first, second, third)] == [False, True, True]
    assert [result.p_value for result in (first, second, third)] == [1.0, 0.01, 0.01]
    assert {result.threshold for result in (first, second, third)} == {0.5}
    assert second.anomaly_map.shape == (8, 8)
    assert second.anomaly_map == pytest.approx(np.full((8, 8), 2.0))
    assert first.timings["infer"] > 0
    assert (first.model, first.source) == ("tiny", "line1")


def test_a_score_at_the_threshold_is_no_anomaly() -> None:
    scorer = Scorer.load(TINY, device="cpu", threshold=0.51)
    exact = float(scorer.scores(np.full((1, 32, 32, 1), 160, np.uint8))[0][0])
    at = Scorer.load(TINY, device="cpu", threshold=exact)
    result = at.score(frame(160))
    assert isinstance(result, Result)
    assert (result.score, result.is_anomaly) == (exact, False)


def test_thresholds() -> None:
    assert Scorer.load(TINY, device="cpu").threshold.value == 0.5
    scores = sorted(json.loads((TINY / "calibration.json").read_text())["scores"])
    assert Scorer.load(TINY, device="cpu", target_fpr=0.1).threshold.value == scores[89]
    short = Scorer.load(TINY, device="cpu", target_fpr=0.001).threshold
    assert short.value == scores[-1]
    assert "999" in (short.shortfall or "")
    given = Scorer.load(TINY, device="cpu", threshold=1.5).threshold
    assert (given.value, given.shortfall) == (1.5, None)


def test_the_golden_check_finds_a_model_that_computes_something_else(tiny_copy: Path) -> None:
    assert Scorer.load(tiny_copy, device="cpu").golden.n == 3
    assert Scorer.load(tiny_copy, device="cpu").golden.worst <= 1
    golden = dict(np.load(tiny_copy / "golden.npz"))
    golden["score"] = golden["score"] * np.float32(1.01)
    np.savez(tiny_copy / "golden.npz", **golden)
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    bundles.seal(tiny_copy, {key: manifest[key] for key in manifest if key not in {"files", "schema_version"}})
    with pytest.raises(BundleError, match=r"golden check failed on CPUExecutionProvider: \d+\.\d times"):
        Scorer.load(tiny_copy, device="cpu")


def test_a_model_that_does_not_fit_its_manifest_is_refused(tiny_copy: Path) -> None:
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    golden = dict(np.load(tiny_copy / "golden.npz"))
    golden["image"] = golden["image"][:, :16]
    np.savez(tiny_copy / "golden.npz", **golden)
    manifest["input"]["height"] = 16
    bundles.seal(tiny_copy, {key: manifest[key] for key in manifest if key not in {"files", "schema_version"}})
    with pytest.raises(BundleError, match="the manifest says image"):
        Scorer.load(tiny_copy, device="cpu")


def test_a_running_session_is_kept_while_it_fits(tiny_copy: Path) -> None:
    running = Scorer.load(tiny_copy, device="cpu", name="one")
    again = Scorer.load(tiny_copy, device="cpu", name="two", threshold=9.0, reuse=running)
    assert again.session is running.session
    assert (again.name, again.threshold.value) == ("two", 9.0)
    assert Scorer.load(tiny_copy, device="cpu", threads=1, reuse=running).session is not running.session


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="there is no bundle"):
        Scorer.load(tmp_path / "nowhere")


def test_cuda_is_not_taken_for_granted() -> None:
    try:
        scorer = Scorer.load(TINY, device="cuda")
    except DeviceError:
        return
    assert scorer.session.device == "cuda"


def test_identity() -> None:
    identity = Scorer.load(TINY, device="cpu", name="solar").identity
    digest = json.loads((TINY / "manifest.json").read_text())["files"]["model.onnx"]["sha256"]
    assert (identity.name, identity.sha256, identity.device) == ("solar", digest, "cpu")


@pytest.fixture(scope="module")
def inverse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle whose score is 1 / mean: of a black picture it is no number."""
    onnx = pytest.importorskip("onnx")
    path = tmp_path_factory.mktemp("inverse") / "bundle"
    shutil.copytree(TINY, path)
    helper, kinds = onnx.helper, onnx.TensorProto
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=kinds.FLOAT),
        helper.make_node("ReduceMean", ["float", "places"], ["mean"], keepdims=0),
        helper.make_node("Reciprocal", ["mean"], ["score"]),
        helper.make_node("ReduceMean", ["float", "channel"], ["anomaly_map"], keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "inverse",
        [helper.make_tensor_value_info("image", kinds.UINT8, ["N", 32, 32, 1])],
        [
            helper.make_tensor_value_info("score", kinds.FLOAT, ["N"]),
            helper.make_tensor_value_info("anomaly_map", kinds.FLOAT, ["N", 32, 32]),
        ],
        [
            onnx.numpy_helper.from_array(np.array([1, 2, 3], np.int64), "places"),
            onnx.numpy_helper.from_array(np.array([3], np.int64), "channel"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (path / "model.onnx").write_bytes(model.SerializeToString())
    image = np.full((1, 32, 32, 1), 100, np.uint8)
    np.savez(
        path / "golden.npz",
        image=image,
        score=np.array([0.01], np.float32),
        anomaly_map=image[..., 0].astype(np.float32),
    )
    manifest = json.loads((path / "manifest.json").read_text())
    sealed = bundles.seal(path, {key: manifest[key] for key in manifest if key not in {"files", "schema_version"}})
    calibration = Calibration.model_validate_json((path / "calibration.json").read_bytes())
    bundles.write_calibration(path, calibration.model_copy(update={"model_sha256": sealed.files["model.onnx"].sha256}))
    return path


def test_a_score_that_is_no_number_is_an_error_of_that_picture(inverse: Path) -> None:
    scorer = Scorer.load(inverse, device="cpu")
    first, second, third = (scorer.score(one) for one in (frame(100), frame(0), frame(50)))
    assert isinstance(first, Result)
    assert isinstance(third, Result)
    assert (first.score, third.score) == (pytest.approx(0.01), pytest.approx(0.02))
    assert isinstance(second, PictureError)
    assert second.reason == "model_failed"
    assert "inf" in str(second)

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edged.errors import BundleError, DeviceError
from edged.models.runtime import import_onnxruntime, open_session, usable_cpus, worker_count
from tests.conftest import TINY

MODEL = (TINY / "model.onnx").read_bytes()
HAS_CUDA = "CUDAExecutionProvider" in import_onnxruntime().get_available_providers()


@pytest.mark.parametrize("device", ["cpu", "auto"])
@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_any_batch(device: str, count: int) -> None:
    session = open_session(MODEL, device=device)  # type: ignore[arg-type]
    image = np.full((count, 32, 32, 1), 128, np.uint8)
    image[0] = 0
    score, anomaly_map = session.run(["score", "anomaly_map"], image)
    assert score.dtype == anomaly_map.dtype == np.float32
    assert score == pytest.approx([2.01] + [0.01] * (count - 1))
    assert anomaly_map.shape == (count, 8, 8)


def test_what_runs_is_read_from_the_session() -> None:
    session = open_session(MODEL, device="cpu")
    assert (session.device, session.provider, session.fell_back) == ("cpu", "CPUExecutionProvider", None)
    assert session.ort.get_providers() == ["CPUExecutionProvider"]


@pytest.mark.skipif(HAS_CUDA, reason="this ONNX Runtime has CUDA")
def test_cuda_is_refused_where_there_is_none() -> None:
    with pytest.raises(DeviceError, match=r"has no CUDA.*edged\[gpu\]"):
        open_session(MODEL, device="cuda")
    assert open_session(MODEL, device="auto").fell_back is None


@pytest.mark.skipif(not HAS_CUDA, reason="this ONNX Runtime has no CUDA")
def test_cuda_that_finds_no_device_is_refused_with_the_reason() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edged", "score", str(TINY), str(TINY), "--device", "cuda", "--json"],
        capture_output=True,
        text=True,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert re.search(r"CUDA failure \d+: no|NVIDIA driver|brings the CUDA libraries", done.stderr)


def test_threads_of_a_model_leave_cpus_for_fewer_runs() -> None:
    workers = worker_count()
    slots = [open_session(MODEL, device="cpu", threads=n).slots.qsize() for n in (0, 1, workers, 2 * workers)]
    assert slots == [workers, workers, 1, 1]


def test_a_run_that_fails_makes_room_for_the_next() -> None:
    session = open_session(MODEL, device="cpu", threads=worker_count())
    with pytest.raises(BundleError, match="ONNX Runtime fails"):
        session.run(["score"], np.zeros((1, 5, 5, 1), np.uint8))
    (score,) = session.run(["score"], np.zeros((1, 32, 32, 1), np.uint8))
    assert score.shape == (1,)


def test_options_that_a_small_box_relies_on() -> None:
    options = open_session(MODEL, device="cpu", threads=3).ort.get_session_options()
    assert options.intra_op_num_threads == 3
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert options.enable_cpu_mem_arena is True
    chosen = open_session(MODEL, device="cpu").ort.get_session_options()
    assert chosen.intra_op_num_threads == 1  # every CPU has a picture of its own


@pytest.mark.parametrize("model", [b"", b"no model", MODEL[: len(MODEL) // 2]])
def test_a_damaged_graph_is_refused(model: bytes) -> None:
    with pytest.raises(BundleError, match="cannot load it"):
        open_session(model, device="cpu", name="bundles/solar")


def test_a_graph_that_names_files_outside_itself_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx = pytest.importorskip("onnx")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.bin").write_bytes(np.ones(4, np.float32).tobytes())
    for where in ("weights.bin", str(tmp_path / "weights.bin"), "../" + tmp_path.name + "/weights.bin"):
        tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "weights")
        onnx.external_data_helper.set_external_data(tensor, where)
        tensor.ClearField("raw_data")
        graph = onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["weights"], ["score"])],
            "external",
            [],
            [onnx.helper.make_tensor_value_info("score", onnx.TensorProto.FLOAT, [4])],
            [tensor],
        )
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
        with pytest.raises(BundleError, match="cannot load it"):
            open_session(model.SerializeToString(), device="cpu")


def test_usable_cpus_is_the_affinity_at_most() -> None:
    first = min(os.sched_getaffinity(0))
    program = (
        f"import os; os.sched_setaffinity(0, [{first}])\n"
        "from edged.models.runtime import usable_cpus; print(usable_cpus())"
    )
    assert subprocess.check_output([sys.executable, "-c", program], text=True) == "1\n"
    assert 1 <= usable_cpus() <= len(os.sched_getaffinity(0))


def hide(tmp_path: Path, *packages: str) -> dict[str, str]:
    """An environment in which ONNX Runtime's packages are these; none holds anything."""
    for package in packages:
        info = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    return {**os.environ, "PYTHONPATH": str(tmp_path)}


def test_both_packages_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edged", "inspect", str(TINY)],
        capture_output=True,
        text=True,
        env=hide(tmp_path, "onnxruntime", "onnxruntime-gpu"),
        check=False,
    )
    assert done.returncode == 2
    assert "both installed" in done.stderr
    assert "pip uninstall onnxruntime onnxruntime-gpu" in done.stderr


def test_no_package_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").write_text("raise ImportError('as if it were not there')\n")
    done = subprocess.run(
        [sys.executable, "-m", "edged", "inspect", str(TINY)],
        capture_output=True,
        text=True,
        env=hide(tmp_path),
        check=False,
    )
    assert done.returncode == 2
    assert 'pip install "edged[cpu]"' in done.stderr
    assert "Traceback" not in done.stderr

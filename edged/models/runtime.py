"""ONNX Runtime sessions: providers that are what was asked for, and threads for the CPUs that this process may use."""

import contextlib
import ctypes
import io
import os
import re
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edged.errors import BundleError, DeviceError, RuntimeMissingError

if TYPE_CHECKING:
    import onnxruntime as ort

Device = Literal["auto", "cpu", "cuda"]

_PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_CGROUP: Final = Path("/sys/fs/cgroup")
_PACKAGES: Final = ("onnxruntime", "onnxruntime-gpu")
_AHEAD: Final = 2
# Two had half the pictures a second; more hold more of its memory for what decoding cannot feed (docs/experiments.md).
_GPU_RUNS: Final = 4
_CUDA_FAILURE: Final = re.compile(r"CUDA failure \d+: [^;]*[^;\s]")
_NO_TELEMETRY: Final = ("ORT_DISABLE_TELEMETRY", "1")


@dataclass(frozen=True, slots=True)
class Session:
    """One loaded graph and what it really runs on.

    Attributes:
        name: of the graph, for messages.
        input_name: of the graph's one input.
        device: "cpu" or "cuda", read from the session.
        provider: ONNX Runtime's name of it.
        fell_back: why the CPU runs although CUDA could have been expected; None otherwise.
        slots: a token for each run that may go on at a time.
    """

    name: str
    input_name: str
    ort: "ort.InferenceSession"
    device: str
    provider: str
    fell_back: str | None
    slots: "SimpleQueue[None]"

    def run(self, outputs: list[str], value: NDArray[Any]) -> list[NDArray[Any]]:
        """The named outputs for the graph's one input, whose first axis is the batch; any thread may call.

        Raises:
            BundleError: ONNX Runtime fails.
        """
        self.slots.get()
        try:
            return [np.asarray(one) for one in self.ort.run(outputs, {self.input_name: value})]
        except Exception as error:  # onnxruntime's exceptions share no base below Exception
            raise BundleError(f"{self.name}: ONNX Runtime fails: {str(error)[:300]}") from error
        finally:
            self.slots.put(None)


def open_session(model: bytes, *, device: Device, threads: int = 0, name: str = "model.onnx") -> Session:
    """Loads a graph.

    Args:
        model: the bytes of an ONNX file without external data.
        device: "cuda" fails where CUDA is not what runs; "auto" takes CUDA where it works.
        threads: of one run; 0 for one.
        name: for messages.

    Raises:
        RuntimeMissingError: ONNX Runtime is not installed, or twice.
        DeviceError: `device` is "cuda" and something else would run.
        BundleError: ONNX Runtime refuses the graph.
    """
    ort = import_onnxruntime()
    has_cuda = _PROVIDERS["cuda"] in ort.get_available_providers()
    if device == "cuda" and not has_cuda:
        raise DeviceError(
            f'{name}: device = "cuda", but this ONNX Runtime has no CUDA; '
            'install the GPU package: pip uninstall onnxruntime && pip install "edged[gpu]"'
        )
    wanted = "cuda" if has_cuda and device != "cpu" else "cpu"
    failure: str | None = None
    missing = ""
    session = None
    if wanted == "cuda":
        missing = _load_cuda(ort)
        try:
            session = _open(ort, model, "cuda", threads, name)
        except BundleError as error:
            failure = str(error)
    if session is None or session.get_providers()[0] != _PROVIDERS[wanted]:
        failure = failure or f"{name}: ONNX Runtime fell back to {_PROVIDERS['cpu']}: {missing}"
        if device == "cuda":
            raise DeviceError(f'{failure}; device = "cuda" must run on CUDA')
        session = _open(ort, model, "cpu", threads, name)
    provider = session.get_providers()[0]
    running = next(key for key, value in _PROVIDERS.items() if value == provider)
    fell_back = failure if wanted == "cuda" and running == "cpu" else None
    slots = _tokens(_GPU_RUNS if running == "cuda" else max(1, worker_count() // (threads or 1)))
    return Session(name, session.get_inputs()[0].name, session, running, provider, fell_back, slots)


def import_onnxruntime() -> Any:
    """The module onnxruntime, when exactly one of its packages is installed; every import of it goes through here.

    Its telemetry is switched off in the environment, before the import: the function that does it afterwards comes
    when a device id is written and events are queued already.

    Raises:
        RuntimeMissingError: none is installed, or both are.
    """
    if all(_is_installed(name) for name in _PACKAGES):
        raise RuntimeMissingError(
            "onnxruntime and onnxruntime-gpu are both installed, and the first hides the second; keep one: "
            'pip uninstall onnxruntime onnxruntime-gpu && pip install "edged[gpu]" (or "edged[cpu]")'
        )
    name, value = _NO_TELEMETRY
    os.environ[name] = value
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeMissingError(
            'ONNX Runtime is not installed; run: pip install "edged[cpu]" (or "edged[gpu]" on a box with an NVIDIA GPU)'
        ) from error
    return onnxruntime


def runtime_version() -> str:
    """Which ONNX Runtime this is: "onnxruntime-gpu 1.32.0". Builds by others go by the name of the module."""
    name = next((name for name in _PACKAGES if _is_installed(name)), "onnxruntime")
    return f"{name} {import_onnxruntime().__version__}"


def worker_count() -> int:
    """How many pictures to work on at a time: as many as there are usable CPUs, and two.

    One waits for a disk, a decoder or Python's lock every now and then; then another has a use for the CPU.
    """
    return usable_cpus() + _AHEAD


def usable_cpus() -> int:
    """CPUs that this process may use: its affinity, cut to its cgroup's quota (rounded up); at least 1."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = min((quota for quota in _cgroup_quotas() if quota > 0), default=float(affinity))
    return max(1, min(affinity, int(quota) + (quota > int(quota))))


def _load_cuda(ort: Any) -> str:
    """Loads CUDA's libraries where pip put them, which no search path knows, and says what is missing, if anything."""
    said = io.StringIO()
    with contextlib.redirect_stdout(said):  # it prints, and standard output is for results
        getattr(ort, "preload_dlls", lambda: None)()  # builds for other boards are older, and have CUDA in the system
    failures = [line.strip() for line in said.getvalue().splitlines() if "Failed to load" in line]
    if failures:
        return f'{failures[0]}; pip install "edged[gpu]" brings the CUDA libraries along'
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        return f"{error}; install the NVIDIA driver"
    return "see its messages above; the driver may be too old for this CUDA"


def _open(ort: Any, model: bytes, device: str, threads: int, name: str) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # Threads that wait in a loop would burn whole cores between pictures.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # With one picture a run the arena holds what one takes, for each CPU. Without it large blocks go back to the kernel
    # after every run, and come again zeroed.
    options.enable_cpu_mem_arena = True
    # A graph that names files outside itself must find nothing.
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    providers: list[Any] = [_PROVIDERS["cpu"]]
    if device == "cuda":
        # TF32 is on by default and changes scores between devices. Trying every algorithm for a convolution takes a
        # second at the start, gains a tenth, and may choose another one the next time.
        providers = [(_PROVIDERS["cuda"], {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}), *providers]
    try:
        # With a fallback it would print to standard output, which is for results.
        session = ort.InferenceSession(model, options, providers=providers, enable_fallback=False)
    except Exception as error:  # onnxruntime's exceptions share no base below Exception
        told = _CUDA_FAILURE.search(str(error))  # what comes before it is the name of a C++ function
        reason = told[0] if told else str(error)[:300]
        raise BundleError(f"{name}: ONNX Runtime cannot load it: {reason}") from error
    return session


def _tokens(count: int) -> "SimpleQueue[None]":
    # The semaphores of `threading` are Python, and cost several times as much in every picture.
    tokens: SimpleQueue[None] = SimpleQueue()
    for _ in range(count):
        tokens.put(None)
    return tokens


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cgroup_quotas() -> list[float]:
    """CPU quotas of this process's cgroups, in CPUs: version 2 up to the root, or version 1."""
    quotas: list[float] = []
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return quotas
    for line in lines:
        number, controllers, path = line.split(":", 2)
        folder = _CGROUP / path.lstrip("/")
        if number == "0":
            quotas += [
                _quota(parent / "cpu.max")
                for parent in (folder, *folder.parents)
                if _CGROUP in (parent, *parent.parents)
            ]
        elif "cpu" in controllers.split(","):
            quotas += [
                _quota(root / "cpu.cfs_quota_us", root / "cpu.cfs_period_us") for root in (_CGROUP / "cpu", folder)
            ]
    return quotas


def _quota(*files: Path) -> float:
    try:
        quota, period = " ".join(file.read_text(encoding="ascii").strip() for file in files).split()
        return float(quota) / float(period)
    except (OSError, ValueError, ZeroDivisionError):  # absent, or "max"
        return 0.0

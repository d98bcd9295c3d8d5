"""What the daemon reaches of what the machine can do, what it costs, and how long a lone picture takes.

    python bench/throughput.py [BUNDLE] [--pictures DIR] [--kind KIND]... [--rounds N] [--against CHECKOUT]

By default it takes what `make demo` left behind. The ceiling is a loop in one process: one thread a core, each decoding
and scoring picture after picture with one session of one intra-op thread, without hashing, processes, journal or sinks.
Daemons are driven from outside, by commands, configuration, metrics and the file of a `jsonl` sink. `--against` runs
another checkout's daemon in turns with this one's. Ceiling and daemons take turns in every round, and medians over
rounds are given; machines differ and are shared, so read the ratios.

    images/s      a burst, from the first rename until the sink has the last result
    CPU           of a picture in that burst: the daemon and its decoders
    p50, p95      of a picture alone, from its rename until the sink has its result, which is durable by then
    Pss           at its highest in a burst of its own: the daemon and its decoders, shared pages by shares
    idle          share of one core while nothing arrives
    stages        where the time of a picture goes, by edged_stage_duration_seconds; a commit is shared by many
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from demo import DEMO, answers, children, free_port, wait
from edged.media import inputs
from edged.media.imaging import Limits, find_pictures
from edged.models.runtime import import_onnxruntime

# Kind: pictures in a burst, and pixels (width, height) of those that are made; None for pictures as they are.
KINDS: Final[dict[str, tuple[int, tuple[int, int] | None]]] = {
    "png": (1200, None),
    "jpeg-2mp": (600, (1632, 1224)),
    "jpeg-12mp": (200, (4000, 3000)),
}
MADE, NOISE, QUALITY = 4, 8.0, 90
WARM_UP, LONE, IDLE_SECONDS, PAUSE_SECONDS = 16, 40, 10.0, 0.15
PATIENCE_SECONDS = 300.0

TEMPLATE = """\
[service]
state_dir = {state}
[http]
listen = "127.0.0.1:{port}"
[models.bench]
path = {bundle}
device = "{device}"
[[sources]]
name = "bench"
type = "folder"
path = {inbox}
model = "bench"
[[sinks]]
name = "results"
type = "jsonl"
path = {results}
"""
OVERLAYS = """\
[[sinks]]
name = "overlays"
type = "images"
dir = {overlays}
"""

Figures = dict[str, float]
Rounds = defaultdict[str, defaultdict[str, list[float]]]


def main() -> int:
    """Prints one table a kind of picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=DEMO / "bundles" / "solar")
    parser.add_argument("--pictures", type=Path, default=DEMO / "inbox", help="a folder of pictures")
    parser.add_argument("--kind", action="append", choices=KINDS, help="only these kinds of picture")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="so many times as many pictures in a burst")
    parser.add_argument("--against", type=Path, help="a checkout with a virtual environment of its own")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="what runs the model, here and there")
    parser.add_argument("--overlays", action="store_true", help="daemons draw heat maps of what they flag")
    parser.add_argument("--no-arena", action="store_true", help="the ceiling's session gives its memory back")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--ceiling", type=Path, nargs="+", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ceiling:
        print(json.dumps(ceiling(arguments)))
        return 0
    if not arguments.bundle.is_dir() or not arguments.pictures.is_dir():
        sys.exit("throughput: there is no bundle or there are no pictures; run `make demo` first, or name both")
    programs = {"daemon": Path(sys.executable).with_name("edged")}
    if arguments.against is not None:
        programs["against"] = arguments.against.resolve() / ".venv" / "bin" / "edged"
    with tempfile.TemporaryDirectory(prefix="edged-throughput-") as folder, contextlib.ExitStack() as stack:
        daemons = [
            stack.enter_context(running(Path(folder) / name, name, program, arguments))
            for name, program in programs.items()
        ]
        found = {kind: measure(kind, daemons, Path(folder), arguments) for kind in arguments.kind or KINDS}
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    return 0


# The ceiling.


def ceiling(arguments: argparse.Namespace) -> Figures:
    """Decodes and scores the pictures with a thread a core; in a process of its own, for its CPU is counted."""
    onnxruntime = import_onnxruntime()
    bundle, pictures = arguments.bundle, arguments.ceiling
    spec = inputs.from_dict(json.loads((bundle / "manifest.json").read_text())["input"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = not arguments.no_arena
    providers: list[object] = ["CPUExecutionProvider"]
    if arguments.device == "cuda":
        onnxruntime.preload_dlls()
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    session = onnxruntime.InferenceSession(str(bundle / "model.onnx"), options, providers=providers)

    def score(path: Path) -> None:
        pixels = inputs.decode(path.read_bytes(), spec, Limits()).pixels
        session.run(["score", "anomaly_map"], {spec.kind: pixels[np.newaxis]})

    cores = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(cores) as threads:
        list(threads.map(score, pictures[:WARM_UP]))
        began, cpu = time.perf_counter(), time.process_time()
        list(threads.map(score, pictures))
        seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    return {"images_per_s": len(pictures) / seconds, "cpu_ms": 1000 * cpu / len(pictures)}


# Daemons.


class Lines:
    """The lines of a file that grows, counted without reading any of them twice."""

    def __init__(self, path: Path) -> None:
        self._path, self._place, self._count = path, 0, 0

    def count(self) -> int:
        """As many as there are now."""
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_size > self._place:
                with self._path.open("rb") as file:
                    file.seek(self._place)
                    new = file.read()
                self._place, self._count = self._place + len(new), self._count + new.count(b"\n")
        return self._count


@dataclass(frozen=True, slots=True)
class Daemon:
    """One that runs, and what it is to be driven by."""

    name: str
    process: "subprocess.Popen[bytes]"
    address: str
    inbox: Path
    results: "Lines"
    staging: Path
    start: Figures = field(default_factory=dict)

    def burst(self, pictures: Sequence[Path], *, tell_stages: bool = True) -> Figures:
        """All at once: how fast, at what cost, and where the time goes, unless nobody is to ask the daemon."""
        staged = self._stage(pictures)
        stages = self._stages() if tell_stages else {}
        before, done = self._cpu_s(), self.results.count()
        began = time.perf_counter()
        for path in staged:
            path.rename(self.inbox / path.name)
        while self.results.count() < done + len(staged):
            self._patience(began, 0.005)
        seconds = time.perf_counter() - began
        figures = {
            "images_per_s": len(staged) / seconds,
            "cpu_ms": 1000 * (self._cpu_s() - before) / len(staged),
        }
        if not tell_stages:
            return figures
        spent = {stage: total - stages.get(stage, 0.0) for stage, total in self._stages().items()}
        return figures | {f"{stage}_ms": 1000 * total / len(staged) for stage, total in spent.items()}

    def weigh(self, pictures: Sequence[Path]) -> float:
        """Pss in MB at its highest in a burst of its own: to look costs the daemon time."""
        staged, highest, done, began = self._stage(pictures), 0, self.results.count(), time.perf_counter()
        for path in staged:
            path.rename(self.inbox / path.name)
        while self.results.count() < done + len(staged):
            highest = max(highest, self._pss())
            self._patience(began, 0.1)
        return highest / 1e6

    def lone(self, pictures: Sequence[Path]) -> list[float]:
        """One by one, each after a pause: milliseconds of each."""
        taken = []
        for path in self._stage(pictures):
            time.sleep(PAUSE_SECONDS)
            done = self.results.count()
            began = time.perf_counter()
            path.rename(self.inbox / path.name)
            while self.results.count() == done:
                self._patience(began, 0.0003)
            taken.append(1000 * (time.perf_counter() - began))
        return taken

    def _stage(self, pictures: Sequence[Path]) -> list[Path]:
        """Copies beside the inbox, each under a name that was not there before."""
        number = sum(1 for _ in os.scandir(self.inbox))
        return [
            Path(shutil.copyfile(path, self.staging / f"{number + index:06d}{path.suffix}"))
            for index, path in enumerate(pictures)
        ]

    def _patience(self, began: float, pause: float) -> None:
        if self.process.poll() is not None or time.perf_counter() - began > PATIENCE_SECONDS:
            sys.exit(f"throughput: {self.name} did not score everything in {PATIENCE_SECONDS:.0f} s")
        time.sleep(pause)

    def _pids(self) -> list[int]:
        return [self.process.pid, *children(self.process.pid)]

    def _cpu_s(self) -> float:
        return sum(cpu_seconds(pid) for pid in self._pids())

    def _pss(self) -> int:
        total = 0
        for pid in self._pids():
            with contextlib.suppress(OSError):  # a decoder that has just ended
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                total += next(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total

    def _stages(self) -> dict[str, float]:
        """Seconds that each stage has taken so far."""
        with urllib.request.urlopen(f"{self.address}/metrics", timeout=10) as response:
            lines = response.read().decode().splitlines()
        start = 'edged_stage_duration_seconds_sum{stage="'
        return {line[len(start) :].split('"')[0]: float(line.split()[-1]) for line in lines if line.startswith(start)}


@contextlib.contextmanager
def running(folder: Path, name: str, program: Path, arguments: argparse.Namespace) -> Iterator[Daemon]:
    """Starts a daemon, lets it score some pictures, and sees what it costs while nothing arrives."""
    inbox, staging, config, port = folder / "inbox", folder / "staging", folder / "edged.toml", free_port()
    for made in (inbox, staging):
        made.mkdir(parents=True)
    paths = {
        "state": folder / "state",
        "bundle": arguments.bundle.resolve(),
        "inbox": inbox,
        "results": folder / "results.jsonl",
        "overlays": folder / "overlays",
    }
    quoted = {key: json.dumps(str(path)) for key, path in paths.items()}
    template = TEMPLATE + (OVERLAYS if arguments.overlays else "")
    config.write_text(template.format(port=port, device=arguments.device, **quoted))
    with (folder / "edged.log").open("wb") as log:
        process = subprocess.Popen([program, "run", "-c", config], stderr=log, cwd=folder)
    try:
        address = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{address}/readyz"), PATIENCE_SECONDS, "the daemon is not ready", process)
        ready = cpu_seconds(process.pid)
        daemon = Daemon(name, process, address, inbox, Lines(paths["results"]), staging)
        daemon.burst(list(find_pictures(arguments.pictures))[:WARM_UP])
        time.sleep(2.0)  # what comes after a burst is not idle
        before = scheduled_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        idle = (scheduled_seconds(process.pid) - before) / IDLE_SECONDS
        print(f"{name}: {ready:.2f} s of CPU until it was ready, {idle:.2%} of a core when idle", flush=True)
        yield replace(daemon, start={"ready_cpu_s": ready, "idle_share": idle})
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def cpu_seconds(pid: int) -> float:
    """CPU time of a process, in steps of the kernel's clock; with threads that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def scheduled_seconds(pid: int) -> float:
    """CPU time of a process and its children, to the nanosecond; of threads that live."""
    files = [path for one in (pid, *children(pid)) for path in Path(f"/proc/{one}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in files) / 1e9


# In turns.


def measure(kind: str, daemons: Sequence[Daemon], folder: Path, arguments: argparse.Namespace) -> dict[str, Figures]:
    """The medians of one kind of picture over all rounds, by ceiling and daemon; prints them."""
    count, size = KINDS[kind]
    found = sorted(find_pictures(arguments.pictures))
    np.random.default_rng(1).shuffle(found)  # type: ignore[arg-type]
    if size is not None:
        (folder / kind).mkdir()
        found = [photograph(path, size, folder / kind / f"{i}.jpg") for i, path in enumerate(found[:MADE])]
    pictures = [found[index % len(found)] for index in range(max(WARM_UP, round(count * arguments.scale)))]
    rounds: Rounds = defaultdict(lambda: defaultdict(list))
    lone: defaultdict[str, list[float]] = defaultdict(list)
    for _ in range(arguments.rounds):
        command = [sys.executable, __file__, arguments.bundle, "--device", arguments.device]
        command += ["--no-arena"] if arguments.no_arena else []
        done = subprocess.run([*command, "--ceiling", *pictures], stdout=subprocess.PIPE, check=True)
        turns: dict[str, Figures] = {"ceiling": json.loads(done.stdout)}
        for daemon in daemons:
            daemon.burst(pictures[:WARM_UP])
            turns[daemon.name] = daemon.burst(pictures)
            turns[daemon.name]["pss_mb"] = daemon.weigh(pictures[: len(pictures) // 4])
        for daemon in daemons:
            lone[daemon.name] += daemon.lone(pictures[: round(LONE / arguments.rounds)])
        for name, figures in turns.items():
            for key, value in figures.items():
                rounds[name][key].append(value)
    medians = {name: {key: statistics.median(v) for key, v in figures.items()} for name, figures in rounds.items()}
    for daemon in daemons:
        p50, p95 = np.percentile(lone[daemon.name], (50, 95))
        medians[daemon.name] |= {"p50_ms": float(p50), "p95_ms": float(p95)} | daemon.start
    bytes_ = statistics.mean(path.stat().st_size for path in found)
    report(f"{kind}: bursts of {len(pictures)}, of {bytes_ / 1e3:.0f} kB", medians, rounds)
    return medians


def photograph(path: Path, size: tuple[int, int], out: Path) -> Path:
    """A JPEG as a camera gives it: the picture larger, with noise, so that it has as many bytes as a real one."""
    random = np.random.default_rng(0)
    with Image.open(path) as image:
        large = np.asarray(image.convert("L").resize(size, Image.Resampling.BICUBIC), dtype=np.float32)[..., None]
    noisy = large + random.normal(0, NOISE, (*large.shape[:2], 3)).astype(np.float32)
    Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(out, quality=QUALITY)
    return out


def report(title: str, medians: dict[str, Figures], rounds: Rounds) -> None:
    """One column for the ceiling and each daemon, and what they are to each other, as medians over rounds."""
    keys = list(dict.fromkeys(key for figures in medians.values() for key in figures))
    print(f"\n{title}\n{'':24}" + "".join(f"{name:>12}" for name in medians))
    for key in keys:
        cells = [f"{figures[key]:12.4g}" if key in figures else f"{'':12}" for figures in medians.values()]
        print(f"{key:24}" + "".join(cells))
    for other in ("ceiling", "against"):
        if other in medians:
            for key in ("images_per_s", "cpu_ms"):
                pairs = zip(rounds["daemon"][key], rounds[other][key], strict=True)
                print(f"{key}, of {other}'s".ljust(24) + f"{statistics.median(a / b for a, b in pairs):12.2f}")
    if "against" in medians:
        print("p50, of against's".ljust(24) + f"{medians['daemon']['p50_ms'] / medians['against']['p50_ms']:12.2f}")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())

"""What the daemon costs: CPU until it is ready, CPU when idle, resident memory, and images/s against the model alone.

    python bench/footprint.py [BUNDLE] [--pictures DIR] [--count N]

By default it takes what `make demo` left behind. The floor is the same session on the same pictures, decoded and in
memory, in the same run and with as many threads: the daemon adds reading, hashing, decoding in other processes,
calibration, overlays, the journal's fsyncs and a sink. Machines differ and are shared, so read the ratios.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from demo import DEMO, answers, children, drop, edged, free_port, peak_rss_bytes, scored, seconds, wait
from edged.media.imaging import Limits, decode, find_pictures
from edged.models.scorer import Scorer
from edged.service.pipeline import MAX_BATCH

IDLE_SECONDS = 20.0
PATIENCE_SECONDS = 300.0

TEMPLATE = """\
[service]
state_dir = {state}
[http]
listen = "127.0.0.1:{port}"
[models.bench]
path = {bundle}
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


def main() -> int:
    """Prints one line a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=DEMO / "bundles" / "solar")
    parser.add_argument("--pictures", type=Path, default=DEMO / "inbox", help="a folder of pictures")
    parser.add_argument("--count", type=int, default=400, help="pictures to score")
    arguments = parser.parse_args()
    if not arguments.bundle.is_dir() or not arguments.pictures.is_dir():
        sys.exit("footprint: there is no bundle or there are no pictures; run `make demo` first, or name both")
    found = list(find_pictures(arguments.pictures))
    pictures = [found[index % len(found)] for index in range(arguments.count)]
    figures = {"floor_images_per_s": floor(arguments.bundle, pictures)}
    with tempfile.TemporaryDirectory(prefix="edged-footprint-") as folder:
        figures |= daemon_figures(Path(folder), arguments.bundle.resolve(), pictures)
    figures["images_per_s_ratio"] = figures["images_per_s"] / figures["floor_images_per_s"]
    for name, value in figures.items():
        print(f"{name:28}{value:12.3f}")
    return 0


def floor(bundle: Path, pictures: Sequence[Path]) -> float:
    """Images per second of the session alone, in batches as large as the daemon's."""
    detector = Scorer.load(bundle)
    frames = [decode(path.read_bytes(), detector.bundle.manifest.input, Limits()).pixels for path in pictures]
    batches = [np.stack(frames[start : start + MAX_BATCH]) for start in range(0, len(frames), MAX_BATCH)]
    detector.scores(batches[0])
    began = time.perf_counter()
    for batch in batches:
        detector.scores(batch)
    return len(frames) / (time.perf_counter() - began)


def daemon_figures(folder: Path, bundle: Path, pictures: Sequence[Path]) -> dict[str, float]:
    """Starts a daemon, lets it idle, gives it a burst, and measures from outside."""
    inbox, config, port = folder / "inbox", folder / "edged.toml", free_port()
    inbox.mkdir()
    paths = {"state": folder / "state", "bundle": bundle, "inbox": inbox, "results": folder / "results.jsonl"}
    config.write_text(TEMPLATE.format(port=port, **{name: json.dumps(str(path)) for name, path in paths.items()}))
    program = Path(sys.executable).with_name("edged")
    daemon = subprocess.Popen([program, "run", "-c", config], stderr=subprocess.DEVNULL)
    try:
        address = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{address}/readyz"), PATIENCE_SECONDS, "the daemon is not ready", daemon)
        ready = cpu_seconds(daemon.pid)
        time.sleep(IDLE_SECONDS)
        idle = (cpu_seconds(daemon.pid) - ready) / IDLE_SECONDS
        began = time.time()
        for index, picture in enumerate(pictures):
            copy = folder / f"{index:06d}{picture.suffix}"
            shutil.copy(picture, copy)
            drop(copy, inbox)
        wait(lambda: scored(address) >= len(pictures), PATIENCE_SECONDS, "not all pictures were scored", daemon)
        rss = {pid: peak_rss_bytes(pid) for pid in (daemon.pid, *children(daemon.pid))}
        records = [json.loads(line) for line in edged("results", "-c", config, "--format", "json").splitlines()]
        last = max(seconds(record["scored_at"]) for record in records)
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait()
    return {
        "ready_cpu_s": ready,
        "idle_cpu_share": idle,
        "peak_rss_daemon_mb": rss[daemon.pid] / 1e6,
        "peak_rss_with_decoders_mb": sum(rss.values()) / 1e6,
        "images_per_s": len(pictures) / (last - began),
    }


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and of its children that live."""
    ticks = 0
    for process in (pid, *children(pid)):
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())

"""The main job on real input: train on good solar cells, export, run the daemon on a drop folder, and sum up.

    make demo              everything, then the daemon is stopped
    make demo SERVE=1      leaves the daemon running and prints its address

The pictures are electroluminescence images of solar cells from the package elpv-dataset (Buerhop-Lutz et al., 2018;
CC BY-NC-SA 4.0, so they are used here and never shipped): monocrystalline cells, those with a defect probability of
0.0 as good ones and those with 1.0 as defective ones. edged itself is used through its public commands alone.
Everything is kept under demo/.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench import datasets

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "demo"
BUNDLE = DEMO / "bundles" / "solar"
CONFIG = DEMO / "edged.toml"
PACED, PACE_SECONDS = 60, 0.2
TARGET_FPR = 0.01
READY_SECONDS, SCORING_SECONDS, STOP_SECONDS = 60.0, 300.0, 60.0

TEMPLATE = """\
# Written by `make demo`.
[service]
state_dir = {state}

[http]
listen = "127.0.0.1:{port}"

[models.solar]
path = {bundle}

[[sources]]
name = "cells"
type = "folder"
path = {inbox}
model = "solar"

[[sinks]]
name = "results"
type = "jsonl"
path = {results}

[[sinks]]
name = "overlays"
type = "images"
dir = {heatmaps}
"""


def main() -> int:
    """Runs the demo; 0 when every picture that went in came out as exactly one result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--serve", action="store_true", help="leave the daemon running at the end")
    serve = parser.parse_args().serve
    began = time.monotonic()
    cells = datasets.load("elpv-mono", None)
    stop_former_daemon()
    shutil.rmtree(DEMO, ignore_errors=True)
    for name, pictures in (("good", cells.train), ("bad", cells.bad)):
        (DEMO / "pictures" / name).mkdir(parents=True)
        for picture in pictures:
            shutil.copy(picture, DEMO / "pictures" / name)

    say(f"training on {len(cells.train)} good cells")
    run_dir = DEMO / "runs" / "solar"
    licence = "data_licence=CC BY-NC-SA 4.0 (elpv-dataset)"
    good_dir = DEMO / "pictures" / "good"
    command(sys.executable, "-m", "train", "ae", "--good", good_dir, "--set", licence, "--out", run_dir)
    say("exporting to ONNX")
    command(sys.executable, "-m", "export", run_dir, "--out", BUNDLE)

    say("starting the daemon")
    inbox = DEMO / "inbox"
    inbox.mkdir()
    port = free_port()
    paths = {"state": DEMO / "state", "bundle": BUNDLE, "inbox": inbox, "results": DEMO / "results.jsonl"}
    quoted = {name: json.dumps(str(path)) for name, path in {**paths, "heatmaps": DEMO / "heatmaps"}.items()}
    CONFIG.write_text(TEMPLATE.format(port=port, **quoted))
    edged("check", "-c", CONFIG)
    with (DEMO / "edged.log").open("wb") as log:
        daemon = subprocess.Popen([edged_program(), "run", "-c", CONFIG], stderr=log, start_new_session=serve)
    (DEMO / "edged.pid").write_text(f"{daemon.pid}\n")
    try:
        address = f"http://127.0.0.1:{port}"
        wait(lambda: answers(f"{address}/readyz"), READY_SECONDS, "the daemon is not ready", daemon)
        summary = drop_and_measure(cells.good, cells.bad, inbox, address, daemon)
        if not serve:
            daemon.send_signal(signal.SIGTERM)
            summary["exit_code"] = daemon.wait(STOP_SECONDS)
    except BaseException:
        daemon.kill()
        raise
    summary["model_bytes"] = (BUNDLE / "model.onnx").stat().st_size
    summary["seconds"] = round(time.monotonic() - began, 1)
    (DEMO / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    report(summary)
    if serve:
        say(f"the daemon runs on: {address}/metrics, inbox {inbox}; stop it with: kill {daemon.pid}")
    return 0 if summary["images_in"] == summary["results"] and not summary.get("exit_code") else 1


def drop_and_measure(
    good: Sequence[Path], defective: Sequence[Path], inbox: Path, address: str, daemon: "subprocess.Popen[bytes]"
) -> dict[str, Any]:
    """Drops pictures as a producer should, waits for all results, and measures."""
    mixed = [*good, *defective]
    np.random.RandomState(1).shuffle(mixed)
    say(f"dropping {PACED} pictures, one every {PACE_SECONDS} s")
    dropped = {}
    due = time.monotonic()
    for picture in mixed[:PACED]:
        pause_until(due)
        dropped[str(inbox / picture.name)] = drop(picture, inbox)
        due += PACE_SECONDS
    wait(lambda: scored(address) >= PACED, SCORING_SECONDS, "not all pictures were scored", daemon)
    say(f"dropping {len(mixed) - PACED} pictures at once")
    burst_began = time.time()
    for picture in mixed[PACED:]:
        drop(picture, inbox)
    wait(lambda: scored(address) >= len(mixed), SCORING_SECONDS, "not all pictures were scored", daemon)
    rss = sum(peak_rss_bytes(pid) for pid in (daemon.pid, *children(daemon.pid)))

    records = [json.loads(line) for line in edged("results", "-c", CONFIG, "--format", "json").splitlines()]
    ok = [record for record in records if record["status"] == "ok"]
    is_bad = np.array([Path(record["path"]).name in {path.name for path in defective} for record in ok])
    scores = np.array([record["score"] for record in ok])
    flagged = np.array([record["is_anomaly"] for record in ok])
    latencies = [1000 * (seconds(r["scored_at"]) - dropped[r["path"]]) for r in records if r["path"] in dropped]
    burst = [seconds(record["scored_at"]) for record in records if record["path"] not in dropped]
    calibration = json.loads((BUNDLE / "calibration.json").read_text())
    return {
        "images_in": len(mixed),
        "results": len({record["path"] for record in records}) if len(records) == len(mixed) else len(records),
        "quarantined": len(records) - len(ok),
        "auroc": round(auroc(scores[~is_bad], scores[is_bad]), 4),
        "auroc_of_mean_brightness": round(brightness_auroc(good, defective), 4),
        "recall": round(float(flagged[is_bad].mean()), 4),
        "false_positive_rate": round(float(flagged[~is_bad].mean()), 4),
        "false_positive_rate_within": list(rate_bounds(calibration["n"], int((~is_bad).sum()))),
        "images_per_s": round(len(burst) / (max(burst) - burst_began), 1),
        "latency_p50_ms": round(float(np.percentile(latencies, 50)), 1),
        "latency_p95_ms": round(float(np.percentile(latencies, 95)), 1),
        "rss_bytes": rss,
        "heatmaps": str(DEMO / "heatmaps"),
    }


def report(summary: dict[str, Any]) -> None:
    """Prints the summary for a person."""
    low, high = summary["false_positive_rate_within"]
    count = "equal" if summary["images_in"] == summary["results"] else "NOT EQUAL"
    rows = {
        "pictures in, results out": f"{summary['images_in']}, {summary['results']}: {count}",
        "quarantined": f"{summary['quarantined']}",
        "AUROC": f"{summary['auroc']:.4f} (a light meter: {summary['auroc_of_mean_brightness']:.4f})",
        "recall": f"{summary['recall']:.1%} of the defective cells flagged",
        "false-positive rate": f"{summary['false_positive_rate']:.2%} of the good cells flagged "
        f"({TARGET_FPR:.0%} asked for; 95 % of runs give {low:.2%} to {high:.2%})",
        "throughput": f"{summary['images_per_s']:.1f} pictures/s in a burst",
        "from arrival to result": f"p50 {summary['latency_p50_ms']:.0f} ms, p95 {summary['latency_p95_ms']:.0f} ms",
        "resident memory": f"{summary['rss_bytes'] / 1e6:.0f} MB at its peak, decoders included",
        "model.onnx": f"{summary['model_bytes'] / 1e6:.1f} MB",
        "heat maps": summary["heatmaps"],
        "took": f"{summary['seconds']:.0f} s; the same figures are in {DEMO / 'summary.json'}",
    }
    print("\n" + "\n".join(f"{name:26}{value}" for name, value in rows.items()))


def auroc(good: np.ndarray, bad: np.ndarray) -> float:
    """Share of pairs in which the bad picture scores higher; a tie counts half (Mann and Whitney, 1947)."""
    ordered = np.sort(good)
    below, up_to = np.searchsorted(ordered, bad, "left"), np.searchsorted(ordered, bad, "right")
    return float((below + up_to).sum() / 2 / (len(good) * len(bad)))


def brightness_auroc(good: Sequence[Path], defective: Sequence[Path]) -> float:
    """What a light meter could do: the AUROC of the mean brightness, darker or brighter, whichever is better."""
    means = [np.array([np.asarray(Image.open(path)).mean() for path in paths]) for paths in (good, defective)]
    value = auroc(*means)
    return max(value, 1 - value)


def rate_bounds(calibration: int, tests: int) -> tuple[float, float]:
    """Between which false-positive rates 95 % of runs lie, for n calibration and m test pictures.

    With n exchangeable scores, the number of m new ones above the k-th smallest follows a beta-binomial
    distribution with parameters n + 1 - k and k (Angelopoulos and Bates, 2021, section 3.2). Scores out of fold are
    exchangeable with new ones but for the one picture more that the model of the new ones has seen.
    """
    rank = min(int(np.ceil((calibration + 1) * (1 - TARGET_FPR) - 1e-9)), calibration)
    above, below = calibration + 1 - rank, rank
    # P(j of m above), with whole parameters: ways to place j and m - j among the calibration scores.
    ways = [comb(above + j - 1, j) * comb(below + tests - j - 1, tests - j) for j in range(tests + 1)]
    cumulative = np.cumsum([way / sum(ways) for way in ways])
    low = int(np.searchsorted(cumulative, 0.025))
    return low / tests, int(np.searchsorted(cumulative, 0.975)) / tests


def drop(picture: Path, inbox: Path) -> float:
    """Puts one picture into the inbox as producers should: written whole under another name, then renamed."""
    partial = inbox / f"{picture.name}.part"
    shutil.copyfile(picture, partial)
    partial.rename(inbox / picture.name)
    return time.time()


def scored(address: str) -> int:
    """How many pictures the daemon has durable results for, by its metrics."""
    with urllib.request.urlopen(f"{address}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return int(sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith("edged_images_total{")))


def answers(url: str) -> bool:
    """Whether a GET gives 200."""
    try:
        with urllib.request.urlopen(url, timeout=10) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def wait(done: Callable[[], bool], patience: float, what: str, daemon: "subprocess.Popen[bytes]") -> None:
    """Waits until `done`, as long as the daemon lives and patience lasts."""
    deadline = time.monotonic() + patience
    while not done():
        if daemon.poll() is not None or time.monotonic() > deadline:
            sys.exit(f"demo: {what} after {patience:.0f} s; see {DEMO / 'edged.log'}")
        pause_until(time.monotonic() + 0.1)


def pause_until(due: float) -> None:
    """Waits until a moment of the monotonic clock."""
    if (left := due - time.monotonic()) > 0:
        time.sleep(left)


def peak_rss_bytes(pid: int) -> int:
    """The most resident memory that a process ever had."""
    status = Path(f"/proc/{pid}/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))


def children(pid: int) -> Iterator[int]:
    """The child processes of all threads of a process."""
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
            yield from map(int, path.read_text().split())


def seconds(rfc3339: str) -> float:
    """An RFC 3339 time as seconds since 1970."""
    return datetime.fromisoformat(rfc3339).timestamp()


def free_port(wanted: int = 9108) -> int:
    """The port that is wanted, by default that of the default configuration, when it is free; else one that is."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise OSError("no free port on 127.0.0.1")


def stop_former_daemon() -> None:
    """Ends a daemon that an earlier `make demo SERVE=1` left running."""
    try:
        pid = int((DEMO / "edged.pid").read_text())
        if str(CONFIG) not in Path(f"/proc/{pid}/cmdline").read_text():
            return
        os.kill(pid, signal.SIGTERM)
    except (OSError, ValueError):
        return
    deadline = time.monotonic() + STOP_SECONDS
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        pause_until(time.monotonic() + 0.1)


def edged_program() -> str:
    """The console script beside this Python."""
    return str(Path(sys.executable).with_name("edged"))


def edged(*arguments: object) -> str:
    """Runs an edged command and returns what it prints."""
    done = subprocess.run([edged_program(), *map(str, arguments)], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        sys.exit(f"demo: edged {arguments[0]} ended with {done.returncode}")
    return done.stdout


def command(*arguments: object) -> None:
    """Runs a command of the checkout, its output in sight."""
    done = subprocess.run(list(map(str, arguments)), cwd=ROOT, check=False)
    if done.returncode:
        sys.exit(f"demo: {' '.join(map(str, arguments[1:4]))} ended with {done.returncode}")


def say(text: str) -> None:
    """One line of progress."""
    print(f"demo: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

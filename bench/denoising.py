"""Our denoiser against BM3D at a standard deviation of 25/255: PSNR and time on held-out solar cells.

    python bench/denoising.py [--bundle BUNDLE] [--pictures N] [--set KEY=VALUE ...] [--keep DIR]

Monocrystalline cells without defects from the package elpv-dataset (CC BY-NC-SA 4.0), 256x256 px: 70 % train the
denoiser through `python -m train denoiser` and `python -m export`, on the rest both are measured. BM3D is told the
noise level, ours is not. BM3D is also given the noise before it is clipped and rounded to 8 bits, and its better figure
counts; ours sees 8 bits, as in service. Both run on one thread, on the same pictures.

BM3D comes from the package bm3d, whose licence is for non-commercial use: install it yourself, `pip install bm3d`.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from bench import datasets
from edged.media.imaging import ImageInput, Limits, decode
from edged.models.scorer import Scorer

ROOT: Final = Path(__file__).parents[1]
SIGMA: Final = 25 / 255
SPEC: Final = ImageInput(256, 256, 1)
NEEDED: Final = {
    "bm3d": "bm3d (for non-commercial use): pip install bm3d",
    "elpv_dataset": "the pictures (CC BY-NC-SA 4.0): pip install elpv-dataset",
}

Pictures = NDArray[np.float64]


def main() -> int:
    """Trains unless a bundle is given, measures, prints; returns 0 when ours wins in both, 1 when not, 2 if not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="a denoiser that was trained on the first 70 %%; none: train one")
    parser.add_argument("--pictures", type=int, default=40, help="held-out pictures to measure on")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for training")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="where the run and the bundle stay; none: nowhere")
    options = parser.parse_args()
    missing = [what for module, what in NEEDED.items() if find_spec(module) is None]
    if missing:
        print("install " + "; ".join(missing), file=sys.stderr)
        return 2
    cells = datasets.load("elpv-mono", None)
    with tempfile.TemporaryDirectory() as temporary:
        bundle = options.bundle or make(cells.train, options.keep or Path(temporary), options.set)
        clean = np.stack([decode(path.read_bytes(), SPEC, Limits()).pixels for path in cells.good[: options.pictures]])
        found = measure(Scorer.load(bundle, device="cpu", threads=1), clean)
    print(json.dumps(found, indent=1))
    wins = found["ours_psnr_db"] > found["bm3d_psnr_db"] and found["times_faster"] >= 10
    print("ours is better and ten times faster" if wins else "ours does NOT win in both")
    return 0 if wins else 1


def make(pictures: Sequence[Path], folder: Path, settings: list[str]) -> Path:
    """Trains and exports a denoiser through the public commands."""
    with tempfile.TemporaryDirectory() as links:
        for path in pictures:
            (Path(links) / path.name).write_bytes(path.read_bytes())
        more = [item for setting in ["channels=1", *settings] for item in ("--set", setting)]
        run, bundle = folder / "run", folder / "bundle"
        command = [sys.executable, "-m", "train", "denoiser", "--good", links, *more, "--out", str(run)]
        subprocess.run(command, cwd=ROOT, check=True)
        subprocess.run([sys.executable, "-m", "export", str(run), "--out", str(bundle)], cwd=ROOT, check=True)
    return bundle


def measure(ours: Scorer, clean: NDArray[np.uint8]) -> dict[str, Any]:
    """Both on the same noisy pictures, uint8 (n, H, W, 1)."""
    import bm3d

    noisy = clean / 255 + np.random.default_rng(0).normal(0, SIGMA, clean.shape)
    stored = np.clip(np.round(noisy * 255), 0, 255).astype(np.uint8)
    profile = bm3d.BM3DProfile()
    profile.num_threads = 1
    bm3d.bm3d(noisy[0, ..., 0], SIGMA, profile)  # the first call of either also sets things up
    ours.reconstruct(stored[:1])

    gains: dict[str, list[float]] = {"ours": [], "bm3d, clipped": [], "bm3d, unclipped": []}
    times: dict[str, list[float]] = {"ours": [], "bm3d": []}
    for truth, unclipped, picture in zip(clean / 255, noisy, stored, strict=True):
        began = time.perf_counter()
        cleaned = ours.reconstruct(picture[None])[0]
        times["ours"].append(time.perf_counter() - began)
        gains["ours"].append(psnr(cleaned / 255, truth))
        for name, given in (("bm3d, clipped", picture / 255), ("bm3d, unclipped", unclipped)):
            began = time.perf_counter()
            cleaned = bm3d.bm3d(given[..., 0], SIGMA, profile)[..., None]
            times["bm3d"].append(time.perf_counter() - began)
            gains[name].append(psnr(np.clip(cleaned, 0, 1), truth))
    means = {name: float(np.mean(values)) for name, values in gains.items()}
    best = max("bm3d, clipped", "bm3d, unclipped", key=lambda name: means[name])
    margin = np.subtract(gains["ours"], gains[best])
    # The median: others may be using the machine.
    ours_ms, bm3d_ms = (float(np.median(times[name]) * 1000) for name in ("ours", "bm3d"))
    return {
        "pictures": len(clean),
        "noisy_psnr_db": round(float(np.mean([psnr(a / 255, b / 255) for a, b in zip(stored, clean, strict=True)])), 2),
        "bm3d_psnr_db": round(means[best], 3),
        "bm3d_given": best,
        "ours_psnr_db": round(means["ours"], 3),
        "margin_db": round(float(margin.mean()), 3),
        "margin_95_db": round(float(1.96 * margin.std(ddof=1) / len(margin) ** 0.5), 3),
        "better_on": int((margin > 0).sum()),
        "bm3d_ms": round(bm3d_ms, 1),
        "ours_ms": round(ours_ms, 1),
        "times_faster": round(bm3d_ms / ours_ms, 1),
        "model_bytes": ours.bundle.manifest.files["model.onnx"].bytes,
    }


def psnr(picture: Pictures, truth: Pictures) -> float:
    """Peak signal-to-noise ratio in dB, of pictures 0 to 1."""
    return float(-10 * np.log10(np.mean((picture - truth) ** 2)))


if __name__ == "__main__":
    sys.exit(main())

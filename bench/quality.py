"""How well the default detector separates good from bad pictures, over seeds: the figures of docs/experiments.md.

    python bench/quality.py --good DIR --bad DIR [--seeds 3] [--set KEY=VALUE]...

Good pictures are sorted by path and shuffled with numpy's RandomState(0); the first 70 % train and calibrate, the rest
and every bad one are the test. Each seed is a whole `python -m train ae`, `python -m export` and `edged score`, as
commands. The mean brightness's own AUROC stands beside: a detector must beat what a light meter can do. Where the
folders are absent it says so and ends with 0, so that `make bench` works without data.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edged import bundle as bundles
from edged.calibration import conformal_threshold
from edged.imaging import ImageInput, Limits, decode, find_pictures
from export.metrics import Scores, auroc

TRAIN_SHARE = 0.7
ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    """Runs every seed and prints one line each, then their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--good", type=Path, required=True, metavar="DIR")
    parser.add_argument("--bad", type=Path, required=True, metavar="DIR")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of python -m train ae")
    options = parser.parse_args()
    for folder in (options.good, options.bad):
        if not folder.is_dir():
            print(f"quality: {folder} is absent; name a folder of pictures. Nothing was measured")
            return 0
    good, bad = (sorted(find_pictures(folder)) for folder in (options.good, options.bad))
    np.random.RandomState(0).shuffle(good)  # the split that published figures are given for
    cut = int(TRAIN_SHARE * len(good))
    light = auroc(brightness(good[cut:]), brightness(bad))
    print(
        f"{cut} to train, {len(good) - cut} good and {len(bad)} bad to test; brightness alone: "
        f"{max(light, 1 - light):.4f}"
    )
    areas = [measure(good[:cut], good[cut:], bad, [*options.set, f"seed={seed}"]) for seed in range(options.seeds)]
    print(f"AUROC over {len(areas)} seeds: mean {np.mean(areas):.4f}, least {min(areas):.4f}, most {max(areas):.4f}")
    return 0


def measure(train: Sequence[Path], good: Sequence[Path], bad: Sequence[Path], settings: Sequence[str]) -> float:
    """Trains, exports and scores once; prints the figures and returns the AUROC."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for part, paths in (("train", train), ("good", good), ("bad", bad)):
            (root / part).mkdir()
            for index, path in enumerate(paths):
                (root / part / f"{index:06}{path.suffix}").symlink_to(path.absolute())
        began = time.monotonic()
        given = [item for setting in settings for item in ("--set", setting)]
        command("train", "ae", "--good", root / "train", "--out", root / "run", *given)
        trained = time.monotonic()
        command("export", root / "run", "--out", root / "bundle")
        exported = time.monotonic()
        good_scores, bad_scores = (scores(root / "bundle", root / part) for part in ("good", "bad"))
        calibration = bundles.load(root / "bundle").calibration
        threshold = conformal_threshold(calibration.scores, calibration.target_fpr).value
        area = auroc(good_scores, bad_scores)
        size_mb = (root / "bundle" / bundles.MODEL).stat().st_size / 1e6
        print(
            f"{settings[-1]}: AUROC {area:.4f}, recall {np.mean(bad_scores > threshold):.3f}, false-positive rate "
            f"{np.mean(good_scores > threshold):.4f}, model {size_mb:.1f} "
            f"MB, train {trained - began:.0f} s, export {exported - trained:.0f} s",
            flush=True,
        )
        return area


def scores(bundle: Path, folder: Path) -> Scores:
    """What `edged score` gives for a folder, (n,)."""
    done = command("edged", "score", bundle, folder, "--json", "--device", "cpu")
    return np.array([json.loads(line)["score"] for line in done.splitlines()], dtype=np.float64)


def brightness(paths: Sequence[Path]) -> Scores:
    """Mean brightness of each picture, 0 to 255."""
    spec = ImageInput(64, 64, 1)
    return np.array([decode(path.read_bytes(), spec, Limits()).pixels.mean() for path in paths])


def command(module: str, *arguments: object) -> str:
    """Runs `python -m MODULE ...` and returns its standard output; its errors are shown."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

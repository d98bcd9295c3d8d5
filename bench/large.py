"""Small defects on large pictures: dots of known size on 12-megapixel pictures, drawn, trained on and counted.

    python bench/large.py --out /tmp/large
    python bench/large.py --out /tmp/large --dot 20 --good 60

Good pictures are a surface with brushed grain, uneven light and sensor noise, drawn from a seed; defective ones have
one dark or bright dot more. A whole `python -m train --defect-px` and `python -m export`, as commands; the pictures
that are tested with are others. It prints how many dots are found and how many good pictures are flagged, at the
largest score of the calibration pictures, and the AUROC, which does not depend on a threshold.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from edged.models.scorer import Scorer
from edged.scoring import find, score
from export.report.metrics import auroc

ROOT: Final = Path(__file__).resolve().parent.parent
WIDTH, HEIGHT = 4000, 3000
CONTRAST: Final = 45.0


def main() -> int:
    """Draws, trains, exports, counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for pictures, run and bundle")
    parser.add_argument("--good", type=int, default=60, metavar="N", help="good pictures to train with")
    parser.add_argument("--test", type=int, default=50, metavar="N", help="good pictures, and as many with a dot")
    parser.add_argument("--dot", type=int, default=20, metavar="PX", help="diameter of a dot")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of python -m train")
    options = parser.parse_args()
    for part, count, first in (
        ("good", options.good, 0),
        ("test", options.test, 10_000),
        ("dots", options.test, 20_000),
    ):
        folder = options.out / part
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            if not (path := folder / f"{index:03}.jpg").exists():
                Image.fromarray(picture(first + index, dot=options.dot if part == "dots" else 0)).save(path, quality=92)
    began = time.monotonic()
    settings = [word for assignment in options.set for word in ("--set", assignment)]
    run, bundle = options.out / "run", options.out / "bundle"
    for module, *words in (
        ("train", "ae", "--good", options.out / "good", "--defect-px", options.dot, *settings, "--out", run),
        ("export", run, "--out", bundle),
    ):
        subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=ROOT, check=True)
    print(f"trained and exported in {time.monotonic() - began:.0f} s", flush=True)
    scorer = Scorer.load(bundle, device="cpu")
    good, dots = (scores(scorer, options.out / part) for part in ("test", "dots"))
    threshold = max(scorer.bundle.calibration.scores)
    print(
        f"dots of {options.dot} px: {np.mean(dots > threshold):.2f} of {len(dots)} found; "
        f"{np.mean(good > threshold):.2f} of {len(good)} good ones flagged; AUROC {auroc(good, dots):.4f}"
    )
    return 0


def picture(seed: int, *, dot: int) -> NDArray[np.uint8]:
    """One picture, uint8 (3000, 4000), with a dot of this diameter in px unless it is 0."""
    random = np.random.default_rng(seed)
    grain = np.repeat(random.normal(0, 5, (HEIGHT, WIDTH // 40)), 40, axis=1)
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    light = 12 * np.cos((x / WIDTH - random.uniform(0.4, 0.6)) * 2) * np.cos((y / HEIGHT - 0.5) * 2)
    values = 130 + light + grain + random.normal(0, 4, (HEIGHT, WIDTH))
    if dot:
        row, column = random.uniform(100, HEIGHT - 100), random.uniform(100, WIDTH - 100)
        inside = (x - column) ** 2 + (y - row) ** 2 <= (dot / 2) ** 2
        values = values + inside * CONTRAST * random.choice([-1, 1])
    drawn = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return np.asarray(drawn.filter(ImageFilter.GaussianBlur(1)))


def scores(scorer: Scorer, folder: Path) -> NDArray[np.float64]:
    """Of every picture in a folder, (n,)."""
    found = score(scorer, find([folder], scorer.bundle.manifest.input.patterns))
    return np.array([record.score for record in found if record.score is not None])


if __name__ == "__main__":
    sys.exit(main())

"""How well the threshold keeps its false-positive rate, and how steady it is: cross-conformal beside split.

    python bench/verdict.py --data elpv-mono
    python bench/verdict.py --data magnetic-tile --root DIR --splits 100 --out figures

Data sets as in bench/quality.py. All good pictures are drawn anew for each split: --train of them fit and calibrate,
the others, and every bad one, are the test. The head is fitted and calibrated for each split, by either method; split
sets aside what 1 % takes, and its other rates come from those as well. Features and autoencoder are computed once, on
all good pictures. That saves most of the time, and leaks: the autoencoder has seen the test pictures too, so that what
it knows better of pictures that it was fitted on, which cross-conformal scores do not leave out, does not show. It
prints means over splits with their standard error, which takes splits for independent (they share pictures, so it is a
little too small), and recall with its deviation from split to split.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from train.threads import wait_asleep

wait_asleep()

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench import datasets
from edged.media.imaging import ImageInput, Limits, decode
from edged.models.calibration import conformal_threshold, pictures_needed
from train.config.kinds import AutoencoderConfig, load
from train.data.pictures import Picture, PictureSet
from train.fit.ae import train_detector
from train.fit.head import fit_head
from train.fit.out_of_fold import fit_head_on_all
from train.nets.features import Features
from train.nets.head import Head
from train.progress import nowhere

RATES: Final = (0.005, 0.01, 0.02, 0.05)
PROMISED: Final = 0.01
BATCH: Final = 16

Scores = NDArray[np.floating]
Rows = NDArray[np.int64]


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(datasets.NAMES), required=True)
    parser.add_argument("--root", type=Path, metavar="DIR", help="where magnetic-tile or folders are")
    parser.add_argument("--splits", type=int, default=100, metavar="N")
    parser.add_argument("--train", type=int, default=300, metavar="N", help="good pictures that fit and calibrate")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of python -m train ae")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the JSON")
    options = parser.parse_args()
    try:
        data = datasets.load(options.data, options.root)
    except datasets.AbsentError as error:
        print(f"verdict: {error}. Nothing was measured")
        return 0
    good = sorted([*data.train, *data.good])
    if len(good) <= options.train:
        parser.error(
            f"--train {options.train}: there are {len(good)} good pictures, and some must be left to test with"
        )
    config = load(AutoencoderConfig, None, [*options.set, "calibration=cross"])
    if not isinstance(config, AutoencoderConfig):
        parser.error("--set input: signals are measured by bench/ecg.py")
    began = time.monotonic()
    residual, bad = residuals(config, good, data.bad)
    print(
        f"{options.data}: {len(good)} good and {len(data.bad)} bad; of each split {options.train} train. Features and "
        f"autoencoder took {time.monotonic() - began:.0f} s",
        flush=True,
    )
    config = config.for_pictures(options.train)
    found: dict[str, list[dict[str, float]]] = {"cross": [], "split": []}
    for split in range(options.splits):
        order = np.random.default_rng(split).permutation(len(good))
        train, test = order[: options.train], order[options.train :]
        for method, fit in (("cross", by_cross), ("split", by_split)):
            head = empty_head(config, residual)
            scores = fit(head, residual, train, len(good), config)
            found[method].append(figures(scores, scored(head, residual, test), scored(head, bad, np.arange(len(bad)))))
        if split % 10 == 9:
            print(f"{split + 1} splits, {time.monotonic() - began:.0f} s\n{table(found)}\n", flush=True)
    print(table(found))
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        facts = {"data": options.data, "train": options.train, "torch": torch.__version__, "methods": found}
        (options.out / f"verdict-{options.data}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="ascii")
    return 0


def residuals(config: AutoencoderConfig, good: list[Path], bad: tuple[Path, ...]) -> tuple[Tensor, Tensor]:
    """What the autoencoder cannot reconstruct, (N, C, h, w): of n good pictures and then their copies; of bad ones."""
    pixels = images(good, config.spec)
    pictures = tuple(
        Picture(str(path), "", str(row), (config.spec.width, config.spec.height), "RGB", row, "fit")
        for row, path in enumerate(good)
    )
    with tempfile.TemporaryDirectory() as folder:
        given = PictureSet(pictures, pixels, ())
        detector = train_detector(config, given, cache=Path(folder), log=lambda _: None, track=nowhere).detector
        values = np.load(Path(folder) / "features.npy")
    with torch.no_grad():
        known = Features(values, detector.center, detector.scale)
        of_good = torch.cat([x - detector.autoencoder(x) for x in known.batches(np.arange(len(values)))])
        image = torch.from_numpy(images(list(bad), config.spec))
        of_bad = torch.cat([detector.residual(some) for some in image.split(BATCH)])
    return of_good, of_bad


def images(paths: list[Path], spec: ImageInput) -> NDArray[np.uint8]:
    """uint8 (n, H, W, C), decoded by serving's rule."""
    return np.stack([decode(path.read_bytes(), spec, Limits()).pixels for path in paths])


def empty_head(config: AutoencoderConfig, residual: Tensor) -> Head:
    """A head for residuals of this shape."""
    _, channels, height, width = residual.shape
    size = {"channels": channels, "height": height, "width": width}
    return Head(**size, regions=config.regions, smoothing=config.smoothing, top=config.top)


def by_cross(head: Head, residual: Tensor, train: Rows, n: int, config: AutoencoderConfig) -> Scores:
    """Fits the head on all training pictures and their copies; gives their scores out of fold."""
    versions = np.stack([train, *(train + n * k for k in range(1, len(residual) // n))])
    groups = [np.array([index]) for index in range(len(train))]
    return fit_head_on_all(head, lambda rows: residual[rows], versions, groups, shrinkage=config.shrinkage)[1].scores


def by_split(head: Head, residual: Tensor, train: Rows, n: int, config: AutoencoderConfig) -> Scores:
    """Fits the head on what the calibration part leaves; gives the calibration part's scores."""
    calibration, rest = np.split(train, [min(pictures_needed(PROMISED), len(train) // 3)])
    statistics, fit = np.split(rest, [max(2, round(config.statistics_share * len(rest)))])
    copies = range(1, len(residual) // n)

    def batches(*some: Rows) -> Callable[[], Iterator[Tensor]]:
        return lambda: (x for rows in some for x in residual[rows].split(BATCH))

    fit_head(
        head,
        batches(fit, *(fit + n * k for k in copies)),
        batches(statistics),
        batches(*(statistics + n * k for k in copies)),
        shrinkage=config.shrinkage,
    )
    return scored(head, residual, calibration)


@torch.no_grad()
def scored(head: Head, residual: Tensor, rows: Rows) -> Scores:
    """Scores of these rows."""
    return torch.cat([head(some)[0] for some in residual[rows].split(BATCH)]).numpy()


def figures(scores: Scores, good: Scores, bad: Scores) -> dict[str, float]:
    """The realised rate at each target, and the recall at that of 1 %."""
    rates = {f"{rate:g}": float((good > conformal_threshold(scores, rate).value).mean()) for rate in RATES}
    return {**rates, "recall": float((bad > conformal_threshold(scores, PROMISED).value).mean())}


def table(found: dict[str, list[dict[str, float]]]) -> str:
    """Markdown: a row a method; mean rate ± standard error for each target, %, and mean recall ± deviation."""
    heads = [*(f"{100 * rate:g} %" for rate in RATES), "recall at 1 %"]
    rows = [["", *heads], ["---"] * (len(heads) + 1)]
    for method, splits in found.items():
        cells = []
        for rate in RATES:
            values = 100 * np.array([one[f"{rate:g}"] for one in splits])
            cells.append(f"{values.mean():.2f} ± {values.std(ddof=1) / len(values) ** 0.5:.2f}")
        recall = np.array([one["recall"] for one in splits])
        rows.append([method, *cells, f"{recall.mean():.3f} ± {recall.std(ddof=1):.3f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())

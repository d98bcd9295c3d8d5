"""How well the threshold keeps its false-positive rate, and how steady it is: cross-conformal beside split.

    python bench/verdict.py --data elpv-mono
    python bench/verdict.py --data magnetic-tile --root DIR --splits 300 --out figures
    python bench/verdict.py --scores figures/verdict-elpv-mono.npz

Data sets as in bench/quality.py. The good pictures are drawn anew for each split: --train of them fit and calibrate,
the others, and every bad one, are the test. What is fitted is fitted for each split on its own pictures alone:
standardising, autoencoder, head. Features are computed once, for they learn nothing from pictures; so are their
brighter or darker copies. The autoencoder is trained for --epochs, fewer than training's 20. Two more are measured on
the first --beside splits: split conformal calibration (its own autoencoder, on its fit part; it sets aside what 1 %
takes, and its other rates come from those as well), and cross-conformal calibration with 1 % of bad pictures among the
good ones.

It prints means over splits with their standard error, which takes splits for independent (they share pictures, so it is
a little too small), and recall with its deviation from split to split. The scores of every split go into
verdict-NAME.npz below --out, every ten splits; --scores prints the tables of such a file.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
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
from train.data.augmentation import augmentation, with_copies
from train.data.pictures import Picture, PictureSet
from train.fit.head import fit_head
from train.fit.loop import CPU, optimise, shuffled, steps_of
from train.fit.out_of_fold import fit_head_on_all
from train.nets import features
from train.nets.detector import make_detector
from train.nets.head import Head
from train.progress import nowhere

RATES: Final = (0.005, 0.01, 0.02, 0.05)
RARE: Final = (0.001, 0.002, 0.005)
PROMISED: Final = 0.01
CONTAMINATION: Final = 0.01
TAIL_FROM: Final = 0.1
BATCH: Final = 64
EVERY: Final = 10

Scores = NDArray[np.floating]
Rows = NDArray[np.int64]
Found = dict[str, list[Scores]]
"""By method and what was scored ("cross good"): the scores of each split."""


@dataclass(frozen=True, slots=True)
class Cached:
    """Features of all pictures, float16 (2 n, C, h, w): the good ones, the bad ones, and copies in that order."""

    values: NDArray[np.float16]
    good: int

    @property
    def n(self) -> int:
        """Pictures, copies not counted."""
        return len(self.values) // 2

    def versions(self, some: Rows) -> Rows:
        """Rows (2, m) of pictures and of their copies."""
        return np.stack([some, some + self.n])


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(datasets.NAMES))
    parser.add_argument("--root", type=Path, metavar="DIR", help="where magnetic-tile or folders are")
    parser.add_argument("--splits", type=int, default=100, metavar="N")
    parser.add_argument("--beside", type=int, default=50, metavar="N", help="splits that the others are measured on")
    parser.add_argument("--train", type=int, default=300, metavar="N", help="good pictures that fit and calibrate")
    parser.add_argument("--epochs", type=int, default=4, metavar="N", help="of each autoencoder")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of python -m train ae")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the scores")
    parser.add_argument("--scores", type=Path, metavar="FILE", help="print the tables of these and measure nothing")
    options = parser.parse_args()
    if options.scores is not None:
        with np.load(options.scores) as arrays:
            print(tables({name: list(arrays[name]) for name in arrays.files}))
        return 0
    if options.data is None:
        parser.error("give --data, or --scores")
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
    settings = [f"epochs={options.epochs}", *options.set, "calibration=cross"]
    config = load(AutoencoderConfig, None, settings)
    if not isinstance(config, AutoencoderConfig):
        parser.error("--set input: signals are measured by bench/ecg.py")
    began = time.monotonic()
    cached = compute(config, good, data.bad)
    print(
        f"{options.data}: {len(good)} good and {len(data.bad)} bad; of each split {options.train} train. Features took "
        f"{time.monotonic() - began:.0f} s",
        flush=True,
    )
    config = config.for_pictures(options.train)
    found: Found = {}
    for split in range(options.splits):
        order = np.random.default_rng(split).permutation(len(good))
        measure(found, config, cached, order[: options.train], order[options.train :], beside=split < options.beside)
        if split % EVERY == EVERY - 1 or split == options.splits - 1:
            print(f"{split + 1} splits, {time.monotonic() - began:.0f} s\n{tables(found)}\n", flush=True)
            if options.out is not None:
                options.out.mkdir(parents=True, exist_ok=True)
                kept = {name: np.stack(scores).astype(np.float32) for name, scores in found.items()}
                np.savez(options.out / f"verdict-{options.data}.npz", allow_pickle=False, **kept)
    return 0


def compute(config: AutoencoderConfig, good: list[Path], bad: tuple[Path, ...]) -> Cached:
    """Features of all pictures and of a copy of each."""
    paths = [*good, *bad]
    pictures = tuple(Picture(str(path), "", str(row), (1, 1), "RGB", row, "fit") for row, path in enumerate(paths))
    given = PictureSet(pictures, images(paths, config.spec), ())
    change = augmentation(config, given)
    assert change is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        both = with_copies(given, change, seed=0, store=folder / "copies.npy", advance=lambda *_: None)
        extractor = make_detector(config).extractor
        computed = features.of_pictures(extractor, both, cache=folder, track=nowhere, device=CPU)
        return Cached(np.array(computed.values), len(good))


def images(paths: list[Path], spec: ImageInput) -> NDArray[np.uint8]:
    """uint8 (n, H, W, C), decoded by serving's rule."""
    return np.stack([decode(path.read_bytes(), spec, Limits()).pixels for path in paths])


def measure(found: Found, config: AutoencoderConfig, cached: Cached, train: Rows, test: Rows, *, beside: bool) -> None:
    """One split: adds the scores that calibrate, and those of good and bad test pictures, of each method."""
    bad = np.arange(cached.good, cached.n)

    def add(method: str, calibrating: Scores, head: Head, residual: Callable[[Rows], Tensor]) -> None:
        for what, scores in (
            ("calibrating", calibrating),
            ("good", scored(head, residual, test)),
            ("bad", scored(head, residual, bad)),
        ):
            found.setdefault(f"{method} {what}", []).append(scores)

    residual = autoencoder(config, cached, cached.versions(train).reshape(-1))
    head, scores = by_cross(config, cached, residual, train)
    add("cross", scores, head, residual)
    if not beside:
        return
    strange = np.random.default_rng(len(found["cross good"])).choice(bad, round(CONTAMINATION * len(train)), False)
    head, scores = by_cross(config, cached, residual, np.concatenate([train[len(strange) :], strange]))
    add("contaminated", scores, head, residual)
    calibration, rest = np.split(train, [min(pictures_needed(PROMISED), len(train) // 3)])
    statistics, fit = np.split(rest, [max(2, round(config.statistics_share * len(rest)))])
    residual = autoencoder(config, cached, cached.versions(fit).reshape(-1))
    head = by_split(config, cached, residual, fit, statistics)
    add("split", scored(head, residual, calibration), head, residual)


def autoencoder(config: AutoencoderConfig, cached: Cached, rows: Rows) -> Callable[[Rows], Tensor]:
    """Trains on these rows; gives what the autoencoder cannot reconstruct of others: float32 (N, C, h, w)."""
    torch.manual_seed(config.seed)
    detector = make_detector(config).eval()
    some = torch.from_numpy(cached.values[rows]).float()
    scale, center = torch.std_mean(some, dim=(0, 2, 3), keepdim=True, correction=0)
    known = features.Features(cached.values, center[0], scale[0].clamp_min(1e-3))
    model = detector.autoencoder

    def loss(batch: Rows) -> Tensor:
        x = known.batch(batch)
        error: Tensor = (model(x) - x).square().mean()
        return error

    size = config.batch_size
    optimise(
        model,
        config,
        batches=lambda: shuffled(rows, size),
        loss=loss,
        held_out=dict,
        steps=steps_of(len(rows), size),
        device=CPU,
        log=lambda _: None,
        track=nowhere,
    )

    @torch.no_grad()
    def residual(rows: Rows) -> Tensor:
        x = known.batch(rows)
        left: Tensor = x - model(x)
        return left

    return residual


def by_cross(
    config: AutoencoderConfig, cached: Cached, residual: Callable[[Rows], Tensor], train: Rows
) -> tuple[Head, Scores]:
    """A head fitted on all training pictures and their copies, and their scores out of fold."""
    head = empty_head(config, cached)
    alone = [np.array([index]) for index in range(len(train))]
    _, out_of_fold = fit_head_on_all(head, residual, cached.versions(train), alone, shrinkage=config.shrinkage)
    return head, out_of_fold.scores


def by_split(
    config: AutoencoderConfig, cached: Cached, residual: Callable[[Rows], Tensor], fit: Rows, statistics: Rows
) -> Head:
    """A head fitted on what the calibration part leaves."""
    head = empty_head(config, cached)

    def batches(rows: Rows) -> Callable[[], list[Tensor]]:
        return lambda: [residual(some) for some in chunks(rows)]

    fit_head(
        head,
        batches(cached.versions(fit).reshape(-1)),
        batches(statistics),
        batches(statistics + cached.n),
        shrinkage=config.shrinkage,
    )
    return head


def empty_head(config: AutoencoderConfig, cached: Cached) -> Head:
    """A head for residuals of these features."""
    _, channels, height, width = cached.values.shape
    size = {"channels": channels, "height": height, "width": width}
    return Head(**size, regions=config.regions, smoothing=config.smoothing, top=config.top)


@torch.no_grad()
def scored(head: Head, residual: Callable[[Rows], Tensor], rows: Rows) -> Scores:
    """Scores of these rows."""
    return torch.cat([head(residual(some))[0] for some in chunks(rows)]).numpy()


def chunks(rows: Rows) -> list[Rows]:
    """Batches, in their order."""
    return np.split(rows, range(BATCH, len(rows), BATCH))


def tables(found: Found) -> str:
    """Markdown: rates kept, rates that are too rare for the ranks, and contamination."""
    return "\n\n".join(
        [
            table(found, {name: (name, conformal) for name in ("cross", "split")}, RATES),
            table(
                found,
                {"cross, by rank": ("cross", conformal), "cross, by a Pareto tail": ("cross", pareto)},
                RARE,
                recall_at=RARE[1],
            ),
            table(
                found,
                {
                    "good alone": ("cross", conformal),
                    "good alone, 1 % set aside": ("cross", without_highest),
                    "1 % are bad": ("contaminated", conformal),
                    "1 % are bad, 1 % set aside": ("contaminated", without_highest),
                },
                RATES,
            ),
        ]
    )


def conformal(scores: Scores, rate: float) -> float:
    """The threshold in force."""
    return conformal_threshold(scores, rate).value


def without_highest(scores: Scores, rate: float) -> float:
    """The threshold of all but the highest 1 %."""
    return conformal(np.sort(scores)[: len(scores) - round(CONTAMINATION * len(scores))], rate)


def pareto(scores: Scores, rate: float) -> float:
    """Extrapolated by a generalised Pareto distribution of what exceeds the 90 % quantile.

    Fitted by probability-weighted moments: Hosking and Wallis, *Parameter and Quantile Estimation for the Generalized
    Pareto Distribution* (1987).
    """
    ordered = np.sort(scores).astype(np.float64)
    n = len(ordered)
    k = round(TAIL_FROM * n)
    start = ordered[n - k - 1]
    excess = ordered[n - k :] - start
    weight = (k - np.arange(1, k + 1) + 0.35) / k  # (1 - F) of the ascending excesses
    first, second = excess.mean(), (weight * excess).mean()
    shape = 2 - first / (first - 2 * second)  # ξ, above 0 for a heavy tail
    scale = 2 * first * second / (first - 2 * second)
    share = rate * n / k
    reach = -np.log(share) if abs(shape) < 1e-6 else (share**-shape - 1) / shape
    return float(start + scale * reach)


def table(
    found: Found,
    methods: dict[str, tuple[str, Callable[[Scores, float], float]]],
    rates: tuple[float, ...],
    *,
    recall_at: float = PROMISED,
) -> str:
    """A row a method: mean rate ± standard error for each target, %, and mean recall ± deviation at one of them."""
    rows = [["", "splits", *(f"{100 * rate:g} %" for rate in rates), f"recall at {100 * recall_at:g} %"]]
    rows.append(["---"] * len(rows[0]))
    for name, (measured, rule) in methods.items():
        calibrating, good, bad = (found.get(f"{measured} {what}", []) for what in ("calibrating", "good", "bad"))
        if len(good) < 2:
            continue
        cells = [name, str(len(good))]
        for rate in rates:
            of_splits = [(g > rule(c, rate)).mean() for c, g in zip(calibrating, good, strict=True)]
            cells.append(f"{100 * np.mean(of_splits):.2f} ± {100 * np.std(of_splits, ddof=1) / len(good) ** 0.5:.2f}")
        recall = [(b > rule(c, recall_at)).mean() for c, b in zip(calibrating, bad, strict=True)]
        rows.append([*cells, f"{np.mean(recall):.3f} ± {np.std(recall, ddof=1):.3f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


if __name__ == "__main__":
    sys.exit(main())

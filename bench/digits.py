"""Our defaults against the architectures of introductory tutorials, on 28x28 digits: same data, epochs and seeds.

    python bench/digits.py FOLDER [--seeds 3] [--epochs 10] [--only ae] [--json FILE]

FOLDER holds MNIST's IDX files (any `*images-idx3-ubyte`, gzipped or not). The first 8,000 of the digits, shuffled with
a fixed seed, are trained on (a tenth of them chooses the epoch), the next 2,000 are tested on. What is compared:

    ae          mean squared error of the reconstruction, latent 64
    denoiser    mean squared error of the cleaned picture, noise of 0.2 clipped to 0 to 1
    vae-20      negative ELBO in nats a picture, 20 latent dimensions
    vae-2       the same with 2

Both sides of each come from configs/train/digits-*.toml and go through the same loops.
"""

import argparse
import gzip
import json
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from train.threads import wait_asleep

wait_asleep()

import numpy as np
import torch
from numpy.typing import NDArray

from train.config import kinds as configs
from train.data.corruption import Corruption
from train.data.pictures import Part, Picture, PictureSet
from train.fit.ae import train_detector
from train.fit.denoiser import train_denoiser
from train.fit.vae import held_out_loss, train_vae
from train.nets.detector import Detector
from train.nets.vae import VaeDetector
from train.progress import nowhere

CONFIGS: Final = Path(__file__).parents[1] / "configs" / "train"
N_TRAIN: Final = 8000
N_TEST: Final = 2000
NOISE: Final = 0.2
TASKS: Final = {
    "ae": ("ae", "digits-ae.toml", "digits-ae-dense.toml"),
    "denoiser": ("denoiser", "digits-denoiser.toml", "digits-denoiser-strided.toml"),
    "vae-20": ("vae", "digits-vae-20.toml", "digits-vae-20-dense.toml"),
    "vae-2": ("vae", "digits-vae-2.toml", "digits-vae-2-strided.toml"),
}
"""Task -> kind, our configuration, the tutorials'."""


def main() -> int:
    """Trains every pair and prints a table; returns 0 when ours is lower everywhere, 1 when not, 2 without data."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="MNIST's IDX files")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each, with seeds 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--only", choices=sorted(TASKS), help="one task")
    parser.add_argument("--json", type=Path, metavar="FILE", help="the figures of every run")
    options = parser.parse_args()
    digits = read(options.folder)
    if digits is None:
        print(
            f"{options.folder}: holds no MNIST images with {N_TRAIN + N_TEST:,} digits or more; download "
            "t10k-images-idx3-ubyte.gz (or train-images-idx3-ubyte.gz) from an MNIST mirror and put it there",
            file=sys.stderr,
        )
        return 2
    rows: list[dict[str, Any]] = []
    for task, (kind, ours, tutorial) in TASKS.items():
        if options.only in (None, task):
            for side, file in (("ours", ours), ("tutorial", tutorial)):
                for seed in range(options.seeds):
                    rows.append(run(task, kind, side, file, seed=seed, epochs=options.epochs, digits=digits))
                    print(json.dumps(rows[-1]), file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="ascii")
    return 0 if table(rows) else 1


def read(folder: Path) -> NDArray[np.uint8] | None:
    """The digits of every IDX file of images, shuffled: uint8 (n, 28, 28, 1); None where there are too few."""
    found = []
    for path in sorted(folder.glob("*images-idx3-ubyte*")) if folder.is_dir() else []:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        magic, n, height, width = struct.unpack(">4I", data[:16])
        if magic == 0x803:
            found.append(np.frombuffer(data, np.uint8, offset=16).reshape(n, height, width, 1))
    if sum(map(len, found)) < N_TRAIN + N_TEST:
        return None
    digits = np.concatenate(found)
    return digits[np.random.default_rng(0).permutation(len(digits))[: N_TRAIN + N_TEST]]


def run(
    task: str, kind: str, side: str, file: str, *, seed: int, epochs: int, digits: NDArray[np.uint8]
) -> dict[str, Any]:
    """Trains one configuration and measures it on the test digits."""
    config: Any = configs.load(configs.KINDS[kind], CONFIGS / file, [f"seed={seed}", f"epochs={epochs}"])
    train: Callable[..., Any] = {"ae": train_detector, "denoiser": train_denoiser, "vae": train_vae}[kind]
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        trained = train(config, as_set(digits[:N_TRAIN]), cache=Path(cache), log=_ignore, track=nowhere)
    parameters = trained.detector.vae if kind == "vae" else trained.detector.autoencoder
    return {
        "task": task,
        "side": side,
        "seed": seed,
        "loss": MEASURES[kind](trained.detector, digits[N_TRAIN:]),
        "parameters": sum(parameter.numel() for parameter in parameters.parameters()),
        "epoch": trained.epoch,
        "seconds": round(time.monotonic() - began, 1),
    }


def _ignore(line: dict[str, Any]) -> None:
    """Takes a line of metrics that nobody reads."""


def as_set(digits: NDArray[np.uint8]) -> PictureSet:
    """Digits in memory as training takes pictures; every tenth chooses the epoch."""
    parts: tuple[Part, ...] = ("statistics", *("fit",) * 9)
    pictures = tuple(Picture("", "", "", (28, 28), "L", row, parts[row % 10]) for row in range(len(digits)))
    return PictureSet(pictures, digits, ())


@torch.no_grad()
def reconstruction_error(detector: Detector, digits: NDArray[np.uint8]) -> float:
    """Mean squared error of what the autoencoder gives, pixels 0 to 1."""
    return _error(detector, digits, torch.from_numpy(digits).permute(0, 3, 1, 2).float() / 255)


@torch.no_grad()
def denoising_error(detector: Detector, digits: NDArray[np.uint8]) -> float:
    """The same from noisy digits, the same noise for every model."""
    clean = torch.from_numpy(digits).permute(0, 3, 1, 2).float() / 255
    corruption = Corruption((NOISE, NOISE), 0, (1, 1), 0)
    return _error(detector, digits, corruption(clean, torch.Generator().manual_seed(0)))


def _error(detector: Detector, digits: NDArray[np.uint8], given: torch.Tensor) -> float:
    clean = torch.from_numpy(digits).permute(0, 3, 1, 2).float() / 255
    errors = []
    for start in range(0, len(digits), 100):
        some = slice(start, start + 100)
        folded = detector.extractor(given[some] * 255)
        out = detector.autoencoder((folded - detector.center) / detector.scale) * detector.scale + detector.center
        errors.append((out.clamp(0, 1) - detector.extractor(clean[some] * 255)).square().mean(dim=(1, 2, 3)))
    return float(torch.cat(errors).mean())


def nats(detector: VaeDetector, digits: NDArray[np.uint8]) -> float:
    """Negative ELBO a picture, one sample of the latent, the same for every model."""

    def batches() -> Any:
        return (detector.features(torch.from_numpy(digits[start : start + 100])) for start in range(0, N_TEST, 100))

    return held_out_loss(detector.vae, batches, seed=0)[0]


MEASURES: Final[dict[str, Callable[..., float]]] = {
    "ae": reconstruction_error,
    "denoiser": denoising_error,
    "vae": nats,
}


def table(rows: list[dict[str, Any]]) -> bool:
    """Prints mean and range over the seeds; True when ours is lower in the mean everywhere."""
    print(f"{'task':10} {'side':9} {'test loss':>10} {'lowest':>10} {'highest':>10} {'parameters':>11} {'seconds':>8}")
    means: dict[tuple[str, str], float] = {}
    for task, side in dict.fromkeys((row["task"], row["side"]) for row in rows):
        some = [row for row in rows if (row["task"], row["side"]) == (task, side)]
        losses = [row["loss"] for row in some]
        means[task, side] = float(np.mean(losses))
        print(
            f"{task:10} {side:9} {means[task, side]:>10.5g} {min(losses):>10.5g} {max(losses):>10.5g} "
            f"{some[0]['parameters']:>11,} {np.mean([row['seconds'] for row in some]):>8.0f}"
        )
    lower = [means[task, "ours"] < means[task, "tutorial"] for task in {task for task, _ in means}]
    print("ours is lower everywhere" if all(lower) else "ours is NOT lower everywhere")
    return all(lower)


if __name__ == "__main__":
    sys.exit(main())

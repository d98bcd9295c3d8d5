"""How well every configuration tells good from bad pictures, beside PaDiM and a memory bank on the same features.

    python bench/quality.py --data elpv-mono
    python bench/quality.py --data magnetic-tile --root DIR --seeds 3 --out figures
    python bench/quality.py --data folders --root DIR --only balanced,padim
    python bench/quality.py --data elpv-poly --only balanced --few 30 --elongated 2.5

Data sets: elpv-mono and elpv-poly (the package elpv-dataset), magnetic-tile (Huang et al., 2018), or your own folders.
Good pictures are sorted by path and shuffled with numpy's RandomState(0); the first 70 % train and calibrate, the rest
and every bad one are the test. --few trains on so many of those alone, drawn anew for each seed; --elongated cuts all
pictures to strips along their longer side. Each seed of ours is a whole `python -m train` and `python -m export`, as
commands. The baselines get what the balanced configuration's head was fitted on: the same pictures, size, resizing and
features; padim-copies gets brighter and darker copies as well, as ours does. What is timed is ONNX Runtime on one
thread, a picture at a time. The light meter is the mean brightness's own AUROC: what a detector must beat. It prints
tables, and with --out writes quality-NAME.json and .png. Where the pictures are absent it
says what to do and ends with 0.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from train.threads import wait_asleep

wait_asleep()

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench import datasets, measures
from bench.baselines import MemoryBank, PaDiM
from bench.datasets import DataSet
from bench.measures import Interval
from edged.media.imaging import ImageInput, Limits, decode
from edged.models import bundle as bundles
from edged.models.calibration import conformal_threshold
from edged.models.runtime import import_onnxruntime
from export.onnx import graph
from export.report.metrics import auroc
from train import run
from train.data.augmentation import augmentation
from train.data.pictures import PictureSet
from train.fit.head import fit_head
from train.nets import features
from train.nets.detector import Detector
from train.nets.head import Head

ROOT: Final = Path(__file__).resolve().parent.parent
OURS: Final = {
    "fast": ("ae", ["preset=fast"]),
    "balanced": ("ae", ["preset=balanced"]),
    "accurate": ("ae", ["preset=accurate"]),
    "pixels": ("ae", ["backbone=pixels"]),
    "vae": ("vae", ["backbone=efficientnet-lite0"]),
    "denoiser": ("denoiser", []),
}
BASELINES: Final = ("padim", "padim-copies", "memory-bank")
DEFAULT: Final = ("fast", "balanced", "accurate", "pixels", *BASELINES)
BATCH: Final = 8
TIMED: Final = 30
REGIONS: Final = (1, 4, 8, 16)
LOW_RANK: Final = 64

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Test:
    """Pictures to test with: uint8 (n, H, W, C), the good ones first."""

    image: NDArray[np.uint8]
    good: int
    masks: tuple[NDArray[np.bool_] | None, ...]


def main() -> int:
    """Measures, prints, writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=sorted(datasets.NAMES), required=True)
    parser.add_argument("--root", type=Path, metavar="DIR", help="where magnetic-tile or folders are")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    parser.add_argument("--only", metavar="NAMES", help=f"some of {','.join((*OURS, *BASELINES))}")
    parser.add_argument("--few", type=int, metavar="N", help="good pictures to train with, at most")
    parser.add_argument("--elongated", type=float, metavar="ASPECT", help="cut pictures to strips of 1 to so much")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of python -m train, for all of ours"
    )
    parser.add_argument("--parts", action="store_true", help="also what each part of the balanced detector earns")
    parser.add_argument("--out", type=Path, metavar="DIR", help="for the JSON and the plot")
    options = parser.parse_args()
    names = options.only.split(",") if options.only else list(DEFAULT)
    unknown = [name for name in names if name not in OURS and name not in BASELINES]
    if unknown:
        parser.error(f"--only: there is no {', '.join(unknown)}")
    try:
        data = datasets.load(options.data, options.root)
    except datasets.AbsentError as error:
        print(f"quality: {error}. Nothing was measured")
        return 0
    with tempfile.TemporaryDirectory() as strips:
        if options.elongated is not None:
            data = datasets.elongated(data, options.elongated, Path(strips))
        measure(data, names, options)
    return 0


def measure(data: DataSet, names: Sequence[str], options: argparse.Namespace) -> None:
    """Every method with every seed."""
    train = len(data.train) if options.few is None else min(options.few, len(data.train))
    print(f"{options.data}: {train} to train, {len(data.good)} good and {len(data.bad)} bad to test", flush=True)
    found: dict[str, list[Figures]] = {}
    parts: dict[str, list[Figures]] = {}
    tests: dict[ImageInput, Test] = {}
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            for name, figures in one_seed(
                data if options.few is None else datasets.few(data, options.few, seed),
                Path(folder),
                seed,
                names=names,
                options=options,
                tests=tests,
                parts=parts,
            ):
                found.setdefault(name, []).append(figures)
                print(
                    f"seed {seed} {name}: " + ", ".join(f"{key} {value:.4g}" for key, value in figures.items()),
                    flush=True,
                )
    light = brightness(next(iter(tests.values())))
    print(f"\na light meter: AUROC {light:.4f}\n\n{table(found)}")
    if parts:
        print(f"\nWhat each part of the balanced detector earns:\n\n{table(parts)}")
    if options.out is not None:
        write(options.out, options.data, {"light_meter": light, "methods": found, "parts": parts})


def one_seed(
    data: DataSet,
    folder: Path,
    seed: int,
    *,
    names: Sequence[str],
    options: argparse.Namespace,
    tests: dict[ImageInput, Test],
    parts: dict[str, list[Figures]],
) -> Iterator[tuple[str, Figures]]:
    """Every method once."""
    train = folder / "train"
    train.mkdir()
    for index, path in enumerate(data.train):
        (train / f"{index:06}{path.suffix}").symlink_to(path.absolute())
    needs_balanced = options.parts or any(name in BASELINES for name in names)
    for name in [*(name for name in OURS if name in names or (name == "balanced" and needs_balanced))]:
        kind, settings = OURS[name]
        # Only `ae` on features knows more than one calibration.
        common = [
            one for one in options.set if not one.startswith("calibration=") or name in ("fast", "balanced", "accurate")
        ]
        given = [item for setting in (*settings, *common, f"seed={seed}") for item in ("--set", setting)]
        began = time.monotonic()
        command("train", kind, "--good", train, "--out", folder / name, *given)
        seconds = time.monotonic() - began
        command("export", folder / name, "--out", folder / f"{name}.bundle")
        bundle = bundles.load(folder / f"{name}.bundle")
        spec = bundle.manifest.input
        if spec not in tests:
            tests[spec] = read(data, spec)
        test = tests[spec]
        figures, scores = measured(bundle.read(bundles.MODEL), test)
        threshold = conformal_threshold(bundle.calibration.scores, bundle.calibration.target_fpr).value
        flagged = scores > threshold
        if name in names:
            yield (
                name,
                {
                    **figures,
                    "train_s": seconds,
                    "recall_at_threshold": float(flagged[test.good :].mean()),
                    "fpr_at_threshold": float(flagged[: test.good].mean()),
                },
            )
    if not needs_balanced:
        return
    balanced = run.load(folder / "balanced")
    spec = bundles.load(folder / "balanced.bundle").manifest.input
    rows, cached, seconds = cache(balanced, spec, folder)
    for name in BASELINES:
        if name in names:
            extractor, some, known, spent = balanced.detector.extractor, rows, cached, seconds
            if name == "padim-copies":
                some, known, spent = cache(balanced, spec, folder, copies=True)
            began = time.monotonic()
            bank = name == "memory-bank"
            made = MemoryBank(extractor, known, some, seed=seed) if bank else PaDiM(extractor, known, some)
            spent += time.monotonic() - began
            model = graph.checked(graph.trace(made, spec))  # type: ignore[arg-type]
            yield name, {**measured(model, tests[spec])[0], "train_s": spent}
    if options.parts:
        fit, statistics = len(balanced.part("fit")), len(rows)
        if balanced.config.cross:  # which sets none aside
            fit -= max(2, round(balanced.config.statistics_share * fit))
        own = replace(cached, center=balanced.detector.center, scale=balanced.detector.scale)
        for name, detector in variants(balanced.detector, own, rows[:fit], rows[fit:statistics], balanced.config):
            model = graph.checked(graph.trace(detector, spec))
            figures = measured(model, tests[spec])[0]
            parts.setdefault(name, []).append(figures)
            print(f"seed {seed} part {name}: AUROC {figures['auroc']:.4f}", flush=True)


def cache(
    trained: run.Run, spec: ImageInput, folder: Path, *, copies: bool = False
) -> tuple[NDArray[np.int64], features.Features, float]:
    """Features of the pictures that the head was fitted on, fit before statistics, and the seconds that they took.

    With copies, of changed ones as well, which stand behind them: as many, made by the run's own hyper-parameters.
    """
    began = time.monotonic()
    paths = [Path(picture.path) for part in ("fit", "statistics") for picture in trained.part(part)]  # type: ignore[arg-type]
    image = images(paths, spec)
    fit = np.arange(len(trained.part("fit")))
    if copies and (change := augmentation(trained.config, PictureSet((), image, ()))):
        random = np.random.default_rng(trained.config.seed)
        image = np.concatenate([image, [change(picture, random) for picture in image]])
    rows = np.arange(len(image))
    cached = features.compute(
        trained.detector.extractor,
        image,
        rows=rows,
        fit=fit,
        store=folder / ("copies.npy" if copies else "features.npy"),
        advance=lambda *_: None,
    )
    return rows, cached, time.monotonic() - began


def variants(
    trained: Detector, cached: features.Features, fit: NDArray[np.int64], statistics: NDArray[np.int64], config: Any
) -> Iterator[tuple[str, Detector]]:
    """The balanced detector with and without each of its parts, each with a head of its own."""
    (height, width), channels = cached.values.shape[2:], trained.extractor.channels
    size = {"height": height, "width": width, "smoothing": config.smoothing, "top": config.top}
    whole = nn.Identity()

    def made(head: Head, autoencoder: nn.Module, project: nn.Module = whole) -> Detector:
        def residuals(rows: NDArray[np.int64]) -> Callable[[], Iterator[Tensor]]:
            return lambda: (project(x - autoencoder(x)) for x in cached.batches(rows))

        with torch.no_grad():
            fit_head(head, residuals(fit), residuals(statistics), shrinkage=config.shrinkage)
        detector = Detector(trained.extractor, autoencoder, nn.Sequential(project, head))  # type: ignore[arg-type]
        detector.center.copy_(cached.center)
        detector.scale.copy_(cached.scale)
        return detector.requires_grad_(False).eval()

    fitting = [regions for regions in REGIONS if height % regions == 0 and width % regions == 0]
    for regions in fitting:
        for what, autoencoder in (("autoencoder", trained.autoencoder), ("none", Nothing())):
            head = Head(channels=channels, regions=regions, **size)
            yield f"{regions} x {regions}, 8 bits, {what}", made(head, autoencoder)
    project = principal(x - trained.autoencoder(x) for x in cached.batches(fit))
    for regions in fitting:
        head = Head(channels=LOW_RANK, regions=regions, **size)
        yield f"{regions} x {regions}, 8 bits, autoencoder, rank {LOW_RANK}", made(head, trained.autoencoder, project)
    for dtype, name in ((torch.float16, "float16"), (torch.float32, "float32")):
        exact = Exact(dtype, channels=channels, regions=fitting[-1], **size)
        yield f"{fitting[-1]} x {fitting[-1]}, {name}, autoencoder", made(exact, trained.autoencoder)


class Nothing(nn.Module):
    """No autoencoder: the reconstruction is the mean, which is zero."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, h, w) -> zeros of that shape."""
        return torch.zeros_like(x)


class Exact(Head):
    """The head with whole factors of a floating type in place of packed steps of 8 bits."""

    factors: Tensor

    def __init__(self, dtype: torch.dtype, **size: Any) -> None:
        super().__init__(**size)
        self.factors = torch.zeros(size["regions"] ** 2, size["channels"], size["channels"], dtype=dtype)

    def store(self, factors: NDArray[np.float64]) -> None:
        """(g*g, C, C), as they are."""
        self.factors.copy_(torch.from_numpy(factors))

    def transposed_strip(self, number: int) -> Tensor:
        """float32 (g*g, end, rows)."""
        begin, end = self.strips[number]
        return self.factors[:, begin:end, :end].transpose(1, 2).float()


@torch.no_grad()
def principal(residuals: Iterator[Tensor]) -> nn.Conv2d:
    """A projection on the directions of most variance over all positions."""
    count, total = 0, torch.zeros(())
    for x in residuals:
        by_channel = x.transpose(0, 1).flatten(1)
        total = total + by_channel @ by_channel.transpose(0, 1)
        count += by_channel.shape[1]
    _, directions = torch.linalg.eigh(total / count)
    project = nn.Conv2d(len(directions), LOW_RANK, 1, bias=False)
    project.weight.copy_(directions[:, -LOW_RANK:].transpose(0, 1)[:, :, None, None])
    return project.requires_grad_(False)


def measured(model: bytes, test: Test) -> tuple[Figures, NDArray[np.float64]]:
    """What a graph scores, how large it is and how long it takes on one thread."""
    session = import_onnxruntime().InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    scores, maps = [], []
    for start in range(0, len(test.image), BATCH):
        score, anomaly_map = session.run(["score", "anomaly_map"], {name: test.image[start : start + BATCH]})
        scores.append(score)
        maps.append(anomaly_map)
    found = np.concatenate(scores).astype(np.float64)
    figures = measures.of_scores(found[: test.good], found[test.good :])
    if any(mask is not None for mask in test.masks):
        marked = [index < test.good or mask is not None for index, mask in enumerate(test.masks)]
        chosen = np.concatenate(maps)[marked]
        figures |= measures.of_maps(chosen, [mask for mask, use in zip(test.masks, marked, strict=True) if use])
    return {**figures, "mb": len(model) / 1e6, "ms": milliseconds(model, test.image[:1])}, found


def milliseconds(model: bytes, image: NDArray[np.uint8]) -> float:
    """Median of one picture at a time on one thread, ms."""
    settings = import_onnxruntime().SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    session = import_onnxruntime().InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    name, spent = session.get_inputs()[0].name, []
    for _ in range(TIMED):
        began = time.perf_counter()
        session.run(["score"], {name: image})
        spent.append(time.perf_counter() - began)
    return float(np.median(spent)) * 1e3


def read(data: DataSet, spec: ImageInput) -> Test:
    """The test pictures as a model takes them."""
    masks = tuple(measures.read_mask(str(path)) for path in data.masks) or (None,) * len(data.bad)
    return Test(images([*data.good, *data.bad], spec), len(data.good), ((None,) * len(data.good)) + masks)


def images(paths: Sequence[Path], spec: ImageInput) -> NDArray[np.uint8]:
    """uint8 (n, H, W, C), decoded by serving's rule."""
    return np.stack([decode(path.read_bytes(), spec, Limits()).pixels for path in paths])


def brightness(test: Test) -> float:
    """AUROC of the mean brightness, whichever way round is better."""
    mean = test.image.mean(axis=(1, 2, 3))
    area = auroc(mean[: test.good], mean[test.good :])
    return max(area, 1 - area)


def table(found: dict[str, list[Figures]]) -> str:
    """Markdown: a row a method, means over seeds, with their interval where that matters."""
    keys = [key for key in next(iter(found.values()))[0] if any(key in seeds[0] for seeds in found.values())]
    rows = [["", *keys], ["---"] * (len(keys) + 1)]
    for name, seeds in found.items():
        cells = []
        for key in keys:
            values = [figures[key] for figures in seeds if key in figures]
            interval = Interval.of(values) if values else None
            exact = key in {"mb", "ms", "train_s"}
            cells.append("-" if interval is None else f"{interval.mean:.1f}" if exact else str(interval))
        rows.append([name, *cells])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def write(folder: Path, name: str, figures: dict[str, Any]) -> None:
    """The JSON, and a plot of AUROC against milliseconds."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(
        {"data": name, "torch": torch.__version__, "onnxruntime": import_onnxruntime().__version__, **figures}, indent=1
    )
    (folder / f"quality-{name}.json").write_text(text + "\n", encoding="ascii")
    figure = Figure(figsize=(6.4, 4.0), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for method, seeds in figures["methods"].items():
        area = Interval.of([one["auroc"] for one in seeds])
        spent = float(np.median([one["ms"] for one in seeds]))
        axis.errorbar(spent, area.mean, yerr=np.nan_to_num(area.half_width), fmt="o", capsize=3)
        axis.annotate(method, (spent, area.mean), xytext=(5, 4), textcoords="offset points", fontsize=8)
    axis.set_xlabel("milliseconds a picture, one thread")
    axis.set_ylabel("image AUROC, 95 % interval over seeds")
    axis.set_title(name, fontsize=10)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(folder / f"quality-{name}.png", metadata={"Software": None})


def command(module: str, *arguments: object) -> None:
    """Runs `python -m MODULE ...`; its errors are shown."""
    line = [sys.executable, "-m", module, *map(str, arguments)]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}:\n{done.stderr}")


if __name__ == "__main__":
    sys.exit(main())

"""What drift looks like on real pictures: those of a bundle's product, changed as light, lens and camera change them.

    python bench/drift.py BUNDLE PICTURES [--other PICTURES]

PICTURES are good ones of the same product that training has not seen, for those it has score lower. Every change is
seen through a window of 200 of them, in a random order and some twice, by the daemon's own code, and printed as PSI
(above 0.25: another population), the p-value of the test on scores, and what the daemon says in words.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from prometheus_client import CollectorRegistry

from edged.media.imaging import Limits, decode, find_pictures
from edged.models import registry
from edged.models.scorer import Scorer
from edged.results import Frame, Result
from edged.service.drift import WINDOW, DriftWatch
from edged.service.metrics import Metrics

Change = Callable[[Image.Image], Image.Image]


def light(factor: float) -> Change:
    """Every value times a factor."""
    return lambda image: image.point(lambda value: min(255, round(value * factor)))


def moved(image: Image.Image) -> Image.Image:
    """A tenth of the width to the right; what comes in is the edge, drawn out."""
    pixels, by = np.asarray(image), image.width // 10
    return Image.fromarray(np.concatenate([np.repeat(pixels[:, :1], by, axis=1), pixels[:, :-by]], axis=1))


CHANGES: Final[dict[str, Change]] = {
    "as they are": lambda image: image,
    "light at 0.7": light(0.7),
    "light at 0.9": light(0.9),
    "light at 1.3": light(1.3),
    "out of focus (blur of 2 px)": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "moved by a tenth": moved,
}


def main() -> int:
    """Prints a line for each change."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--other", type=Path, action="append", default=[], help="pictures of something else")
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))  # the table is enough
    scorer = registry.load_one(arguments.bundle, "cpu")
    print(f"{'':30}{'brightness':>11}{'contrast':>10}{'sharpness':>11}{'score':>8}{'p-value':>9}  words")
    files = list(find_pictures(arguments.pictures))
    for name, change in CHANGES.items():
        show(name, scorer, files, change)
    for folder in arguments.other:
        show(f"pictures of {folder.name}", scorer, list(find_pictures(folder)), CHANGES["as they are"])
    return 0


def show(name: str, scorer: Scorer, files: list[Path], change: Change) -> None:
    """One line: a window of changed pictures."""
    metrics, random = Metrics(CollectorRegistry()), np.random.default_rng(0)
    watch = DriftWatch("line", scorer, metrics, look_s=0.0, compare_s=0.0, least=WINDOW)
    for index in random.choice(len(files), WINDOW, replace=len(files) < WINDOW):
        pixels = read(files[index], scorer, change)
        result = scorer.score(Frame("line", "0", 0.0, pixels))
        assert isinstance(result, Result)
        watch.observe(pixels, result.score)
    value = metrics.registry.get_sample_value
    inputs = [
        value("edged_input_drift", {"source": "line", "statistic": statistic})
        for statistic in ("brightness", "contrast", "sharpness")
    ]
    score, p_value = (
        value("edged_score_drift", {"source": "line", "model": scorer.name, "statistic": statistic})
        for statistic in ("psi", "p_value")
    )
    cells = "".join(
        f"{'' if one is None else f'{one:.2f}':>{width}}" for one, width in zip(inputs, (11, 10, 11), strict=True)
    )
    print(f"{name:30}{cells}{score:8.2f}{p_value:9.4f}  {watch.words or 'as it was'}", flush=True)


def read(path: Path, scorer: Scorer, change: Change) -> NDArray[np.uint8]:
    """A changed picture at the model's size."""
    decoded = decode(path.read_bytes(), scorer.bundle.manifest.input, Limits())  # type: ignore[arg-type]
    image = Image.fromarray(decoded.pixels.squeeze())
    return np.asarray(change(image)).reshape(decoded.pixels.shape)


if __name__ == "__main__":
    sys.exit(main())

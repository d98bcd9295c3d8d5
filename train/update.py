"""`python -m train ae --update RUN`: more good pictures for a run, as a run of its own."""

import argparse
import json
import shlex
import shutil
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from rich.console import Console

from edged.media.imaging import ImageInput
from edged.models import bundle as bundles
from train import command, progress, run, suspects
from train import good as goods
from train.data import cleaning, groups, pictures, shapes, stretches
from train.data.reader import Reader
from train.errors import OptionError, TrainError
from train.fit import likeness, loop, update

_PROGRAM: Final = "train"
_KEPT: Final = ("set", "config", "size", "defect_px", "roi", "mask", "bad")


def update_run(options: argparse.Namespace, console: Console) -> None:
    """Reads a run, adds good pictures, and writes what comes of it as another run; the first one stays as it is.

    Raises:
        TrainError: the run cannot take more pictures, or there are none that it does not have.
    """
    if given := [f"--{key.replace('_', '-')}" for key in _KEPT if getattr(options, key)]:
        raise OptionError([f"{', '.join(given)}: --update keeps what the run was trained with; leave it out"])
    bundles.check_absent(options.out)
    before = run.load(options.update)
    config, spec = update.check(before), before.spec
    assert isinstance(spec, ImageInput)
    denoiser = _denoiser(before, options.denoiser, spec)
    device = loop.choose_device(options.device)
    track, began = progress.on(console), time.monotonic()
    cached = TemporaryDirectory(prefix=".train-cache.", dir=options.out.absolute().parent, ignore_cleanup_errors=True)
    with bundles.writing(options.out) as folder, cached as name:
        cache = Path(name)
        named = goods.find(options, folder, track)
        found = goods.read(named, options, spec, denoiser=denoiser, cache=cache, track=track)
        if named.of_videos:
            console.print(stretches.describe(found))
        new = update.new_pictures(before, found)
        warnings = [*new.warnings, *shapes.others(new.pictures, spec)]
        if named.groups is None and groups.looks_like_a_sequence(new):
            warnings.append(groups.SEQUENCE)
        trained, good, config = update.update(before, config, new, cache=cache, track=track, device=device)
        parts = {part: sum(one.part == part for one in good) for part in ("fit", "statistics", "calibration")}
        if trained.out_of_fold is not None and named.groups is not None:
            fitted = [picture for picture in good if picture.part == "fit"]
            least_alike, more = likeness.compare(fitted, trained.out_of_fold)
            console.print(least_alike, markup=False)
            warnings += more
        if few := pictures.too_few(len(good), config.target_fpr, cross=config.cross):
            warnings.append(few)
        for warning in warnings:
            command.say(console, _PROGRAM, f"warning: {warning}")
        if trained.out_of_fold is not None:
            read, fresh = Reader(spec, denoiser).of_intact, {one.path: new.pixels[one.row] for one in new.pictures}
            looked_at = suspects.of_training(
                trained,
                [picture for picture in good if picture.part == "fit"],
                lambda picture: fresh[picture.path] if picture.path in fresh else read(picture),
                target_fpr=config.target_fpr,
                plural=spec.plural,
            )
            (folder / suspects.PAGE).write_text(looked_at, encoding="utf-8")
        _metrics(before, folder, trained.report.held_out_ratio, trained.report.reference)
        if (before.path / run.MASK).is_file():
            shutil.copyfile(before.path / run.MASK, folder / run.MASK)
        had = len(before.pictures) - len(before.part("bad"))
        run.save(
            folder,
            "ae",
            config=config,
            pictures=(*good, *before.part("bad")),
            detector=trained.detector,
            facts={
                **{key: before.facts.get(key) for key in ("denoiser", "source_px", "regions_follow")},
                "seconds": round(time.monotonic() - began, 1),
                "warnings": [*_still_true(before), *warnings],
                "parts": parts,
                "updated_from": {
                    "run": before.path.absolute().name,
                    "weights_sha256": run.weights_sha256(before.path),
                    "created": before.facts["created"],
                    "pictures": had,
                    "added": len(new.pictures),
                    "before": before.facts.get("updated_from"),
                },
                **trained.facts,
            },
            features=trained.features,
        )
    used = ", ".join(f"{n} {part}" for part, n in parts.items())
    console.print(
        f"{options.out}: {len(new.pictures)} good pictures added to the {had} of {options.update} in "
        f"{time.monotonic() - began:.0f} s: {'all fit and calibrate, out of fold' if config.cross else used}"
    )
    words = ["python", "-m", "export", options.out, *(["--denoiser", options.denoiser] if denoiser else [])]
    words += ["--out", f"bundles/{bundles.as_name(options.out.absolute().name)}"]
    console.print(f"next: {shlex.join(map(str, words))}", markup=False)


def _denoiser(before: run.Run, given: Path | None, spec: ImageInput) -> cleaning.Denoiser | None:
    """The denoiser that the run was trained behind, and no other."""
    wanted = before.facts.get("denoiser")
    loaded = None if given is None else cleaning.load(given, spec)
    if (wanted or {}).get("sha256") != (loaded.facts if loaded else {}).get("sha256"):
        what = f"behind the denoiser {wanted['name']}; give that" if wanted else "without a denoiser; leave it out"
        raise TrainError(f"--denoiser: {before.path} was trained {what}")
    return loaded


def _still_true(before: run.Run) -> list[str]:
    """What training warned of, but for what more pictures may have changed."""
    return [warning for warning in before.facts["warnings"] if not warning.startswith("too-few")]


def _metrics(before: run.Run, folder: Path, held_out_ratio: float, reference: float) -> None:
    """The lines of the run before, and one for the head."""
    line: dict[str, Any] = {"event": "head", "held_out_ratio": held_out_ratio, "reference": reference}
    earlier = before.path / run.METRICS
    text = earlier.read_text(encoding="ascii") if earlier.is_file() else ""
    (folder / run.METRICS).write_text(text + json.dumps(line) + "\n", encoding="ascii")

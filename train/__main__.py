"""`python -m train {ae,denoiser,vae}`: a folder of good pictures -> a run directory."""

import argparse
import json
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from edged.media import frames
from edged.media.imaging import ImageInput, Size
from edged.media.inputs import Input
from edged.models import bundle as bundles
from train import command
from train.config import kinds as configs
from train.config.base import ModelConfig
from train.config.explained import help_lines
from train.config.signal import SignalConfig
from train.errors import OptionError
from train.threads import wait_asleep

if TYPE_CHECKING:
    from train.data.cleaning import Denoiser
    from train.good import Good

PROGRAM: Final = "train"
EXAMPLES: Final = {
    "ae": """\
  python -m train ae --good pictures/good --out runs/solar
  python -m train ae --update runs/solar --good pictures/this-week --out runs/solar2
  python -m train ae --good pictures/good --bad pictures/defects --set backbone=pixels --set size=128 --out runs/px
  python -m train ae --good shift1.mp4:0-90 shift1.mp4:2:10-5:00 --out runs/belt
  python -m train ae --good beats/normal --set input=signal --out runs/ecg""",
    "denoiser": """\
  python -m train denoiser --good pictures/good --set channels=1 --set noise=[0.02,0.1] --out runs/clean""",
    "vae": """\
  python -m train vae --good pictures/good --set latent=16 --set score=elbo --out runs/cells""",
}
EPILOG: Final = """\
`python -m train KIND --help` explains every hyper-parameter of a kind: what it is, its default, what it may be.
Begin with:

  python -m train ae --good pictures/good --out runs/solar"""
SUMMARIES: Final = {
    "ae": "an autoencoder that scores a picture, or a signal, by how badly it is reconstructed",
    "denoiser": "a denoiser that cleans pictures, and scores them by what it takes away",
    "vae": "a variational autoencoder that scores pictures and draws new ones",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and trains; returns the exit code, see `command.run`."""
    wait_asleep()
    options = _parser().parse_args(arguments)
    if options.update is not None:
        from train import update

        return command.run(PROGRAM, options.out, lambda console: update.update_run(options, console))
    return command.run(PROGRAM, options.out, lambda console: _train(options, console))


def _train(options: argparse.Namespace, console: Console) -> None:  # noqa: PLR0915 -- the whole run, in its order
    config = configs.load(configs.KINDS[options.kind], options.config, [*options.set, *_shorthands(options)])
    # torch takes seconds to import: what is wrong with the command line shows before that.
    bundles.check_absent(options.out)
    _check_apart(options.good, options.bad)
    from train import good as goods
    from train import progress, run, suspects
    from train.data import groups, masks, pictures, stretches
    from train.fit import likeness, loop

    device, track, began = loop.choose_device(options.device), progress.on(console), time.monotonic()
    with bundles.writing(options.out) as folder, _cache(folder.parent) as name:
        named = goods.find(options, folder, track)
        config, spec, source, denoiser = _shaped(config, named, options, console)
        plural = spec.plural
        if options.bad is not None:
            pictures.find(options.bad, spec)  # what is wrong shows before the good ones take their time
        cache, given = Path(name), config
        if isinstance(config, ModelConfig) and isinstance(spec, ImageInput) and config.mask is not None:
            masks.write(Path(config.mask), spec, folder / run.MASK)
            config = config.model_copy(update={"mask": str(folder / run.MASK)})
        found = goods.read(named, options, spec, denoiser=denoiser, cache=cache, track=track)
        if named.of_videos:
            console.print(stretches.describe(found))
        if config.cross:
            good = pictures.keep_whole(found, target_fpr=config.target_fpr, plural=plural)
        else:
            good = pictures.split(
                found,
                target_fpr=config.target_fpr,
                statistics_share=config.statistics_share,
                seed=config.seed,
                calibration_share=config.calibration_share,
                plural=plural,
            )
        bad = None
        if options.bad is not None:
            with track(f"bad {plural}") as advance:
                found = pictures.read(options.bad, spec, store=cache / "bad.npy", part="bad", advance=advance)
            bad = pictures.without(found, good, plural=plural)
        warnings = (
            *good.warnings,
            *(bad.warnings if bad else ()),
            *(denoiser.leaks(good) if denoiser is not None else ()),
            *_shape_warnings(
                config, spec, good.pictures, bad.pictures if bad else (), mask=getattr(given, "mask", None)
            ),
            *([groups.SEQUENCE] if named.groups is None and groups.looks_like_a_sequence(good) else ()),
        )
        for warning in warnings:
            command.say(console, PROGRAM, f"warning: {warning}")
        config = config.for_pictures(len(good.part("fit")) + len(good.part("statistics")))
        parts = {part: len(good.part(part)) for part in ("fit", "statistics", "calibration")}
        used = ", ".join(f"{n} {part}" for part, n in parts.items())
        console.print(
            f"{len(good.pictures)} good {plural}: {'all fit and calibrate, out of fold' if config.cross else used}"
        )

        with (folder / run.METRICS).open("w", encoding="ascii") as file:

            def log(line: dict[str, Any]) -> None:
                file.write(json.dumps(line) + "\n")
                file.flush()

            trained = _loop(options.kind)(config, good, cache=cache, log=log, track=track, device=device)
        if trained.out_of_fold is not None and named.groups is not None:
            least_alike, more = likeness.compare(good.part("fit"), trained.out_of_fold)
            console.print(least_alike, markup=False)
            for warning in more:
                command.say(console, PROGRAM, f"warning: {warning}")
            warnings = (*warnings, *more)
        if trained.out_of_fold is not None:
            looked_at = suspects.of_training(
                trained,
                good.part("fit"),
                lambda picture: good.pixels[picture.row],
                target_fpr=config.target_fpr,
                plural=plural,
            )
            (folder / suspects.PAGE).write_text(looked_at, encoding="utf-8")
        run.save(
            folder,
            options.kind,
            config=config if isinstance(given, SignalConfig) else config.model_copy(update={"mask": given.mask}),
            pictures=good.pictures + (bad.pictures if bad else ()),
            detector=trained.detector,
            facts={
                "denoiser": denoiser.facts if denoiser else None,
                "source_px": source,
                "seconds": round(time.monotonic() - began, 1),
                "warnings": list(warnings),
                "parts": parts,
                "regions_follow": getattr(given, "regions", None) == 0,
                **trained.facts,
            },
            features=trained.features,
        )
    console.print(
        f"{options.out}: trained in {time.monotonic() - began:.0f} s; epoch {trained.epoch} was kept, with a loss of "
        f"{trained.loss:.4f} on {'' if config.cross else 'held-out '}good {plural}"
    )
    words = ["python", "-m", "export", options.out, *(["--denoiser", options.denoiser] if denoiser else [])]
    words += ["--out", f"bundles/{bundles.as_name(options.out.absolute().name)}"]
    console.print(f"next: {shlex.join(map(str, words))}", markup=False)


def _shaped(
    config: configs.Config, named: "Good", options: argparse.Namespace, console: Console
) -> tuple[configs.Config, Input, Size | None, "Denoiser | None"]:
    """The configuration in the shape of the good ones, what the model takes, their size, px, and the denoiser."""
    from train.data import cleaning, shapes, signals

    if isinstance(config, SignalConfig):
        if options.denoiser:
            raise OptionError(["--denoiser cleans pictures, and this model takes signals; leave it out"])
        if named.of_videos:
            raise OptionError(["--good names videos, and this model takes signals; leave input=signal out"])
        config = signals.shaped(config, named.folder)
        return config, config.spec, None, None
    source, n = shapes.source_of(named.folder, config.spec)
    shapes.check_roi(config, source)
    config = config.shaped(source)
    denoiser = cleaning.load(options.denoiser, config.spec) if options.denoiser else None
    if (cost := shapes.cost(config, n)) is not None:
        console.print(cost)
    return config, config.spec_of(source), source, denoiser


def _shorthands(options: argparse.Namespace) -> list[str]:
    """What has an option of its own, as `--set` takes it."""
    given = {"size": options.size, "defect_px": options.defect_px, "roi": options.roi}
    keys = [f"{key}={value}" for key, value in given.items() if value is not None]
    return keys + ([] if options.mask is None else [f"mask={json.dumps(str(options.mask))}"])


def _shape_warnings(config: Any, spec: Any, good: Sequence[Any], bad: Sequence[Any], *, mask: str | None) -> list[str]:
    from train.data import shapes

    if isinstance(config, SignalConfig):
        return []
    warnings = shapes.coarse(config, spec.source) + shapes.others(good, spec)
    warnings += [] if mask is None else shapes.of_mask(Path(mask), spec.source)
    return warnings + (shapes.others(bad, shapes.with_seen(spec, good)) if bad else [])


def _loop(kind: str) -> Any:
    if kind == "ae":
        from train.fit.ae import train_detector

        return train_detector
    if kind == "denoiser":
        from train.fit.denoiser import train_denoiser

        return train_denoiser
    from train.fit.vae import train_vae

    return train_vae


def _check_apart(good: Sequence[str], bad: Path | None) -> None:
    """Refuses bad pictures in a subfolder of the good ones, from which they would be learnt as good."""
    if bad is None:
        return
    for name in good:
        one, other = Path(name).resolve(), bad.resolve()
        if one == other or one in other.parents or (other in one.parents and not one.is_file()):
            raise OptionError([f"--bad {bad} and --good {name} lie one in the other; put the folders side by side"])


def _rate(text: str) -> float | None:
    try:
        rate = float(text)
    except ValueError:
        rate = -1
    if not 0 <= rate <= 1000:
        raise argparse.ArgumentTypeError(f"{text}: write a number of frames a second, 0 to 1000")
    return rate or None


def _cache(parent: Path) -> TemporaryDirectory[str]:
    # Beside the run, where there is room for it, and not in /tmp, which may be memory.
    return TemporaryDirectory(prefix=".train-cache.", dir=parent, ignore_cleanup_errors=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m train",
        description="Trains a model on pictures, or signals, of good parts.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    for kind, summary in SUMMARIES.items():
        _add(kinds, kind, summary)
    return parser


def _add(kinds: Any, kind: str, summary: str) -> None:
    keys = ["hyper-parameters, for --set and for the file of --config (TOML, the same keys at top level):"]
    keys += help_lines(configs.KINDS[kind])
    if kind == "ae":
        keys += [
            "",
            'hyper-parameters of signals (.npy, .csv), with --set input=signal or input = "signal" in the file:',
        ]
        keys += help_lines(SignalConfig)
    parser = kinds.add_parser(
        kind,
        help=summary,
        description=f"Trains {summary}; learns from good parts alone, and writes a run directory.",
        epilog="\n".join(["example:", EXAMPLES[kind], "", *keys]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--good",
        nargs="+",
        action="extend",
        required=True,
        metavar="DIR",
        help="pictures (or signals) of good parts, subfolders too; or videos, VIDEO or VIDEO:START-END, each held out "
        "as a whole",
    )
    parser.add_argument(
        "--fps", type=_rate, default=frames.RATE, help="frames a second to take of videos (default: 5); 0 for every one"
    )
    parser.add_argument(
        "--bad", type=Path, metavar="DIR", help="pictures (or signals) of defects: reported on, never learnt from"
    )
    parser.add_argument(
        "--groups",
        metavar="RULE",
        help="what belongs together and must be held out together: folder, time:SECONDS, or a CSV file of PATH,GROUP",
    )
    parser.add_argument("--exclude", type=Path, metavar="FILE", help="good ones to leave out, a path a line")
    parser.add_argument("--config", type=Path, metavar="FILE", help="hyper-parameters in TOML")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one hyper-parameter; repeatable"
    )
    parser.add_argument(
        "--size", metavar="SIZE", help="of the model's picture, such as 640x256 (default: the pictures' own shape)"
    )
    parser.add_argument("--defect-px", metavar="PX", help="the smallest defect to find, px of the files: sets the size")
    parser.add_argument("--roi", metavar="X,Y,W,H", help="the part of the pictures to look at, px of the files")
    parser.add_argument(
        "--mask", type=Path, metavar="FILE", help="a picture of where to look: what is black is ignored"
    )
    if kind != "denoiser":
        parser.add_argument(
            "--denoiser", type=Path, metavar="BUNDLE", help="cleans every picture first, here and later"
        )
    else:
        parser.set_defaults(denoiser=None)
    parser.add_argument(
        "--device", choices=("auto", "cpu", "cuda"), default="auto", help="where to train; auto: CUDA if there is one"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="RUN", help="the run directory to write")
    if kind == "ae":
        parser.add_argument(
            "--update",
            type=Path,
            metavar="RUN",
            help="add the good pictures to those of this run: its autoencoder stays, what is fitted to pictures is "
            "fitted anew, in minutes",
        )
    else:
        parser.set_defaults(update=None)


if __name__ == "__main__":
    sys.exit(main())

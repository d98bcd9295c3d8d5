"""`python -m export`: a run directory -> a model bundle."""

import argparse
import re
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from rich.console import Console

from edged.media.imaging import ImageInput
from edged.models import bundle as bundles
from edged.models.manifest import NAME
from edged.results import printable
from train import command
from train.errors import TrainError
from train.threads import wait_asleep

if TYPE_CHECKING:  # torch takes seconds to import
    from export.bundle import Exported
    from train.run import Run

PROGRAM: Final = "export"
_SHOWN: Final = 3
EPILOG: Final = """\
example:
  python -m export runs/solar --out bundles/solar

precision:
  fp32  weights in single precision, the whitening's factors in 8 bits (default)
  fp16  the other weights in half precision, computed in single: fewer bytes, runs everywhere
  int8  the ImageNet trunk in 8 bits; refused when the scores move too far
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line and exports; returns the exit code, see `command.run`."""
    wait_asleep()
    options = _parser().parse_args(arguments)
    return command.run(PROGRAM, options.out, lambda console: _export(options, console))


def _export(options: argparse.Namespace, console: Console) -> None:
    bundles.check_absent(options.out)  # before torch takes its seconds to import
    name = options.name or options.out.absolute().name
    if not re.fullmatch(NAME, name):
        raise TrainError(
            f"{name[:100]!r} cannot be a model's name: that has up to 100 letters (a to z), digits, '.', '_' and '-', "
            f"a letter or digit first; give it one: --name {bundles.as_name(name)}"
        )
    from export.bundle import export_bundle
    from export.report.trust import percent
    from train import progress, run, suspects
    from train.data import cleaning
    from train.fit.outliers import raised_from

    began = time.monotonic()
    track = progress.on(console)
    with track("run"):
        loaded = run.load(options.run)
    spec = loaded.spec
    denoiser = None
    if options.denoiser:
        if not isinstance(spec, ImageInput):
            raise TrainError(f"--denoiser cleans pictures, and {options.run} takes {spec.plural}; leave it out")
        denoiser = cleaning.load(options.denoiser, spec)
    made = export_bundle(loaded, options.out, name=name, precision=options.precision, denoiser=denoiser, track=track)
    threshold, trained_with = made.outcome.threshold, loaded.facts["warnings"]
    for warning in made.warnings:
        if warning not in trained_with:  # training has said those
            command.say(console, PROGRAM, f"warning: {warning}")
    if threshold.shortfall and not any(warning.startswith("too-few:") for warning in trained_with):
        command.say(console, PROGRAM, f"warning: {threshold.shortfall}")
    if made.outliers:
        first = ", ".join(printable(outlier.path) for outlier in made.outliers[:_SHOWN])
        more = ", ..." if len(made.outliers) > _SHOWN else ""
        many = f"{len(made.outliers)} good {spec.plural} look like outliers; look at them"
        one = f"1 good {spec.singular} looks like an outlier; look at it"
        where = f" ({options.out}/{suspects.PAGE} shows them); what shows no good part goes into a list for --exclude"
        command.say(console, PROGRAM, f"{one if len(made.outliers) == 1 else many}: {first}{more}{where}")
    for line in _without(made, loaded, spec.plural):
        command.say(console, PROGRAM, line)
    lower = raised_from(made.outliers, made.outcome.good, threshold, loaded.calibrates)
    if lower is not None and sum(outlier.part == loaded.calibrates for outlier in made.outliers) > 1:
        command.say(console, PROGRAM, f"without all outliers the threshold would be {lower:.4g}")
    if made.outcome.report is not None:
        report = made.outcome.report
        console.print(
            f"the threshold finds {report.n_found} of {report.n_bad} bad {spec.plural} (recall {report.recall:.4f}); "
            f"AUROC {report.auroc:.4f}"
        )
    console.print(
        f"{options.out}: exported in {time.monotonic() - began:.0f} s; model.onnx {made.model_bytes / 1e6:.1f} MB, "
        f"threshold {threshold.value:.4g} from {threshold.n} {spec.plural}, "
        f"ONNX Runtime agrees with torch (differs by {percent(made.difference)} of what is allowed)"
    )
    score = shlex.join(["edged", "score", str(options.out)])
    console.print(
        f"next: read {options.out}/card.md; then {score} {spec.plural.upper()}, or name it in edged.toml and: "
        "edged run -c edged.toml"
    )


def _without(made: "Exported", loaded: "Run", plural: str) -> Iterator[str]:
    """What the threshold, and the bad pictures found, would be without each of the first outliers that calibrate."""
    from train import suspects

    good, bad, report = made.outcome.good, made.outcome.bad, made.outcome.report
    for outlier in [one for one in made.outliers if one.part == loaded.calibrates][:_SHOWN]:
        index = int(abs(good - outlier.score).argmin())
        threshold, found = suspects.without(good, index, loaded.config.target_fpr, bad)
        finds = (
            ""
            if found is None or report is None
            else f", which finds {found} bad {plural} in place of {report.n_found}"
        )
        yield (
            f"without {printable(outlier.path)} the threshold would be {threshold:.4g} in place of "
            f"{made.outcome.threshold.value:.4g}{finds}"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Writes a model bundle from a run directory; nothing is written when a check fails.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="a folder that `python -m train` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE", help="the bundle to write")
    parser.add_argument("--name", metavar="NAME", help="how results call the model (default: the bundle's name)")
    parser.add_argument("--denoiser", type=Path, metavar="BUNDLE", help="the one that the run was trained behind")
    parser.add_argument("--precision", choices=("fp32", "fp16", "int8"), default="fp32", help="see below")
    return parser


if __name__ == "__main__":
    sys.exit(main())

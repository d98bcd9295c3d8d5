"""`edged score`, `denoise` and `sample`: pictures once, without a daemon."""

import os
from pathlib import Path
from typing import Annotated

import typer

from edged.commands.options import (
    BundleArgument,
    DenoiserOption,
    DeviceChoice,
    DeviceOption,
    RateOption,
    complain,
    complain_of_shapes,
)
from edged.errors import ConfigError
from edged.results import printable


def score(
    bundle: BundleArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of them.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a picture, and nothing else.")] = False,
    heatmaps: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write each picture with its heat map into DIR.")
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
    target_fpr: RateOption = None,
    threshold: Annotated[float | None, typer.Option(min=0.0, max=1e30, help="Use this threshold.")] = None,
    denoiser: DenoiserOption = None,
    fail_on_anomaly: Annotated[bool, typer.Option("--fail-on-anomaly", help="Exit with 3 on an anomaly.")] = False,
) -> int:
    """Score pictures and say which are anomalous.

    Example: edged score bundles/solar pictures/ --heatmaps heatmaps/
    """
    from edged import progress, scoring
    from edged.models import registry

    if target_fpr is not None and threshold is not None:
        raise ConfigError(["give --target-fpr or --threshold, not both"])
    scorer = registry.load_one(bundle, device.value, target_fpr=target_fpr, threshold=threshold, denoiser=denoiser)
    if target_fpr is not None and scorer.threshold.shortfall:  # of the bundle's own rate, training and inspect tell
        complain(scorer.threshold.shortfall)
    pictures = scoring.find(paths, scorer.bundle.manifest.input.patterns)
    if heatmaps is not None:
        scoring.check_outputs(pictures, heatmaps)
    failed = anomalies = fitted = 0
    is_known = scoring.knower(scorer)
    others: list[tuple[Path, str]] = []
    records = scoring.score(scorer, pictures, heatmaps=heatmaps, tell=lambda *other: others.append(other))
    for record in progress.bar(records, len(pictures)):
        failed += record.error is not None
        anomalies += bool(record.is_anomaly)
        known = is_known(record)
        fitted += known
        if as_json:
            typer.echo(record.to_json(**({"fitted": True} if known else {})))
        elif record.error is None:
            verdict, ratio = "ANOMALY" if record.is_anomaly else "ok", record.score_ratio
            typer.echo(
                f"{verdict:8}{record.score:10.4f}  {'' if ratio is None else f'{ratio:.2f}x'}  p={record.p_value:.4f}  "
                f"{printable(record.path)}{'  (fitted)' if known else ''}"
            )
        if record.error is not None:
            complain(f"{printable(record.path)}: {record.reason}: {record.error}")
    complain_of_shapes(others, len(pictures))
    if fitted:
        plural = scorer.bundle.manifest.input.plural
        complain(f"fitted: {fitted} of these {plural}; such score lower than new ones do, and say little")
    if not as_json:
        scored = len(pictures) - failed
        typer.echo(
            f"{scored} scored, {anomalies} anomalous (score above {scorer.threshold.value:.4f}), {failed} failed",
            err=True,
        )
    if fail_on_anomaly and anomalies:
        return 3
    return 1 if failed else 0


def denoise(
    bundle: BundleArgument,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Pictures, or folders of them.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where the cleaned pictures go, as PNG.")],
    device: DeviceOption = DeviceChoice.AUTO,
) -> int:
    """Clean pictures with a denoiser, at the size of its model.

    Example: edged denoise bundles/clean pictures/ --out cleaned/
    """
    from edged import progress, scoring
    from edged.models import registry

    denoiser = registry.load_one(bundle, device.value)
    done = failed = 0
    pictures = scoring.find(paths, denoiser.bundle.manifest.input.patterns)
    for picture, error in progress.bar(scoring.denoise(denoiser, pictures, out), len(pictures)):
        done += error is None
        failed += error is not None
        if error is not None:
            complain(f"{printable(str(picture.path))}: {error.reason}: {error}")
    typer.echo(f"{done} cleaned into {out}, {failed} failed", err=True)
    return 1 if failed else 0


def sample(
    bundle: BundleArgument,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Where the grid goes, as PNG.")],
    n: Annotated[int, typer.Option("-n", min=1, max=4096, help="How many pictures.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same pictures.")] = 0,
    around: Annotated[
        Path | None, typer.Option(metavar="PICTURE", help="Draw from the posterior of this picture.")
    ] = None,
    interpolate: Annotated[
        tuple[Path, Path] | None, typer.Option(metavar="A B", help="Walk from picture A to picture B.")
    ] = None,
    device: DeviceOption = DeviceChoice.AUTO,
) -> int:
    """Draw new normal pictures from a VAE, as one grid.

    Example: edged sample bundles/cells -n 64 --seed 0 --out grid.png
    """
    from edged import scoring
    from edged.models import registry, sampling

    if around is not None and interpolate is not None:
        raise ConfigError(["give --around or --interpolate, not both"])
    inputs = [path for path in (around, *(interpolate or ())) if path is not None]
    if any(os.path.realpath(path) == os.path.realpath(out) for path in inputs):
        raise ConfigError([f"--out {out} is one of the pictures that are given; choose another name"])
    scorer = registry.load_one(bundle, device.value)
    sampler = sampling.Sampler.load(scorer, device=device.value)
    if around is not None:
        images = sampler.around(scoring.read(scorer, around), n, seed)
    elif interpolate is not None:
        first, second = (scoring.read(scorer, path) for path in interpolate)
        images = sampler.between(first, second, n)
    else:
        images = sampler.prior(n, seed)
    written = scoring.save(sampling.grid(images), out)
    typer.echo(f"{printable(str(written))}: drawn: {n}", err=True)
    return 0

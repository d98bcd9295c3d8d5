"""`edged calibrate` and `inspect`: what a bundle holds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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

if TYPE_CHECKING:
    from edged.models.scorer import Scorer
    from edged.results import Record
    from edged.scoring import Item


def calibrate(
    bundle: BundleArgument,
    good: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Good pictures that the model was not trained on.")
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="The configuration whose confirmed false alarms are good pictures too."),
    ] = None,
    target_fpr: RateOption = None,
    device: DeviceOption = DeviceChoice.AUTO,
    denoiser: DenoiserOption = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Go back to the calibration before this one, which is kept in its place.")
    ] = False,
) -> int:
    """Give a bundle a new calibration, from good pictures of your own line; or go back to the one before.

    Example: edged calibrate bundles/solar --good this-week/
    """
    if (good is None) != restore:
        raise ConfigError(["give --good DIR for a new calibration, or --restore for the previous one"])
    if labels is not None and good is None:
        raise ConfigError(
            ["--labels: false alarms alone are no calibration; they go beside the pictures of --good DIR"]
        )
    code = _restore(bundle) if good is None else _calibrate(bundle, good, labels, target_fpr, device, denoiser)
    typer.echo(f"{bundle}: calibrated; a running daemon takes it on SIGHUP (systemctl reload edged)", err=True)
    return code


def _restore(bundle: Path) -> int:
    from edged.models import bundle as bundles
    from edged.models.calibration import conformal_threshold

    loaded = bundles.load(bundle)
    before, now = loaded.calibration, bundles.restore_calibration(loaded)
    old, new = (conformal_threshold(one.scores, one.target_fpr) for one in (before, now))
    typer.echo(
        f"threshold {old.value:.4f} -> {new.value:.4f}, from {new.n} {loaded.manifest.input.plural}, calibrated "
        f"{now.created:%Y-%m-%d %H:%M} UTC"
    )
    return 0


def _calibrate(
    bundle: Path,
    good: Path,
    labels: Path | None,
    target_fpr: float | None,
    device: DeviceChoice,
    denoiser: Path | None,
) -> int:
    from edged import scoring
    from edged.models import registry
    from edged.models.calibration import conformal_threshold

    scorer = registry.load_one(bundle, device.value, target_fpr=target_fpr, denoiser=denoiser)
    plural = scorer.bundle.manifest.input.plural
    given = _score(scorer, scoring.find([good], scorer.bundle.manifest.input.patterns))
    confirmed = [] if labels is None else _score(scorer, _false_alarms(scorer, labels))
    failed = [record for record in given + confirmed if record.error is not None]
    for record in failed:
        complain(f"{printable(record.path)}: {record.reason}: {record.error}; left out")
    is_known = scoring.knower(scorer)
    new = [record for record in given if not is_known(record)]
    if known := len(given) - len(new):
        fitted = "the model or its denoiser" if denoiser else "the model"
        left_out = f"{fitted} was fitted on {known} of these {plural}, which score lower than new ones do"
        if not any(record.error is None for record in new):
            raise ConfigError([f"--good: {left_out}; none is left, and the calibration is as it was. Give others"])
        complain(f"{left_out}; left out")
    confirmed = [record for record in confirmed if not is_known(record)]
    chosen, repeated = scoring.calibrate(scorer, new, target_fpr, confirmed)
    if repeated:
        complain(f"{repeated} {plural} are repetitions of others and were counted once")
    flagged = sum(bool(record.is_anomaly) for record in new)
    if 2 * flagged > chosen.n - chosen.confirmed:
        complain(f"{flagged} of these {plural} were anomalous until now: are they good parts? If not, calibrate again")
    before = scorer.bundle.calibration
    old = conformal_threshold(before.scores, before.target_fpr, confirmed=before.confirmed)
    typer.echo(f"threshold {old.value:.4f} -> {chosen.value:.4f}, from {chosen.n} {plural}")
    if chosen.confirmed:
        rate = scorer.bundle.calibration.target_fpr if target_fpr is None else target_fpr
        alone = conformal_threshold(list(scoring.distinct_scores(new).values()), rate)
        complain(
            f"{chosen.confirmed} of them are false alarms: they were chosen because they had been flagged, and are no "
            f"random sample of good parts. The threshold is higher for them ({alone.value:.4f} without): fewer good "
            "parts are flagged than asked for, and more bad ones pass"
        )
    if chosen.shortfall:
        complain(chosen.shortfall)
    if "card.md" in scorer.bundle.manifest.files:
        complain("card.md and its pictures still describe the calibration of the export, not this one")
    return 1 if failed else 0


def _score(scorer: "Scorer", pictures: "list[Item]") -> "list[Record]":
    from edged import progress, scoring

    others: list[tuple[Path, str]] = []
    scored = scoring.score(scorer, pictures, tell=lambda *other: others.append(other))
    records = list(progress.bar(scored, len(pictures)))
    complain_of_shapes(others, len(pictures))
    return records


def _false_alarms(scorer: "Scorer", config: Path) -> "list[Item]":
    """The pictures of this model's results that people called false alarms, from wherever they are now."""
    from edged.config import loading as configuration
    from edged.scoring import Item
    from edged.service.labelled import confirmed_good

    found, gone = [], 0
    for _, path in confirmed_good(configuration.load(config), scorer.bundle.path, scorer.bundle.model_sha256):
        gone += path is None
        if path is not None:
            found.append(Item(path, Path(path.name)))
    if gone:
        complain(f"--labels: the files of {gone} false alarms are gone, or have changed; left out")
    if not found:
        complain("--labels: there is no false alarm of this model; its pictures are those of --good alone")
    return found


def inspect(bundle: BundleArgument, device: DeviceOption = DeviceChoice.AUTO) -> int:
    """Print what a bundle holds, whether it is intact, and whether this device computes what torch did.

    Example: edged inspect bundles/solar
    """
    from edged import reports
    from edged.models import registry

    for line in reports.about_bundle(registry.load_one(bundle, device.value)):
        typer.echo(printable(line))
    return 0

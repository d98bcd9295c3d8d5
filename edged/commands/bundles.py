"""`edged calibrate` and `inspect`: what a bundle holds."""

from dataclasses import dataclass, replace
from fnmatch import fnmatch
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
    from collections.abc import Callable

    from edged.media.frames import Stretch
    from edged.models.scorer import Scorer
    from edged.results import Record
    from edged.scoring import Item


def calibrate(
    bundle: BundleArgument,
    good: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DIR",
            help="Good pictures that the model was not trained on; or VIDEO[:START-END], once for each stretch.",
        ),
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(
            metavar="RULE",
            help="Which of them belong together: folder, time:SECONDS, or a CSV file of PATH,GROUP.",
        ),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(min=0, max=1000, help="Frames a second to take of videos, by default 5; 0 for every one."),
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
    if (not good) != restore:
        raise ConfigError(["give --good DIR for a new calibration, or --restore for the previous one"])
    if labels is not None and not good:
        raise ConfigError(
            ["--labels: false alarms alone are no calibration; they go beside the pictures of --good DIR"]
        )
    if good:
        from edged.models import registry

        scorer = registry.load_one(bundle, device.value, target_fpr=target_fpr, denoiser=denoiser)
        code = _calibrate(scorer, _score_good(scorer, good, groups, fps), labels, target_fpr)
    else:
        code = _restore(bundle)
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


@dataclass(frozen=True, slots=True)
class _Good:
    """Records of good pictures, and the name of the group of each; no names where each stands for itself."""

    records: "list[Record]"
    groups: list[str]
    of_videos: bool = False

    def without(self, is_left_out: "Callable[[Record], bool]") -> "_Good":
        """These without some of them."""
        kept = [index for index, record in enumerate(self.records) if not is_left_out(record)]
        groups = [self.groups[index] for index in kept] if self.groups else []
        return replace(self, records=[self.records[index] for index in kept], groups=groups)


def _calibrate(scorer: "Scorer", given: _Good, labels: Path | None, target_fpr: float | None) -> int:
    from edged import recalibration, scoring
    from edged.models.calibration import conformal_threshold

    plural = scorer.bundle.manifest.input.plural
    confirmed = [] if labels is None else _score(scorer, _false_alarms(scorer, labels))
    failed = [record for record in given.records + confirmed if record.error is not None]
    for record in failed:
        complain(f"{printable(record.path)}: {record.reason}: {record.error}; left out")
    is_known = scoring.knower(scorer)
    new = given.without(is_known)
    if known := len(given.records) - len(new.records):
        fitted = "the model or its denoiser" if scorer.denoiser else "the model"
        left_out = f"{fitted} was fitted on {known} of these {plural}, which score lower than new ones do"
        if not any(record.error is None for record in new.records):
            raise ConfigError([f"--good: {left_out}; none is left, and the calibration is as it was. Give others"])
        complain(f"{left_out}; left out")
    confirmed = [record for record in confirmed if not is_known(record)]
    made = recalibration.calibrate(scorer, new.records, target_fpr, confirmed, new.groups)
    chosen = made.threshold
    if made.repeated and not given.of_videos:  # a camera that stands still gives the same frame again and again
        complain(f"counted once, as repetitions of others: {made.repeated} of these {plural}")
    flagged = sum(bool(record.is_anomaly) for record in new.records)
    if 2 * flagged > chosen.n - chosen.confirmed:
        complain(f"anomalous until now: {flagged} of these {plural}; are they good parts? If not, calibrate again")
    before = scorer.bundle.calibration
    old = conformal_threshold(before.scores, before.target_fpr, confirmed=before.confirmed)
    in_groups = f" in {len(set(new.groups))} groups" if new.groups else ""
    typer.echo(f"threshold {old.value:.4f} -> {chosen.value:.4f}, from {chosen.n} {plural}{in_groups}")
    if made.least_alike:
        typer.echo(printable(made.least_alike))
    for warning in made.warnings:
        complain(warning)
    if chosen.confirmed:
        complain(
            f"false alarms among them: {chosen.confirmed}, chosen because they had been flagged, and no "
            f"random sample of good parts. The threshold is higher for them ({made.alone.value:.4f} without): fewer "
            "good parts are flagged than asked for, and more bad ones pass"
        )
    if chosen.shortfall:
        complain(chosen.shortfall)
    if "card.md" in scorer.bundle.manifest.files:
        complain("card.md and its pictures still describe the calibration of the export, not this one")
    return 1 if failed else 0


def _score_good(scorer: "Scorer", good: list[str], rule: str | None, fps: float | None) -> _Good:
    """Scores what `--good` names.

    Raises:
        ConfigError: it names more than one folder, or a folder and videos, or what cannot be read.
    """
    from edged import progress, scoring
    from edged.media import frames, groups

    stretches = [_stretch_of(scorer, text) for text in good]
    videos = [stretch for stretch in stretches if stretch is not None]
    if not videos and len(good) == 1:
        if fps is not None:
            raise ConfigError([f"--fps: is of videos, and {good[0]} is none; leave it out"])
        records = _score(scorer, scoring.find([Path(good[0])], scorer.bundle.manifest.input.patterns))
        names = [] if rule is None else groups.names_of([record.path for record in records], rule, Path(good[0]))
        return _Good(records, names)
    if len(videos) < len(good):
        other = good[stretches.index(None)]
        raise ConfigError([f"--good {other} is no video; name one folder, or videos alone (VIDEO or VIDEO:START-END)"])
    if rule is not None:
        raise ConfigError(["--groups: each stretch of a video is a group; leave it out, or name shorter stretches"])
    if len(videos) == 1:
        complain(
            "--good: one stretch alone says nothing of other times, though its ten pieces are taken for groups; name "
            "stretches from before and after whatever is moved"
        )
    others: list[tuple[Path, str]] = []
    taken = frames.take(videos, fps=frames.RATE if fps is None else fps or None)
    scored = list(progress.bar(scoring.score_frames(scorer, taken, tell=lambda *other: others.append(other)), None))
    complain_of_shapes(others, len(scored))
    return _Good([record for record, _ in scored], [name for _, name in scored], of_videos=True)


def _stretch_of(scorer: "Scorer", text: str) -> "Stretch | None":
    """The stretch of a video that is named; None of a folder, and of a file such as the model takes."""
    from edged.media import frames

    taken = scorer.bundle.manifest.input
    stretch = frames.stretch_of(text)
    if stretch is None or taken.kind != "image":
        return None
    name = stretch.path.name.lower()
    return None if any(fnmatch(name, pattern.lower()) for pattern in taken.patterns) else stretch


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

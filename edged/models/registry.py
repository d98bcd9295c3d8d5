"""Every model that a configuration names: loaded, paired with denoisers and self-tested in one place.

`edged run`, `check` and `score` all come here. What is loaded is one immutable whole, so that a second one can stand
beside the one that runs: the next of a reload today.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog

from edged.errors import BundleError, ConfigError, DeviceError
from edged.media.imaging import PATTERNS
from edged.models.runtime import Device
from edged.models.scorer import Scorer
from edged.models.self_test import SelfTest
from edged.results import printable
from edged.settings import ModelTable, SourceTable


@dataclass(frozen=True, slots=True)
class Models:
    """The models of one configuration.

    Attributes:
        by_name: a scorer a model.
        of_sources: the scorer of each source, by the source's name, behind the source's denoiser.
        self_tests: of each model that has `self_test_seconds`, with that interval.
    """

    by_name: Mapping[str, Scorer] = field(default_factory=dict)
    of_sources: Mapping[str, Scorer] = field(default_factory=dict)
    self_tests: Mapping[str, tuple[SelfTest, float]] = field(default_factory=dict)


def load(tables: Mapping[str, ModelTable], sources: Sequence[SourceTable], running: Models | None = None) -> Models:
    """Loads all; says so where a threshold or a device is not what was asked for.

    Args:
        tables: of the configuration.
        sources: that take these models; empty where these are wrong, and only the models are to be looked at.
        running: sessions are kept where they may be, for memory grows with those that are made again and again.

    Raises:
        ConfigError: with every problem: a model that cannot be loaded, that was not calibrated with its source's
            denoiser, or that has no self-test.
    """
    scorers, problems = {}, []
    for name, table in tables.items():
        try:
            scorers[name] = Scorer.load(
                table.path,
                name=name,
                device=table.device,
                threads=table.threads,
                target_fpr=table.target_fpr,
                threshold=table.threshold,
                reuse=None if running is None else running.by_name.get(name),
            )
        except (BundleError, DeviceError) as error:
            problems.append(f"models.{name}.{'device' if isinstance(error, DeviceError) else 'path'}: {error}")
    if problems:
        raise ConfigError(problems)
    for name, scorer in scorers.items():
        _announce(name, scorer, None if running is None else running.by_name.get(name))
    of_sources, pairing = _pair(scorers, sources)
    self_tests, untestable = _self_tests(tables, scorers)
    if problems := pairing + untestable:
        raise ConfigError(problems)
    return Models(scorers, of_sources, self_tests)


def load_one(
    bundle: Path,
    device: Device,
    *,
    target_fpr: float | None = None,
    threshold: float | None = None,
    denoiser: Path | None = None,
) -> Scorer:
    """Loads a bundle for one command; says on standard error when it does not run on what could be expected.

    Raises:
        BundleError: the bundle is damaged, or was not calibrated with this denoiser.
        DeviceError: `device` cannot run it.
    """
    scorer = Scorer.load(bundle, device=device, target_fpr=target_fpr, threshold=threshold)
    if scorer.session.fell_back:
        print(f"edged: {printable(scorer.session.fell_back)}", file=sys.stderr)  # noqa: T201
    return scorer.with_denoiser(None if denoiser is None else Scorer.load(denoiser, device=device))


def _announce(name: str, scorer: Scorer, before: Scorer | None) -> None:
    log = structlog.get_logger()
    log.info(
        "model loaded",
        model=name,
        provider=scorer.session.provider,
        threshold=round(scorer.threshold.value, 4),
        calibration_pictures=scorer.threshold.n,
        calibration=scorer.bundle.calibration_sha256[:12],
    )
    if scorer.threshold.shortfall and (before is None or before.threshold != scorer.threshold):
        log.warning("the false-positive rate is not promised", model=name, why=scorer.threshold.shortfall)
    if scorer.session.fell_back:
        log.warning("CUDA was expected, the CPU runs", model=name, why=scorer.session.fell_back)


def _pair(scorers: Mapping[str, Scorer], sources: Sequence[SourceTable]) -> tuple[dict[str, Scorer], list[str]]:
    pairs: dict[tuple[Any, ...], Scorer] = {}  # sources of the same share one
    paired, problems = {}, []
    for source in sources:
        roi, mask = getattr(source, "roi", None), getattr(source, "mask", None)
        key = (source.model, source.denoiser, roi, mask)
        wanted, patterns = scorers[source.model].bundle.manifest.input, getattr(source, "patterns", None)
        if wanted.kind != "image" and patterns == PATTERNS:
            problems.append(
                f"sources.{source.name}.patterns: models.{source.model} takes a {wanted.kind}, and these are patterns "
                f"of pictures; set patterns = {json.dumps(wanted.patterns)}"
            )
        denoiser = None if source.denoiser is None else scorers[source.denoiser]
        try:
            pairs[key] = pairs.get(key) or scorers[source.model].with_denoiser(denoiser).looking_at(roi=roi, mask=mask)
            paired[source.name] = pairs[key]
        except BundleError as error:
            problems.append(f"sources.{source.name}.denoiser: {error}")
        except ConfigError as error:
            problems += [f"sources.{source.name}.{problem}" for problem in error.problems]
    return paired, problems


def _self_tests(
    tables: Mapping[str, ModelTable], scorers: Mapping[str, Scorer]
) -> tuple[dict[str, tuple[SelfTest, float]], list[str]]:
    found, problems = {}, []
    for name, table in tables.items():
        if table.self_test_seconds is None:
            continue
        try:
            found[name] = (SelfTest.load(scorers[name]), table.self_test_seconds)
        except BundleError as error:
            problems.append(f"models.{name}.self_test_seconds: {error}")
    return found, problems

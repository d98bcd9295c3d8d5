"""A new calibration of a bundle, from scores of good pictures that nothing was fitted on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np

from edged.errors import ConfigError
from edged.models import bundle as bundles
from edged.models.calibration import Threshold, conformal_threshold
from edged.models.groups import compare, margin_of, members_of
from edged.models.manifest import Calibration
from edged.models.scorer import Scorer
from edged.results import Record


@dataclass(frozen=True, slots=True)
class Recalibrated:
    """What a new calibration gives.

    Attributes:
        threshold: in force from now on.
        alone: that it would be without what people confirmed.
        repeated: records that repeat a file that was counted already.
        least_alike: the group that is least like the others, in words; "" without groups.
        warnings: of groups.
    """

    threshold: Threshold
    alone: Threshold
    repeated: int
    least_alike: str = ""
    warnings: Sequence[str] = ()


def calibrate(
    scorer: Scorer,
    records: Sequence[Record],
    target_fpr: float | None,
    confirmed: Sequence[Record] = (),
    groups: Sequence[str] = (),
) -> Recalibrated:
    """Replaces a bundle's calibration with the scores of these records, of files that nothing was fitted on.

    Args:
        scorer: of the bundle.
        records: of good pictures.
        target_fpr: that the bundle is for from now on; None: what it was for.
        confirmed: of good pictures that were flagged, and so are no random sample; counted beside the others.
        groups: the name of the group of each record, whose scores are raised for the next group then
            (`groups.margin_of`); none where each record stands for itself.

    Raises:
        ConfigError: no picture could be scored, or those of one group alone.
        BundleError: the bundle cannot be written.
    """
    given = _distinct_scores(records)
    scores = _distinct_scores(confirmed) | given
    if not given:
        raise ConfigError(["--good: none of the pictures could be scored; the calibration is as it was"])
    if min(scores.values(), default=0.0) <= 0:
        raise ConfigError(
            [f"{scorer.bundle.path} gives scores that are not above 0; the calibration is as it was. Export it again"]
        )
    least_alike, warnings, names = "", list[str](), set[str]()
    if groups:
        names = set(groups)
        given, least_alike, warnings = _raised(given, records, groups)
        scores |= given
    rate = scorer.bundle.calibration.target_fpr if target_fpr is None else target_fpr
    ordered = sorted(scores.values())
    extra = len(scores) - len(given)
    bundles.write_calibration(
        scorer.bundle.path,
        Calibration(
            model_sha256=scorer.bundle.model_sha256,
            created=datetime.now(UTC),
            target_fpr=rate,
            n=len(ordered),
            scores=ordered,
            confirmed=extra,
            groups=len(names),
        ),
    )
    scored = sum(record.score is not None for record in records)
    alone = conformal_threshold(list(given.values()), rate)
    threshold = conformal_threshold(ordered, rate, confirmed=extra)
    return Recalibrated(threshold, alone, scored - len(given), least_alike, warnings)


def _raised(
    given: dict[str | None, float], records: Sequence[Record], groups: Sequence[str]
) -> tuple[dict[str | None, float], str, list[str]]:
    """The scores, raised for the next group; which group is least like the others, and warnings."""
    group_of: dict[str | None, str] = {}
    for record, name in zip(records, groups, strict=True):
        if record.score is not None:
            group_of.setdefault(record.sha256, name)
    names, values = [group_of[sha256] for sha256 in given], np.array([*given.values()])
    if len(set(names)) < 2:
        raise ConfigError(
            [
                f"--good: all {len(names)} that can be counted are in one group, {names[0]}, and say nothing of the "
                "next one; the calibration is as it was. Give stretches of other times"
            ]
        )
    margin = margin_of(values, members_of(names))
    words, warnings = compare(names, values, margin)
    return dict(zip(given, (values * margin).tolist(), strict=True)), words, warnings


def _distinct_scores(records: Sequence[Record]) -> dict[str | None, float]:
    """Scores by the SHA-256 of their files, so that repetitions are one; of those that have a score."""
    return {record.sha256: record.score for record in records if record.score is not None}

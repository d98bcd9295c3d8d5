"""How far to trust a model, in words: what its calibration promises, what bad pictures say, what to look at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from edged.media.inputs import Input
from edged.models import intervals
from edged.models.calibration import Threshold
from export.report.metrics import Report
from train.fit.outliers import Outlier

_FEW_BAD: Final = 20
_FEW_HELD_OUT: Final = 20
_MOST_NAMED: Final = 10
_EXAMPLE_RATE: Final = 0.01
_LEAST_PERCENT: Final = 0.0001


def sentences(
    threshold: Threshold,
    report: Report | None,
    outliers: Sequence[Outlier],
    parts: Mapping[str, int],
    taken: Input,
    *,
    raised_from: float | None = None,
    groups: int | None = None,
) -> list[str]:
    """One sentence or two a line, plain text but for bold, names not escaped.

    Args:
        threshold: that the calibration gives for its target rate.
        report: on bad pictures, where there were some.
        outliers: among the good pictures.
        parts: pictures by part.
        taken: what the model takes, which names its items.
        raised_from: see `outliers.raised_from`.
        groups: that what calibrates is in, and leaves together in; None where each stands for itself.
    """
    cross = not parts["calibration"]
    said = [
        calibration(threshold, taken, cross=cross, groups=groups),
        defects(report, taken),
        outsiders(outliers, parts, taken),
    ]
    if raised_from is not None:
        said.append(raised(threshold, raised_from, taken))
    return said


def calibration(threshold: Threshold, taken: Input, *, cross: bool = False, groups: int | None = None) -> str:
    """What false-positive rate can be promised, on average and with confidence."""
    grouped = (
        ""
        if groups is None
        else f" They are in {groups} groups, each of which {'left' if cross else 'was held out'} as a whole: what is "
        f"said of {threshold.n} {taken.plural} is said of {groups} cases."
    )
    if cross:
        few = (
            ""
            if threshold.promised
            else f" **Too few {taken.plural}:** that takes {threshold.needed}, and the highest score is the threshold."
        )
        return (
            f"**Good parts:** calibrated out of fold on all {threshold.n} good {taken.plural}, for a "
            f"false-positive rate of {percent(threshold.target_fpr or 0)}.{few} The promise is at most twice that in "
            'the worst case, and that in practice, measured on other data; `calibration = "split"` would '
            f"make it exact. It holds for good parts that look like those {taken.plural}.{grouped}"
        )
    rate = intervals.true_rate(threshold)
    confidence = (
        f"with 95 % confidence the true rate is below {percent(rate.limit)} (in 95 of 100 calibrations it lies "
        f"between {percent(rate.interval.low)} and {percent(rate.interval.high)})"
    )
    if threshold.promised:
        return (
            f"**Good parts:** calibrated on {threshold.n} good {taken.plural}: a false-positive rate of "
            f"{percent(threshold.target_fpr or 0)} can be promised on average over calibrations; {confidence}. This "
            f"holds for good parts that look like those {taken.plural}.{grouped}"
        )
    return (
        f"**Good parts: too few {taken.plural}.** Calibrated on {threshold.n} good {taken.plural}, which cannot "
        f"promise the {percent(threshold.target_fpr or 0)} asked for: that takes {threshold.needed}. What can be "
        f"promised on average is {percent(rate.mean)}; {confidence}. Collect more good {taken.plural}, then train "
        f"again or run `edged calibrate`.{grouped}"
    )


def defects(report: Report | None, taken: Input) -> str:
    """What share of defects is found, and what a flag means on a line with few of them."""
    if report is None:
        return (
            f"**Defects:** there were no bad {taken.plural}, so **how many defects it finds is not known**. Score some "
            "(`edged score`) before you rely on it."
        )
    low, high = report.recall_interval.low, report.recall_interval.high
    are = "is" if report.n_found == 1 else "are"
    few = f" So few bad {taken.plural} ({report.n_bad}) make the interval wide." if report.n_bad < _FEW_BAD else ""
    return (
        f"**Defects:** {report.n_found} of the {report.n_bad} bad {taken.plural} {are} flagged "
        f"({percent(report.recall)}; with 95 % confidence between {percent(low)} and {percent(high)} of defects like "
        f"these).{few} Of other kinds of defects this says nothing."
    )


def found(report: Report, taken: Input) -> str:
    """What the threshold makes of the bad items, in one line."""
    return f"Your threshold finds {report.n_found} of {report.n_bad} of your bad {taken.plural}."


def outsiders(outliers: Sequence[Outlier], parts: Mapping[str, int], taken: Input) -> str:
    """Which good items somebody should look at."""
    caution = (
        f" {taken.plural.capitalize()} of the fit and statistics parts were learnt from and score lower, so a strange "
        "one among them is harder to see."
        if parts["fit"] and parts["calibration"]
        else ""
    )
    if (parts["statistics"] + parts["calibration"] or parts["fit"]) < _FEW_HELD_OUT:
        caution += f" From so few {taken.plural} this is a rough guess."
    if not outliers:
        return f"**The good folder:** no {taken.singular} in it looks like an outlier among the others.{caution}"
    named = ", ".join(
        f"`{_name(outlier.path)}` ({f'{outlier.part}, ' if parts['calibration'] else ''}score {outlier.score:.3g})"
        for outlier in outliers[:_MOST_NAMED]
    )
    more = f" and {len(outliers) - _MOST_NAMED} more" if len(outliers) > _MOST_NAMED else ""
    return (
        f"**The good folder: look at these:** {named}{more}. Such {taken.plural} score far above the other good "
        "ones. If one shows a defect, take it out and train again: it may have raised the threshold, or taught the "
        f"model the defect.{caution}"
    )


def raised(threshold: Threshold, raised_from: float, taken: Input) -> str:
    """That one of the outsiders is what the threshold rests on."""
    return (
        f"**The threshold rests on one of these:** {threshold.value:.4g} is the score of a good {taken.singular} "
        f"that looks like an outlier; without such {taken.plural} it would be {raised_from:.4g}. "
        "Everything in between is missed. If it shows no good part, take it out and train again; if it does, more "
        "good parts for calibration (`edged calibrate`) steady the threshold."
    )


def precision_on_a_line(report: Report, false_positive_rate: float) -> float:
    """Share of flagged parts that are bad, where one part in a hundred is bad."""
    hits, alarms = report.recall * _EXAMPLE_RATE, false_positive_rate * (1 - _EXAMPLE_RATE)
    return hits / (hits + alarms)


def percent(share: float) -> str:
    """0.0298 -> "3.0 %"; two digits, but whole above 10 and nothing rounded to 100 % or 0 %."""
    value = 100 * share
    if value in (0, 100) or 10 <= value < 99.5:
        return f"{value:.0f} %"
    if value > 10:
        return f"{min(value, 99.9):.1f} %"
    if value < _LEAST_PERCENT:
        return f"less than {_LEAST_PERCENT} %"
    text = f"{value:.2g}"
    return f"{text if 'e' not in text else f'{value:.5f}'} %"


def _name(path: str) -> str:
    # Backticks would end the code span; what a terminal could act upon is gone too.
    return "".join(char if char.isprintable() and char not in "`<>" else "?" for char in Path(path).name)

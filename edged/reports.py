"""Text for people and programs: results as table, JSON or CSV, a bundle in words, a configuration as TOML."""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

import numpy as np

from edged.journal.labels import CSV_COLUMNS, Label, csv_row
from edged.journal.reading import DeadLetter
from edged.models import bundle as bundles
from edged.models.rates import choices, told_apart
from edged.models.scorer import Scorer
from edged.results import COLUMNS, Record, csv_line, printable, rfc3339

_METHODS: Final = {
    "cross": "out of fold (cross-conformal)",
    "split": "that nothing was fitted on (split conformal)",
}
_CARD: Final = "card.md"
_ROW: Final = "{:24}  {:26}  {:12}  {:11}  {:>9}  {:>9}  {:>8}  {:>7}  {}\n"


def lines(
    records: Iterable[Record],
    output: Literal["table", "json", "csv"],
    labels: Mapping[str, Label] | None = None,
    where: Callable[[Record], str] = lambda _: "",
) -> Iterator[str]:
    """Records as lines, ends included; nothing at all where there are none.

    Args:
        records: in their order.
        output: how.
        labels: what people said of results, by their ids: `json` has it where somebody did, `csv` has columns for it,
            which are empty where nobody did; None has no such columns.
        where: says in a table where a record's file is now, if that is to be said.
    """
    if output == "json":
        return (_json(record, (labels or {}).get(record.id)) for record in records)
    return _csv(records, labels) if output == "csv" else _table(records, where)


def dead_letters(letters: Iterable[DeadLetter], output: Literal["table", "json", "csv"]) -> Iterator[str]:
    """Records that sinks refused, as lines: when, which sink, why, and the record; in a table its id alone."""
    for number, letter in enumerate(letters):
        about = {"sink": letter.sink, "refused_at": rfc3339(letter.refused_at), "error": letter.error}
        if output == "json":
            yield json.dumps({**about, "record": json.loads(letter.record)}, ensure_ascii=True) + "\n"
        elif output == "csv":
            yield (csv_line((*about, "record")) if number == 0 else "") + csv_line((*about.values(), letter.record))
        else:
            id_ = json.loads(letter.record)["id"]
            yield "  ".join(printable(value) for value in (about["refused_at"], letter.sink, id_, letter.error)) + "\n"


def about_bundle(scorer: Scorer) -> Iterator[str]:
    """What a loaded bundle is, file by file; its golden check has passed, or it would not be loaded."""
    bundle, manifest = scorer.bundle, scorer.bundle.manifest
    yield f"{manifest.name}: {manifest.kind} on {manifest.backbone}, {manifest.precision}"
    yield f"made: {manifest.created:%Y-%m-%d %H:%M} UTC"
    yield f"input: {manifest.input.description}"
    for name in sorted(manifest.files):
        yield f"file: {name}, {len(bundle.read(name))} bytes, intact"
    threshold = scorer.threshold
    in_groups = f" in {bundle.calibration.groups} groups" if bundle.calibration.groups else ""
    yield (
        f"calibration: {threshold.n} good {manifest.input.plural}{in_groups} {_METHODS[bundle.calibration.method]}"
        + (f", {threshold.confirmed} of them confirmed false alarms" if threshold.confirmed else "")
        + f", {bundle.calibration.created:%Y-%m-%d}; threshold "
        f"{threshold.value:.4f} at a false-positive rate of {threshold.target_fpr:g}"
        + ("" if threshold.promised else f" (not promised: it takes {threshold.needed})")
    )
    yield from _rates(scorer)
    drift = manifest.drift_reference
    if len(drift.quantiles) == len(drift.score) == len(drift.brightness) > 1:
        yield (
            f"good {manifest.input.plural} at export: scores {drift.score[0]:.4f} to {drift.score[-1]:.4f}, brightness "
            f"{drift.brightness[0]:.3f} to {drift.brightness[-1]:.3f} ({drift.quantiles[0]:.0%} to "
            f"{drift.quantiles[-1]:.0%} of them)"
        )
    if _CARD in manifest.files:
        if bundle.calibration.created == manifest.created:
            yield f"card: {_CARD} and its pictures describe this calibration, which was made at export"
        else:
            yield (
                f"card: {_CARD} and its pictures describe the calibration of the export, not this one; its threshold "
                "and rates no longer hold"
            )
    golden = scorer.golden
    yield (
        f"golden check: passed on {scorer.session.provider}: {golden.n} {manifest.input.plural}; "
        f"the largest difference from torch is {golden.worst:.1%} of what is allowed"
    )
    image = bundle.golden().image[:1]
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        scorer.scores(image)
        seconds.append(time.perf_counter() - began)
    yield f"speed: {np.median(seconds) * 1000:.1f} ms a {manifest.input.singular}, one at a time"
    for what, licence in sorted(manifest.licences.items()):
        yield f"licence: {what}: {printable(licence)}"
    yield f"sha256 of {bundles.MODEL}: {bundle.model_sha256}"


def _rates(scorer: Scorer) -> Iterator[str]:
    """What other target rates would give, by the calibration in force."""
    bad, plural = scorer.bundle.manifest.bad_scores, scorer.bundle.manifest.input.plural
    made = choices(scorer.calibration, bad, scorer.bundle.calibration.target_fpr)
    for choice in made:
        found = "" if choice.found is None else f"; finds {choice.found} of {len(bad)} bad {plural}"
        yield (
            f"{choice.line}: threshold {choice.threshold.value:.4f}, {choice.flagged} of {choice.threshold.n} good "
            f"above it ({choice.within.low:.1%} to {choice.within.high:.1%}){found}"
            f"{' (in force)' if choice.in_force else ''}"
        )
    yield from told_apart(made, plural)


def toml(tables: Mapping[str, Any]) -> str:
    """A validated configuration as TOML: tables of scalars and lists, one level of named tables, arrays of tables."""
    out = []
    for name, table in tables.items():
        if isinstance(table, list):
            out += [_toml_table(f"[[{name}]]", item) for item in table]
        elif table and all(isinstance(value, dict) for value in table.values()):
            out += [_toml_table(f"[{name}.{key}]", item) for key, item in table.items()]
        else:
            out.append(_toml_table(f"[{name}]", table))
    return "\n".join(out)


def _toml_table(header: str, table: Mapping[str, Any]) -> str:
    # JSON's strings, numbers and lists are TOML's as well, but for DEL, and for the pairs that escape what is beyond
    # the basic plane.
    values = {key: json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") for key, value in table.items()}
    return header + "\n" + "".join(f"{key} = {value}\n" for key, value in values.items())


def _table(records: Iterable[Record], where: Callable[[Record], str]) -> Iterator[str]:
    first = True
    for record in records:
        if first:
            yield _ROW.format("SCORED AT", "ID", "SOURCE", "VERDICT", "SCORE", "THRESHOLD", "RATIO", "P", "PATH")
            first = False
        verdict = "quarantined" if record.error is not None else "ANOMALY" if record.is_anomaly else "ok"
        if record.event is not None:
            verdict = "EVENT" if record.event.state == "closed" else "EVENT open"
        numbers = ["" if value is None else f"{value:.4f}" for value in (record.score, record.threshold)]
        numbers.append("" if record.score_ratio is None else f"{record.score_ratio:.2f}")
        numbers.append("" if record.p_value is None else f"{record.p_value:.4f}")
        what = printable(record.path) + (f"  ({record.reason}: {printable(record.error)})" if record.error else "")
        what += f"  ({printable(now)})" if (now := where(record)) else ""
        yield _ROW.format(rfc3339(record.scored_at), record.id, record.source[:12], verdict, *numbers, what)


def _json(record: Record, label: Label | None) -> str:
    if label is None:
        return record.to_json() + "\n"
    return json.dumps({**record.to_dict(), "label": label.to_dict()}, ensure_ascii=True, allow_nan=False) + "\n"


def _csv(records: Iterable[Record], labels: Mapping[str, Label] | None) -> Iterator[str]:
    columns = COLUMNS if labels is None else CSV_COLUMNS
    first = True
    for record in records:
        if first:
            yield csv_line(columns)
            first = False
        yield csv_line(csv_row(record, (labels or {}).get(record.id))[: len(columns)])

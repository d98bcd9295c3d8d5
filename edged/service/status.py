"""How a running daemon is, for its API and its page: read when somebody asks, never on the way of a picture."""

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from edged import __version__
from edged.errors import JournalError
from edged.journal.journal import Journal
from edged.models.registry import Models
from edged.models.scorer import Scorer
from edged.service.health import of_source
from edged.service.metrics import Metrics, SourceObserver
from edged.settings import SourceTable
from edged.web.status import ModelStatus, SinkStatus, SourceStatus, Status

_RATE_S = 60.0


@dataclass(frozen=True, slots=True)
class Running:
    """What runs at a moment.

    Attributes:
        sources: of the configuration in force.
        models: that are loaded.
        sinks: names of the sinks of records.
        started_at: seconds since 1970.
        drifting: sources whose pictures are no longer as those of training, in words.
        frames: of each source that is a stream, how many were scored in the last minute.
    """

    sources: Sequence[SourceTable]
    models: Models
    sinks: Sequence[str]
    started_at: float
    drifting: Sequence[str]
    frames: Mapping[str, int]


def report(
    running: Running, problems: Mapping[str, str], journal: Journal, metrics: Metrics, observer: SourceObserver
) -> Status:
    """The status.

    Args:
        running: what runs.
        problems: why pictures are not taken and scored, by where; empty when they are.
        journal: for rates and backlogs.
        metrics: for counts and queues.
        observer: for sources that are down.
    """
    sources = _sources(running, journal, metrics, observer)
    down = [name for name in sorted(observer.down.copy()) if of_source(name) not in problems]  # those are told
    return Status(
        version=__version__,
        started_at=datetime.fromtimestamp(running.started_at, UTC),
        now=datetime.now(UTC),
        healthy=not problems,
        problems=list(problems.values()),
        warnings=[*_warnings(running, journal, metrics, down), *running.drifting],
        models=[_model(name, scorer, metrics) for name, scorer in running.models.by_name.items()],
        sources=sources,
        sinks=[SinkStatus(name=name, waiting=_backlog(journal, name)) for name in running.sinks],
    )


def _warnings(running: Running, journal: Journal, metrics: Metrics, down: Sequence[str]) -> list[str]:
    """What a person should look at though pictures are scored."""
    found = [f"source {name} cannot be read" for name in down]
    found += reload_refused(metrics)
    for name, scorer in running.models.by_name.items():
        if scorer.session.fell_back:
            found.append(f"model {name}: {scorer.session.fell_back}")
        if scorer.threshold.shortfall:
            found.append(f"model {name}: {scorer.threshold.shortfall}")
    found += [
        f"model {sample.labels['model']}: its self-test has not come through"
        for sample in _samples(metrics.self_test_ok)
        if sample.value == 0
    ]
    if count := len(journal.set_aside()):
        found.append(f"damaged journals that were set aside: {count}; results may be lost")
    return found


def reload_refused(metrics: Metrics) -> list[str]:
    """That the last reload was refused; nothing where it was not."""
    if any(sample.value == 0 for sample in _samples(metrics.config_reload_success)):
        return ["the last reload was refused; the configuration before it is in force"]
    return []


def _model(name: str, scorer: Scorer, metrics: Metrics) -> ModelStatus:
    tested = {sample.labels["model"]: bool(sample.value) for sample in _samples(metrics.self_test_ok)}
    return ModelStatus(
        name=name,
        kind=scorer.bundle.manifest.kind,
        provider=scorer.session.provider,
        precision=scorer.bundle.manifest.precision,
        sha256=scorer.bundle.model_sha256,
        threshold=scorer.threshold.value,
        target_fpr=scorer.threshold.target_fpr,
        calibrated_at=scorer.bundle.calibration.created,
        calibration_pictures=scorer.threshold.n,
        fell_back=scorer.session.fell_back is not None,
        self_test_ok=tested.get(name),
    )


def _sources(running: Running, journal: Journal, metrics: Metrics, observer: SourceObserver) -> list[SourceStatus]:
    queue, age, last = (
        _by_source(family)
        for family in (metrics.queue_items, metrics.queue_oldest_age_seconds, metrics.last_result_timestamp_seconds)
    )
    counts = {
        (sample.labels["source"], sample.labels["outcome"]): int(sample.value) for sample in _samples(metrics.images)
    }
    states = {
        sample.labels["source"]: sample.labels["state"]
        for sample in _samples(metrics.source_state)
        if sample.value == 1
    }
    recent = {**_recent(journal), **running.frames}
    return [
        SourceStatus(
            name=table.name,
            type=table.type,
            model=table.model,
            denoiser=table.denoiser,
            up=table.name not in observer.down.copy(),
            state=states.get(table.name),
            queue_items=int(queue.get(table.name, 0)),
            queue_oldest_age_seconds=round(age.get(table.name, 0.0), 1),
            last_minute=recent.get(table.name, 0),
            ok=counts.get((table.name, "ok"), 0),
            anomaly=counts.get((table.name, "anomaly"), 0),
            quarantined=counts.get((table.name, "quarantined"), 0),
            last_result_at=datetime.fromtimestamp(when, UTC) if (when := last.get(table.name, 0.0)) else None,
        )
        for table in running.sources
    ]


def _recent(journal: Journal) -> dict[str, int]:
    query = "SELECT source, count(*) FROM results WHERE scored_at >= ? GROUP BY source"
    try:
        return dict(journal.fetch(query, (time.time() - _RATE_S,)))
    except JournalError:
        return {}


def _backlog(journal: Journal, sink: str) -> int | None:
    try:
        return journal.backlog(sink)
    except JournalError:
        return None


def _samples(family: Any) -> list[Any]:
    """The samples of a metric, those that are numbers."""
    found = [sample for metric in family.collect() for sample in metric.samples]
    return [sample for sample in found if not math.isnan(sample.value) and not sample.name.endswith("_created")]


def _by_source(family: Any) -> Mapping[str, float]:
    return {sample.labels["source"]: sample.value for sample in _samples(family)}

"""Statuses of daemons that are not there."""

from collections.abc import Mapping
from datetime import UTC, datetime

from edged.models.scorer import Scorer
from edged.web.status import ModelStatus, Status

NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)


def status_of(scorers: Mapping[str, Scorer]) -> Status:
    """Of one that is well, with these models."""
    return Status(
        version="1",
        started_at=NOW,
        now=NOW,
        healthy=True,
        problems=[],
        warnings=[],
        models=[_model(name, scorer) for name, scorer in scorers.items()],
        sources=[],
        sinks=[],
    )


def _model(name: str, scorer: Scorer) -> ModelStatus:
    return ModelStatus(
        name=name,
        kind=scorer.bundle.manifest.kind,
        provider="CPUExecutionProvider",
        precision="fp32",
        sha256=scorer.bundle.model_sha256,
        threshold=scorer.threshold.value,
        target_fpr=scorer.threshold.target_fpr,
        calibrated_at=NOW,
        calibration_pictures=scorer.threshold.n,
        fell_back=False,
    )

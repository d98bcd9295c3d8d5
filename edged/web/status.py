"""What a running daemon says of itself: the answer of /api/v1/status, and what the page shows."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field


class Part(BaseModel):
    """What an answer is made of."""

    model_config = ConfigDict(frozen=True)


class ModelStatus(Part):
    """A loaded model."""

    name: str
    kind: str
    provider: str = Field(description="What ONNX Runtime really runs it on.")
    precision: str
    sha256: str = Field(description="Of model.onnx.")
    threshold: float = Field(description="An anomaly is a score above this.")
    target_fpr: float | None = Field(description="The false-positive rate asked for; null for a threshold of your own.")
    calibrated_at: datetime
    calibration_pictures: int
    fell_back: bool = Field(description='Whether device = "auto" found CUDA and had to run on the CPU.')
    self_test_ok: bool | None = Field(
        None,
        description="Whether its last self-test came through; null without self_test_seconds, and before the first.",
    )


class SourceStatus(Part):
    """A source."""

    name: str
    type: str
    model: str
    denoiser: str | None
    up: bool = Field(description="Whether it can be read.")
    state: str | None = Field(
        None, description="Of a camera: connecting, live, stalled, frozen or backoff; null of any other source."
    )
    queue_items: int = Field(description="Pictures that are known to wait or are in flight.")
    queue_oldest_age_seconds: float
    last_minute: int = Field(description="Results of the last minute; of a stream, frames.")
    ok: int = Field(description="Since the start.")
    anomaly: int = Field(description="Since the start.")
    quarantined: int = Field(description="Since the start.")
    last_result_at: datetime | None = Field(description="Since the start.")


class SinkStatus(Part):
    """A sink of records."""

    name: str
    waiting: int | None = Field(description="Results that it has not been given; null while that cannot be read.")


class Status(Part):
    """The whole."""

    version: str
    started_at: datetime
    now: datetime
    healthy: bool = Field(description="Whether pictures are taken and scored: as /readyz.")
    problems: list[str] = Field(description="Why not, in words.")
    warnings: list[str] = Field(description="What else a person should look at, in words.")
    models: list[ModelStatus]
    sources: list[SourceStatus]
    sinks: list[SinkStatus]

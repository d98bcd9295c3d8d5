"""What flows through edged: frames in, results out, and a result as the row, line and object that people read."""

import csv
import io
import json
import os
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from edged.errors import PictureError

OK: Final = "ok"
QUARANTINED: Final = "quarantined"

_PARTS: Final = 1 << 16  # of a millisecond, in an id
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


@dataclass(frozen=True, slots=True)
class Shot:
    """One picture of an event's.

    Attributes:
        seconds: on the clock of its stream.
        pixels: uint8 (h, w, C), at the model's size or smaller.
        ratio: its score over the threshold.
        is_anomaly: whether it is above it.
    """

    seconds: float
    pixels: NDArray[np.uint8]
    ratio: float
    is_anomaly: bool


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture, ready for the model.

    Attributes:
        source: name of the source.
        frame_id: unique, and the id of its result.
        captured_at: seconds since 1970, UTC.
        pixels: uint8 (H, W, C) at the model's size, or float32 (C, T) of a signal.
        name: of its file, for people; "" where there is none.
        shots: of an event whose peak it is: pictures before, in and after it.
        started: of such an event, seconds on the clock of its stream.
    """

    source: str
    frame_id: str
    captured_at: float
    pixels: NDArray[Any]
    name: str = ""
    shots: tuple[Shot, ...] = ()
    started: float = 0.0


@dataclass(frozen=True, slots=True)
class Result:
    """What a detector says of one frame.

    Attributes:
        frame_id: the frame's.
        source: the frame's.
        score: above 0; larger is worse.
        threshold: an anomaly is score > threshold.
        p_value: share of calibration pictures as bad as this one, above 0 to 1.
        is_anomaly: whether score > threshold.
        anomaly_map: float32 (h, w); 1.0 is the level that good pictures exceed at about one pixel in a thousand.
        model: name of the model.
        timings: milliseconds by stage.
        cleaned: uint8 (H, W, C), what the denoiser made of the frame and was scored; None without one.
        ignored: bool (h, w), where the map does not count; None where all of it does.
        coloured_from: level of the map at which a heat map's colour begins.
    """

    frame_id: str
    source: str
    score: float
    threshold: float
    p_value: float
    is_anomaly: bool
    anomaly_map: NDArray[np.float32]
    model: str
    timings: dict[str, float]
    cleaned: NDArray[np.uint8] | None = None
    ignored: NDArray[np.bool_] | None = None
    coloured_from: float = 1.0


@dataclass(frozen=True, slots=True)
class Event:
    """What the record of an event says beside what every record says: many frames of a stream that were anomalous.

    Times are seconds since 1970, UTC; the record's `score` is that of the peak.

    Attributes:
        state: "open" while it lasts.
        started_at: of the first frame above the threshold.
        peak_at: of the frame with the highest score.
        ended_at: of the last frame that was not below the lower level; so far, while it is open.
        frames: scored from its start to its end.
        offset_s: of its start from the beginning of the file, in seconds; None of a live stream.
    """

    state: Literal["open", "closed"]
    started_at: float
    peak_at: float
    ended_at: float
    frames: int
    offset_s: float | None


@dataclass(frozen=True, slots=True)
class Record:
    """One arrival, or event, and what became of it: a row of the journal, a line of JSON, an object of the API.

    Times are seconds since 1970, UTC. `path` is absolute, as `os.fsdecode` gives it. A quarantined record has a
    `reason` and an `error`, and no score, threshold, p_value or is_anomaly.
    """

    id: str
    source: str
    path: str
    sha256: str | None
    captured_at: float
    scored_at: float
    model: str
    model_sha256: str
    device: str
    score: float | None
    threshold: float | None
    p_value: float | None
    is_anomaly: bool | None
    status: str
    reason: str | None
    error: str | None
    timings_ms: dict[str, float]
    calibration_sha256: str | None = None
    """Of the calibration.json that gave the threshold; None in results of an edged that did not note it."""
    event: Event | None = None
    """Of an event only."""

    @property
    def delivery_key(self) -> str:
        """What tells a receiver that it has this already: the id, and of an event its state, for it comes twice."""
        return self.id if self.event is None else f"{self.id}-{self.event.state}"

    @property
    def score_ratio(self) -> float | None:
        """Score over threshold, above 1 for an anomaly; None where there is none of either."""
        return None if self.score is None or not self.threshold else round(self.score / self.threshold, 4)

    def to_dict(self) -> dict[str, Any]:
        """The contract's keys, times in RFC 3339."""
        return {
            "id": self.id,
            "source": self.source,
            "path": self.path,
            "sha256": self.sha256,
            "captured_at": rfc3339(self.captured_at),
            "scored_at": rfc3339(self.scored_at),
            "model": self.model,
            "model_sha256": self.model_sha256,
            "device": self.device,
            "score": self.score,
            "threshold": self.threshold,
            "p_value": self.p_value,
            "is_anomaly": self.is_anomaly,
            "status": self.status,
            "reason": self.reason,
            "error": self.error,
            "timings_ms": self.timings_ms,
            "calibration_sha256": self.calibration_sha256,
            "score_ratio": self.score_ratio,
            **({} if self.event is None else self._about_event(self.event)),
        }

    def _about_event(self, event: Event) -> dict[str, Any]:
        return {
            "kind": "event",
            "state": event.state,
            "started_at": rfc3339(event.started_at),
            "peak_at": rfc3339(event.peak_at),
            "ended_at": rfc3339(event.ended_at),
            "peak_score": self.score,
            "frames": event.frames,
            "offset_s": event.offset_s,
        }

    def to_json(self, **more: bool) -> str:
        """One line of ASCII; bytes of a path that are not UTF-8 come back from it by `os.fsencode`.

        Args:
            more: keys of those who print it, behind the contract's.
        """
        return json.dumps({**self.to_dict(), **more}, ensure_ascii=True, allow_nan=False, separators=(", ", ": "))


COLUMNS: Final = (*(name for name in Record.__dataclass_fields__ if name != "event"), "score_ratio")
"""The keys that every `Record.to_dict` has, in its order: the header of a CSV."""


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """What a record says of the model that made it, and of the calibration in force."""

    name: str
    sha256: str
    device: str
    calibration_sha256: str


def make_record(
    result: Result | PictureError,
    *,
    id_: str,
    source: str,
    path: str,
    sha256: str | None,
    captured_at: float,
    model: ModelIdentity,
    decode_seconds: float,
) -> Record:
    """The record of one picture, scored now, or not scorable for the reason that the error holds."""
    scored = result if isinstance(result, Result) else None
    error = result if isinstance(result, PictureError) else None
    return Record(
        id=id_,
        source=source,
        path=path,
        sha256=sha256,
        captured_at=captured_at,
        scored_at=time.time(),
        model=model.name,
        model_sha256=model.sha256,
        device=model.device,
        score=scored.score if scored else None,
        threshold=scored.threshold if scored else None,
        p_value=scored.p_value if scored else None,
        is_anomaly=scored.is_anomaly if scored else None,
        status=QUARANTINED if error else OK,
        reason=error.reason if error else None,
        error=str(error) if error else None,
        timings_ms={"decode": round(decode_seconds * 1000, 3), **(scored.timings if scored else {})},
        calibration_sha256=model.calibration_sha256,
    )


def new_id() -> str:
    """A unique id in the order of the clock: 12 hexadecimal digits of milliseconds, 4 of their parts, 10 random."""
    parts = time.time_ns() * _PARTS // 1_000_000
    return f"{parts:016x}{secrets.token_hex(5)}"


def time_of(id_: str) -> float:
    """When `new_id` gave an id, seconds since 1970."""
    return int(id_[:12], 16) / 1000


def rfc3339(seconds: float) -> str:
    """Seconds since 1970 as `2026-11-22T14:00:00.123Z`; out of range is held at the years 1 and 9999."""
    milliseconds = min(max(round(seconds * 1000), -62_135_596_800_000), 253_402_300_799_999)
    whole = datetime.fromtimestamp(milliseconds // 1000, UTC)
    return f"{whole:%Y-%m-%dT%H:%M:%S}.{milliseconds % 1000:03d}Z".rjust(24, "0")


def printable(text: str) -> str:
    """`text` with everything that a terminal or a log could act upon escaped: control, format, undecodable."""
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def display_path(path: bytes | str) -> str:
    """A file's name for people."""
    return printable(os.fsdecode(path))


def short_name(path: str) -> str:
    """What a picture is called where there is little room: the file's name; a topic, whose levels all matter, whole."""
    return path.rpartition("/")[2] if path.startswith("/") or "://" in path else path


def csv_line(values: Iterable[Any]) -> str:
    """Values as one line of CSV (RFC 4180), its end included; text is escaped, and is no formula to a spreadsheet."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\r\n").writerow([_cell(value) for value in values])
    return buffer.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return json.dumps(value)
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")

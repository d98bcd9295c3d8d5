"""The alertmanager sink: anomalies, and pictures that could not be scored, as alerts of a Prometheus Alertmanager.

For boxes without Prometheus; see https://prometheus.io/docs/alerting/latest/alerts_api/ for the API v2.
"""

import json
import platform
import time
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import Field

from edged.results import Record, printable, rfc3339
from edged.sinks.contract import SinkType
from edged.sinks.one_by_one import one_by_one
from edged.sinks.posting import Poster, PostingTable

_OPEN_S: Final = 86_400.0
"""How long the alert of an event stays that is not said to have closed."""
_OURS: Final = frozenset({"alertname", "instance", "source", "model", "reason"})
_LONGEST: Final = 1000
_API: Final = "/api/v2/alerts"


class AlertmanagerTable(PostingTable):
    """Raises alerts at an Alertmanager."""

    type: Literal["alertmanager"]
    resolve_seconds: float = Field(default=300, ge=1, le=86_400)
    labels: dict[
        Annotated[str, Field(pattern=r"^[a-zA-Z_][a-zA-Z0-9_]*$", max_length=100)],
        Annotated[str, Field(min_length=1, max_length=200)],
    ] = Field(default={}, max_length=20)

    def problems(self) -> list[str]:
        """Whether the URL can be one, and labels of its own are not those that edged gives."""
        taken = sorted(_OURS & self.labels.keys())
        return PostingTable.problems(self) + [f"labels.{name}: is given by edged; choose another" for name in taken]


class AlertmanagerSink:
    """Raises an alert for every record that tells of something, and leaves it to its end to resolve.

    Labels are of the source and the model, and never of one result: what comes while the alert is there prolongs it.
    """

    def __init__(self, table: AlertmanagerTable) -> None:
        self.name, self._resolve_s = table.name, table.resolve_seconds
        self._labels = {**table.labels, "instance": platform.node()}
        self._poster = Poster(table.url.rstrip("/") + _API, table.origin)
        self.close = self._poster.close

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Sends as many as go within the time; of good pictures there is nothing to send.

        Raises:
            SinkError: the Alertmanager cannot be reached, or cannot take the first of them now.
            RecordRefusedError: it does not take such an alert.
        """
        return one_by_one(records, timeout_s, self._send)

    def _send(self, record: Record, timeout_s: float) -> None:
        if record.is_anomaly is not False:
            self._poster.post(json.dumps(self._alerts(record)).encode("ascii"), {}, timeout_s)

    def _alerts(self, record: Record) -> list[dict[str, Any]]:
        """As the API wants them, to be taken in order. One ends so long after it was sent: it may have waited here."""
        now = time.time()
        alert = self._about(record)
        began = min(now, record.scored_at if record.event is None else record.event.started_at)
        if record.event is None:
            return [alert | _lasting(began, now + self._resolve_s)]
        if record.event.state == "open":
            return [alert | _lasting(began, now + _OPEN_S)]
        # Of two ends that are to come the later one holds: the alert of the open event has to be over before a new one.
        return [alert | _lasting(began, now), alert | _lasting(now, now + self._resolve_s)]

    def _about(self, record: Record) -> dict[str, Any]:
        labels = self._labels | {"source": record.source, "model": record.model}
        about = {"id": record.id, "path": printable(record.path)[:_LONGEST]}
        if record.is_anomaly:
            what = "an anomaly" if record.event is None else "an event"
            labels |= {"alertname": "EdgedAnomaly"}
            about |= {
                "summary": f"{record.source}: {what}, score {record.score:.4g} above {record.threshold:.4g}",
                "score": f"{record.score:.6g}",
                "threshold": f"{record.threshold:.6g}",
            }
        else:
            labels |= {"alertname": "EdgedNotScored", "reason": record.reason or ""}
            about |= {
                "summary": f"{record.source}: a picture could not be scored, {record.reason}",
                "error": printable(record.error or "")[:_LONGEST],
            }
        return {"labels": labels, "annotations": about}


def _lasting(starts_at: float, ends_at: float) -> dict[str, str]:
    return {"startsAt": rfc3339(starts_at), "endsAt": rfc3339(ends_at)}


TYPE: Final = SinkType(AlertmanagerTable, lambda table, _: AlertmanagerSink(table))

"""The alertmanager sink on a real Alertmanager."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from edged.errors import SinkError
from edged.results import Event, Record
from edged.sinks.alertmanager import AlertmanagerSink, AlertmanagerTable
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, quarantined, record, until
from tests.edged.sinks.alerting import Alertmanager

LONG = 250


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    one = Alertmanager(tmp_path / "alertmanager")
    yield one
    one.close()


def table(url: str, **keys: Any) -> AlertmanagerTable:
    return AlertmanagerTable.model_validate({"name": "shift", "type": "alertmanager", "url": url, **keys})


def publish(alertmanager: Alertmanager, *records: Record, **keys: Any) -> None:
    sink = AlertmanagerSink(table(alertmanager.where + "/", **keys))
    assert sink.publish(records, LONG) == len(records)
    sink.close()


def anomaly(**changes: Any) -> Record:
    return record(**{"is_anomaly": True, "score": 2.5, **changes})


def test_an_alert_fires_is_prolonged_and_resolves(alertmanager: Alertmanager) -> None:
    first, last = anomaly(scored_at=time.time() - 3600), anomaly(score=3.0, path="/in/\n.png")  # it waited an hour
    publish(alertmanager, first, resolve_seconds=10, labels={"severity": "page"})
    until(lambda: alertmanager.told, "the shift to be told", LONG)
    publish(alertmanager, record(), last, resolve_seconds=10, labels={"severity": "page"})
    (alert,) = alertmanager.alerts()
    assert (
        alert["labels"].items()
        > {
            "alertname": "EdgedAnomaly",
            "source": "line1",
            "model": "tiny",
            "severity": "page",
        }.items()
    )
    assert alert["annotations"] == {
        "id": last.id,
        "path": "/in/\\n.png",
        "summary": "line1: an anomaly, score 3 above 0.5",
        "score": "3",
        "threshold": "0.5",
    }
    until(lambda: alertmanager.told[-1]["status"] == "resolved", "it to resolve", LONG)
    assert [alert["status"] for alert in alertmanager.told] == ["firing", "resolved"]
    assert alertmanager.alerts() == []


def test_labels_are_bounded(alertmanager: Alertmanager) -> None:
    records = [anomaly(source=f"line{number % 2}", path=f"/in/{number}.png", score=number) for number in range(1, 41)]
    records += [quarantined(path=f"/in/{number}.png", error=f"broken at {number}") for number in range(10)]
    publish(alertmanager, *records, quarantined(reason="unreadable"))
    found = {
        (one["labels"]["alertname"], one["labels"]["source"], one["labels"].get("reason"))
        for one in alertmanager.alerts()
    }
    assert found == {
        ("EdgedAnomaly", "line0", None),
        ("EdgedAnomaly", "line1", None),
        ("EdgedNotScored", "line1", "undecodable"),
        ("EdgedNotScored", "line1", "unreadable"),
    }
    assert len(alertmanager.alerts()) == 4


def test_an_event_fires_as_long_as_it_lasts(alertmanager: Alertmanager) -> None:
    def event(state: str) -> Record:
        return anomaly(id="1", event=Event(state, time.time(), 2.0, 3.0, 9, None))  # type: ignore[arg-type]

    publish(alertmanager, event("open"), resolve_seconds=1)
    (alert,) = alertmanager.alerts()
    ends = alert["endsAt"]
    assert "an event" in alert["annotations"]["summary"]
    publish(alertmanager, event("closed"), resolve_seconds=300)
    (alert,) = alertmanager.alerts()
    assert alert["endsAt"] < ends
    assert alert["status"]["state"] == "active"
    publish(alertmanager, event("open"), event("closed"), resolve_seconds=1)
    until(lambda: alertmanager.alerts() == [], "it to resolve", LONG)


def test_one_that_is_down_is_named(alertmanager: Alertmanager) -> None:
    alertmanager.end()
    sink = AlertmanagerSink(table(alertmanager.where))
    with pytest.raises(SinkError, match=f"{alertmanager.where} cannot be reached"):
        sink.publish([anomaly()], 30.0)
    assert sink.publish([record()], 30.0) == 1  # of which there is nothing to send
    sink.close()


def test_what_is_wrong_with_its_keys() -> None:
    assert table("http://127.0.0.1:9093").problems() == []
    assert table("127.0.0.1:9093").problems()[0].startswith("url: cannot be used")
    assert table("http://h/", labels={"source": "x"}).problems() == ["labels.source: is given by edged; choose another"]
    for labels in ({"a b": "x"}, {"a": ""}, {f"l{number}": "x" for number in range(21)}):
        with pytest.raises(ValidationError):
            table("http://h/", labels=labels)


def test_in_a_daemon_while_it_was_down_and_of_what_is_asked_for(site: Site, alertmanager: Alertmanager) -> None:
    sinks = {
        "all": "",
        "chosen": 'only = "anomalies"',
        "strict": "min_score = 5.0",
        "slow": 'only = "anomalies"\nrate_limit = 1',
    }
    site.configure(
        rest="".join(
            f"""
[[sinks]]
name = "{name}"
type = "alertmanager"
url = "{alertmanager.where}"
labels = {{ sink = "{name}" }}
{keys}
"""
            for name, keys in sinks.items()
        )
    )
    alertmanager.end()
    site.start()
    for number in range(4):
        drop(site.inbox / f"{number}.png", bad(number) if number else good())
        site.wait_for_rows(number + 1, LONG)
    drop(site.inbox / "broken.png", b"nothing")
    rows = site.wait_for_rows(5, LONG)
    until(lambda: site.metrics()['edged_sink_failures_total{sink="all"}'] >= 2, "failures", LONG)
    alertmanager.begin_again()
    until(lambda: site.metrics()['edged_outbox_items{sink="all"}'] == 0, "all to arrive", LONG)
    until(lambda: site.metrics()['edged_outbox_items{sink="chosen"}'] == 0, "the chosen to arrive", LONG)
    until(lambda: site.metrics()['edged_outbox_items{sink="slow"}'] == 3, "one to go at the slow rate", LONG)
    found = {
        (alert["labels"]["sink"], alert["labels"]["alertname"]): alert["annotations"]["id"]
        for alert in alertmanager.alerts()
    }
    assert found == {
        ("all", "EdgedAnomaly"): rows[3].id,
        ("all", "EdgedNotScored"): rows[4].id,
        ("chosen", "EdgedAnomaly"): rows[3].id,
        ("slow", "EdgedAnomaly"): rows[1].id,
    }
    assert site.metrics()['edged_outbox_items{sink="strict"}'] == 0
    assert site.stop() == 0

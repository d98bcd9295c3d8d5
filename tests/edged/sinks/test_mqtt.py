"""The mqtt sink against a real Mosquitto that is killed, hangs and forbids."""

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import pytest

from edged.errors import RecordRefusedError, SinkError
from edged.sinks.mqtt import MqttSink, MqttSinkTable
from tests.edged.brokers import Broker, Listener
from tests.edged.daemons import Site
from tests.edged.making import drop, good, quarantined, record, until


def table(broker: Broker, **keys: Any) -> MqttSinkTable:
    return MqttSinkTable(name="out", type="mqtt", **{"url": broker.url, **keys})


@pytest.fixture
def listener(broker: Broker) -> Iterator[Listener]:
    one = Listener(broker, "edged/#", "homeassistant/#")
    yield one
    one.close()


def statuses(listener: Listener) -> list[bool]:
    return [json.loads(payload)["online"] for payload in listener.payloads("edged/$status")]


def test_a_result_is_a_retained_message(broker: Broker, listener: Listener) -> None:
    sink, one = MqttSink(table(broker)), record()
    assert sink.publish([one], 10.0) == 1
    until(lambda: listener.payloads("edged/line1") == [one.to_json().encode()], "the message")
    late = Listener(broker, "edged/line1", client_id="late")
    until(lambda: late.messages, "the message that was retained")
    assert late.messages[0].retain
    late.close()
    sink.close()


def test_birth_and_death(broker: Broker, listener: Listener) -> None:
    sink = MqttSink(table(broker))
    until(lambda: statuses(listener) == [True], "the birth, before there is any result")
    sink.close()
    until(lambda: statuses(listener) == [True, False], "the death")
    births = [json.loads(payload) for payload in listener.payloads("edged/$status")]
    assert births[0]["timestamp"] == births[1]["timestamp"]


def test_a_death_by_kill_is_told_by_the_broker(site: Site, broker: Broker, listener: Listener) -> None:
    site.configure(rest=f'[[sinks]]\nname = "out"\ntype = "mqtt"\nurl = "{broker.url}"')
    site.start()
    until(lambda: statuses(listener) == [True], "the birth")
    site.kill()
    until(lambda: statuses(listener) == [True, False], "the death")
    site.start()
    until(lambda: statuses(listener)[-1], "the next birth")
    assert site.stop() == 0
    until(lambda: statuses(listener) == [True, False, True, False], "the next death")


def test_home_assistant_is_told_of_every_source(broker: Broker, listener: Listener) -> None:
    sink = MqttSink(table(broker, discovery="homeassistant"))
    assert sink.publish([record(), record(source="line2"), record()], 10.0) == 3
    sink.close()
    until(lambda: len([one for one in listener.messages if one.topic.endswith("/config")]) == 4, "what it is told")
    (payload,) = listener.payloads("homeassistant/binary_sensor/edged/line2_anomaly/config")
    told = json.loads(payload)
    assert told["state_topic"] == "edged/line2"
    assert told["availability_topic"] == "edged/$status"

    def verdict(text: str) -> str:
        return (
            jinja2.Environment(autoescape=False).from_string(told["value_template"]).render(value_json=json.loads(text))
        )

    assert verdict(record(is_anomaly=True).to_json()) == "ON"
    assert verdict(record().to_json()) == "OFF"
    assert verdict(quarantined().to_json()) == "None"
    assert verdict('{"is_anomaly": true, "state": "open"}') == "ON"
    assert verdict('{"is_anomaly": true, "state": "closed"}') == "OFF"
    online = jinja2.Environment(autoescape=False).from_string(told["availability_template"])
    assert [online.render(value_json={"online": value}) for value in (True, False)] == ["online", "offline"]


def test_a_broker_that_hangs_is_given_its_time_and_no_more(broker: Broker, listener: Listener) -> None:
    sink, records = MqttSink(table(broker)), [record() for _ in range(40)]
    assert sink.publish(records[:1], 10.0) == 1
    broker.send_signal(signal.SIGSTOP)
    for _ in range(2):
        began = time.monotonic()
        with pytest.raises(SinkError, match="has not acknowledged a message in time"):
            sink.publish(records[1:], 1.0)
        assert 0.8 < time.monotonic() - began < 5
    broker.send_signal(signal.SIGCONT)
    left = records[1:]
    while left:
        left = left[sink.publish(left, 10.0) :]
    sink.close()
    until(lambda: len(listener.payloads("edged/line1")) >= 40, "all of them")
    assert [json.loads(payload)["id"] for payload in listener.payloads("edged/line1")] == [one.id for one in records]


def test_a_broker_that_takes_and_drops_every_connection_is_not_told_ever_more() -> None:
    births = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)
        sink = MqttSink(MqttSinkTable(name="out", type="mqtt", url=f"mqtt://127.0.0.1:{server.getsockname()[1]}"))
        for _ in range(3):
            connection, _ = server.accept()
            with connection:
                assert b"edged/$status" in connection.recv(10_000)  # CONNECT, with the will
                connection.sendall(b"\x20\x03\0\0\0")
                connection.settimeout(1.0)
                heard = b""
                with contextlib.suppress(TimeoutError):
                    while data := connection.recv(10_000):
                        heard += data
                births.append(heard.count(b"edged/$status"))
    sink.close()
    assert births == [1, 1, 1]


def test_what_is_not_allowed_is_told(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic read edged/#\ntopic write edged/$status\n")
    one = Broker(tmp_path, f"allow_anonymous true\nacl_file {rules}")
    sink = MqttSink(table(one))
    with pytest.raises(SinkError, match="refuses a message: Not authorized") as caught:
        sink.publish([record()], 10.0)
    assert not isinstance(caught.value, RecordRefusedError)
    sink.close()
    one.close()


def test_every_record_arrives_in_order_whatever_broker_and_daemon_do(site: Site, broker: Broker) -> None:
    listener = Listener(broker, "edged/line1")
    site.configure(rest=f'[[sinks]]\nname = "out"\ntype = "mqtt"\nurl = "{broker.url}"\ntimeout_seconds = 2.0')
    site.start()
    for number in range(60):
        drop(site.inbox / f"{number}.png", good(number))
        if number in {10, 40}:
            site.wait_for_rows(number + 1)
            site.kill()
            site.start()
        if number == 20:
            broker.end()
        if number == 50:
            site.wait_for_rows(51)
            broker.start()
    rows = site.wait_for_rows(60)
    site.wait_for_lines(60)

    def arrived() -> list[str]:
        return list(dict.fromkeys(json.loads(payload)["id"] for payload in listener.payloads("edged/line1")))

    until(lambda: len(arrived()) == 60, "all of them", 240)
    assert arrived() == [row.id for row in rows]
    broker.send_signal(signal.SIGSTOP)
    drop(site.inbox / "60.png", good(60))
    site.wait_for_rows(61)
    began = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - began < 15
    broker.send_signal(signal.SIGCONT)
    listener.close()


@pytest.mark.parametrize("topic", ["a/+", "a/#", "$SYS/a", "a/", ""])
def test_topics_that_cannot_be_published_to(broker: Broker, topic: str) -> None:
    (problem,) = table(broker, topic=topic).problems()
    assert problem.startswith("topic: ")

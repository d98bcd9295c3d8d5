"""Pictures by a real Mosquitto to a real daemon, either of which is killed."""

import hashlib
import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pytest
from paho.mqtt.client import CallbackAPIVersion, Client

from edged.sources.mqtt import MqttSourceTable
from tests.edged.brokers import Broker
from tests.edged.daemons import Site
from tests.edged.making import bad, good, until

SOURCE = '[[sources]]\nname = "cell"\ntype = "mqtt"\nurl = "{url}"\ntopic = "cell/+"\nmodel = "tiny"\n{more}\n{rest}'


def configure(site: Site, broker: Broker, *, more: str = "", rest: str = "", url: str = "") -> None:
    site.configure(rest=SOURCE.format(url=url or broker.url, more=more, rest=rest))


def start(site: Site) -> None:
    """Starts the daemon, and waits until it listens."""
    site.start()
    until(lambda: site.metrics()['edged_source_up{source="cell"}'] == 1, "the source to be up")


def digests(pictures: list[bytes]) -> Counter[str | None]:
    return Counter(hashlib.sha256(data).hexdigest() for data in pictures)


def test_every_message_is_a_result(site: Site, broker: Broker) -> None:
    configure(site, broker, rest="[limits]\nmax_bytes = 3000")
    start(site)
    broker.publish("cell/left", good(), b"", b"no picture", b"x" * 9000, os.urandom(2000), bad())
    broker.publish("cell/right", good())  # the same to the byte, and another picture
    broker.publish("elsewhere", good())
    broker.publish("cell/left", good(1), qos=0)
    rows = sorted(site.wait_for_rows(8), key=lambda row: row.id)
    assert [row.reason for row in rows] == [
        *(None, "empty", "undecodable", "file_too_large", "undecodable", None),
        *(None, None),
    ]
    assert [row.path for row in rows] == ["cell/left"] * 6 + ["cell/right", "cell/left"]
    assert [row.is_anomaly for row in rows if row.reason is None] == [False, True, False, False]
    assert site.metrics()['edged_queue_items{source="cell"}'] == 0
    assert site.stop() == 0


def test_what_is_retained_is_passed_over(site: Site, broker: Broker) -> None:
    broker.publish("cell/left", good(), retain=True)
    configure(site, broker)
    start(site)
    until(lambda: site.said("a retained message is passed over"), "the message")
    broker.publish("cell/left", good(1), retain=True)  # this one is new
    (row,) = site.wait_for_rows(1)
    assert row.sha256 == hashlib.sha256(good(1)).hexdigest()
    assert site.stop() == 0


def test_a_thousand_pictures_are_a_thousand_results_whoever_is_killed(site: Site, broker: Broker) -> None:
    chance, pictures = random.Random(1), [good(number) for number in range(997)]
    pictures += [good(1)] * 3  # pictures may be the same
    configure(site, broker)
    start(site)
    thread = threading.Thread(target=broker.publish, args=("cell/a", *pictures))
    thread.start()
    for round_ in range(10):
        before = len(site.rows())
        wanted = before + chance.randint(1, 30)
        until(lambda: len(site.rows()) >= wanted or before == 1000, "results", 120)  # noqa: B023
        if round_ % 3 == 2:
            site.stop()
        else:
            site.kill()
        site.start()
    thread.join()
    site.wait_for_rows(1000, 240)
    assert site.stop() == 0
    assert Counter(row.sha256 for row in site.rows()) == digests(pictures)


@pytest.mark.parametrize("point", ["opened", "committing", "committed", "told"])
def test_what_was_in_flight_comes_again_and_what_has_its_result_is_recognised(
    site: Site, broker: Broker, point: str
) -> None:
    pictures = [good(number) for number in range(12)]
    configure(site, broker)
    start(site)
    assert site.stop() == 0
    broker.publish("cell/a", *pictures)
    for _ in range(3):
        site.start(wait=False, environment={"EDGED_FAILPOINT": f"{point}:2"})
        assert site.process is not None
        assert site.process.wait(120) == -signal.SIGKILL
        if len(site.rows()) > 6:
            break
    site.process = None
    start(site)
    broker.publish("cell/a", good(99))  # comes after those
    site.wait_for_rows(13)
    assert site.stop() == 0
    assert Counter(row.sha256 for row in site.rows()) == digests([*pictures, good(99)])


def test_a_broker_that_is_killed_sends_again_and_nothing_is_doubled(site: Site, broker: Broker) -> None:
    pictures = [good(number) for number in range(300)]
    configure(site, broker)
    start(site)
    broker.publish("cell/a", *pictures[:200])
    for wanted in (20, 60, 110):
        until(lambda: len(site.rows()) >= wanted, "results")  # noqa: B023
        broker.end()
        assert site.process is not None
        until(lambda: site.metrics()['edged_source_up{source="cell"}'] == 0, "the source to be down")
        broker.start()
        until(lambda: site.metrics()['edged_source_up{source="cell"}'] == 1, "the source to be up")
    broker.publish("cell/a", *pictures[200:])
    site.wait_for_rows(300)
    assert Counter(row.sha256 for row in site.rows()) == digests(pictures)
    assert "Traceback" not in site.log.read_text()
    assert site.stop() == 0


def test_a_broker_that_hangs_is_left(site: Site, broker: Broker) -> None:
    configure(site, broker)
    start(site)
    broker.send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - began < 15
    broker.send_signal(signal.SIGCONT)


def test_a_topic_that_changes_is_left(site: Site, broker: Broker) -> None:
    configure(site, broker)
    start(site)
    site.config.write_text(site.config.read_text().replace("cell/+", "other/#"))
    assert site.process is not None
    site.process.send_signal(signal.SIGHUP)
    until(lambda: site.said("reloaded"), "the reload")
    until(lambda: site.metrics()['edged_source_up{source="cell"}'] == 1, "the source to be up")
    broker.publish("cell/a", good(1))
    broker.publish("other/a", good(2))
    (row,) = site.wait_for_rows(1)
    assert row.path == "other/a"
    assert site.stop() == 0


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[Broker]:
    """One that speaks TLS, and lets in who knows the password and has a certificate."""
    pki = tmp_path / "pki"
    pki.mkdir()
    openssl(
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/CN=ca",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
        at=pki,
    )
    for name in ("broker", "edged"):
        openssl(
            "req",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            "csr",
            at=pki,
        )
        (pki / "ext").write_text("subjectAltName = IP:127.0.0.1\n")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext", "-out", f"{name}.pem")
        openssl("x509", "-req", "-in", "csr", "-days", "1", *signing, at=pki)
    words = tmp_path / "words"
    subprocess.run(["mosquitto_passwd", "-b", "-c", words, "edged", "one long word"], check=True, capture_output=True)
    words.chmod(0o644)
    one = Broker(
        tmp_path,
        f"cafile {pki}/ca.pem\ncertfile {pki}/broker.pem\nkeyfile {pki}/broker.key\nrequire_certificate true\n"
        f"password_file {words}\nallow_anonymous false",
    )
    (tmp_path / "word").write_text("one long word\n")
    yield one
    one.close()


def openssl(*arguments: str, at: Path) -> None:
    subprocess.run(["openssl", *arguments], cwd=at, check=True, capture_output=True)


def test_tls_and_passwords(site: Site, guarded: Broker) -> None:
    pki, url = site.root / "pki", f"mqtts://127.0.0.1:{guarded.port}"
    keys = f'tls_ca = "{pki}/ca.pem"\ntls_cert = "{pki}/edged.pem"\ntls_key = "{pki}/edged.key"\nuser = "edged"\n'
    keys += f'password_file = "{site.root}/word"'
    sink = f'[[sinks]]\nname = "out"\ntype = "mqtt"\nurl = "{url}"\ntopic = "out"\n{keys}'
    configure(site, guarded, url=url, more=keys, rest=sink)
    start(site)
    heard: SimpleQueue[bytes] = SimpleQueue()
    client = Client(CallbackAPIVersion.VERSION2)
    client.tls_set(f"{pki}/ca.pem", f"{pki}/edged.pem", f"{pki}/edged.key")
    client.username_pw_set("edged", "one long word")
    client.on_message = lambda _client, _data, message: heard.put(message.payload)
    client.on_connect = lambda *_: client.subscribe("out/cell", 1)
    client.on_subscribe = lambda *_: client.publish("cell/a", good(), qos=1)
    client.connect("127.0.0.1", guarded.port)
    client.loop_start()
    assert json.loads(heard.get(timeout=60))["status"] == "ok"
    client.disconnect()
    client.loop_stop()
    assert site.stop() == 0
    (site.root / "word").write_text("another\n")
    site.start()
    until(lambda: site.said("source cell failed"), "the refusal")
    assert "refuses the connection: Not authorized" in site.said("source cell failed")[0]["error"]
    assert "one long word" not in site.log.read_text()
    assert site.stop() == 0


def problems(**keys: Any) -> list[str]:
    table = {"name": "cell", "type": "mqtt", "url": "mqtt://host", "topic": "cell/#", "model": "tiny", **keys}
    return MqttSourceTable.model_validate(table).problems()


def test_keys_that_are_right() -> None:
    assert problems() == []
    assert problems(url="mqtts://[::1]:8884", topic="$share/edged/+/a/#") == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"url": "http://host"}, "url: cannot be used"),
        ({"url": "mqtt://host:99999"}, "url: cannot be used"),
        ({"url": "mqtt://me:word@host"}, "url: must not hold a password"),
        ({"url": "mqtt://host/topic"}, "url: is of a broker"),
        ({"topic": "a/#/b"}, "topic: 'a/#/b' is no filter of topics"),
        ({"topic": "a/b+"}, "topic: 'a/b+' is no filter of topics"),
        ({"topic": ""}, "topic: cannot be used"),
        ({"password_file": "/nowhere/word", "user": "me"}, "password_file: /nowhere/word cannot be read"),
        ({"tls_ca": "/etc/passwd"}, "tls_ca: is for TLS; write url as mqtts://"),
        ({"url": "mqtts://host", "tls_ca": "/nowhere/ca"}, "tls_ca: /nowhere/ca cannot be read"),
        ({"url": "mqtts://host", "tls_cert": "/etc/passwd"}, "tls_cert: tls_cert and tls_key belong together"),
    ],
)
def test_keys_that_are_wrong(keys: dict[str, str], problem: str) -> None:
    (found,) = problems(**keys)
    assert found.startswith(problem)


def test_a_password_takes_a_user(tmp_path: Path) -> None:
    (tmp_path / "word").write_text("word")
    assert problems(password_file=tmp_path / "word") == ["password_file: takes user, whose password it is"]


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "ca").write_text("no certificate")
    (found,) = problems(url="mqtts://host", tls_ca=tmp_path / "ca")
    assert found.startswith(f"tls_ca: {tmp_path}/ca holds no certificate")

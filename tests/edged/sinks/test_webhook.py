"""The webhook sink against a real HTTP server that fails, hangs, answers slowly and is down."""

import hashlib
import hmac
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.errors import RecordRefusedError, SinkError
from edged.sinks.webhook import WebhookSink, WebhookTable
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, record, until
from tests.edged.sinks.receiving import WebhookReceiver


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[WebhookReceiver]:
    one = WebhookReceiver(tmp_path)
    yield one
    one.close()


def table(receiver: WebhookReceiver, **keys: Any) -> WebhookTable:
    return WebhookTable(name="hook", type="webhook", **{**receiver.keys("webhook"), **keys})


@pytest.fixture
def sink(receiver: WebhookReceiver) -> Iterator[WebhookSink]:
    one = WebhookSink(table(receiver))
    yield one
    one.close()


def test_a_request_is_signed_and_can_be_told_from_its_repetition(sink: WebhookSink, receiver: WebhookReceiver) -> None:
    one = record()
    assert sink.publish([one], 10.0) == 1
    ((headers, body),) = receiver.requests
    assert body == one.to_json().encode()
    assert headers["idempotency-key"] == one.id
    assert headers["content-type"] == "application/json"
    signature = hmac.new(b"not to be seen", body, hashlib.sha256).hexdigest()
    assert headers["x-edged-signature"] == f"sha256={signature}"


def test_without_a_secret_there_is_no_signature(receiver: WebhookReceiver) -> None:
    sink = WebhookSink(table(receiver, secret_file=None))
    assert sink.publish([record()], 10.0) == 1
    sink.close()
    assert "x-edged-signature" not in receiver.requests[0][0]


@pytest.mark.parametrize("status", [400, 406, 413, 415, 422])
def test_what_is_wrong_with_a_record_stays(sink: WebhookSink, receiver: WebhookReceiver, status: int) -> None:
    receiver.answer = lambda _: status
    with pytest.raises(RecordRefusedError, match=f"answers {status}: because"):
        sink.publish([record()], 10.0)


@pytest.mark.parametrize("status", [302, 401, 403, 404, 408, 409, 429, 500, 503])
def test_what_is_wrong_with_the_receiver_passes(sink: WebhookSink, receiver: WebhookReceiver, status: int) -> None:
    receiver.answer = lambda _: status
    with pytest.raises(SinkError, match=f"answers {status}") as caught:
        sink.publish([record()], 10.0)
    assert not isinstance(caught.value, RecordRefusedError)
    assert "hidden" not in str(caught.value)


def test_what_was_taken_before_a_failure_is_taken(sink: WebhookSink, receiver: WebhookReceiver) -> None:
    records = [record() for _ in range(5)]
    receiver.answer = lambda number: 422 if number == 3 else 200
    assert sink.publish(records, 10.0) == 3
    receiver.answer = lambda _: 422
    with pytest.raises(RecordRefusedError):
        sink.publish(records[3:], 10.0)
    receiver.answer = lambda _: 200
    assert sink.publish(records[4:], 10.0) == 1
    assert receiver.taken == [one.id for one in [*records[:3], records[4]]]


@pytest.mark.parametrize("how", ["hang", "trickle"])
def test_a_receiver_that_hangs_is_given_its_time_and_no_more(
    sink: WebhookSink, receiver: WebhookReceiver, how: str
) -> None:
    receiver.answer = lambda _: how
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"has not answered within 0\.[45] s"):
        sink.publish([record()], 0.5)
    assert 0.4 < time.monotonic() - began < 5
    receiver.answer = lambda _: 200
    assert sink.publish([record()], 10.0) == 1


def test_no_record_is_begun_that_would_be_cut_off(sink: WebhookSink, receiver: WebhookReceiver) -> None:
    def slowly(_: int) -> int:
        time.sleep(0.3)  # the receiver is what takes its time
        return 200

    receiver.answer = slowly
    records = [record() for _ in range(9)]
    assert 1 <= sink.publish(records, 1.0) <= 2
    assert receiver.taken == [one.id for one in records][: len(receiver.requests)]


@pytest.mark.parametrize(
    "url", ["ftp://host/", "host/path", "http://", "http://host:99999/", "http://h/a b", "http://h/ä"]
)
def test_a_url_that_cannot_be_one(receiver: WebhookReceiver, url: str) -> None:
    (problem,) = table(receiver, url=url).problems()
    assert problem.startswith("url: cannot be used; write it as ")


def test_secrets_are_read_and_not_shown(receiver: WebhookReceiver, tmp_path: Path) -> None:
    assert table(receiver, url="http://me:word@host/").problems()[0].startswith("url: must not hold a password")
    assert table(receiver, secret_file=tmp_path / "none").problems() == [
        f"secret_file: {tmp_path}/none cannot be read as ASCII text: No such file or directory"
    ]
    receiver.secret_file.write_text("\n")
    assert "is empty" in table(receiver).problems()[0]


def test_every_record_arrives_in_order_whatever_the_receiver_and_the_daemon_do(site: Site, tmp_path: Path) -> None:
    receiver = WebhookReceiver(tmp_path)
    try:
        site.configure(
            rest=f"""
[[sinks]]
name = "hook"
type = "webhook"
url = "{receiver.where}/results?key=hidden"
secret_file = "{receiver.secret_file}"
timeout_seconds = 0.5
"""
        )
        receiver.answer = lambda number: {2: 500, 4: "hang", 7: 429}.get(number, 200)
        site.start()
        for number in range(10):
            drop(site.inbox / f"{number}.png", bad(number) if number % 3 == 0 else good(number))
        site.wait_for_rows(10)
        until(lambda: len(receiver.taken) >= 6, "some to arrive")
        site.kill()
        receiver.end()  # and the receiver is down while the daemon starts and scores
        site.start()
        for number in range(10, 20):
            drop(site.inbox / f"{number}.png", good(number))
        rows = site.wait_for_rows(20)
        until(lambda: site.metrics()['edged_sink_failures_total{sink="hook"}'] >= 1, "a failure")
        site.wait_for_lines(20)  # no other sink waits
        receiver.begin_again()
        until(lambda: rows[-1].id in receiver.taken, "the last to arrive")
        assert list(dict.fromkeys(receiver.taken)) == [row.id for row in rows]
        receiver.answer = lambda _: "hang"
        drop(site.inbox / "20.png", good(20))
        site.wait_for_rows(21)
        began = time.monotonic()
        assert site.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 10
        log = site.log.read_text()
        assert "hidden" not in log
        assert "not to be seen" not in log
    finally:
        receiver.close()

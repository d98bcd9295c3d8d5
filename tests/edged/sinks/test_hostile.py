"""Every type of sink at once, with receivers that fail, are down, hang and answer slowly, across a kill and a stop."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edged.results import Record
from edged.sinks import SINKS
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, until
from tests.edged.sinks.receiving import Program, WebhookReceiver
from tests.edged.sinks.test_contract import RECEIVERS, OnDisk, Receiver

LONG = 250
TIMEOUT_S = 2.0
LAST_ALONE = {"alertmanager", "opcua"}
"""Of which only the last result, or the last that told of something, can be seen."""


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[dict[str, Receiver]]:
    made: dict[str, Receiver] = {}
    for name in sorted(set(SINKS) - {"images"}):
        (tmp_path / name).mkdir()
        made[name] = RECEIVERS[name](tmp_path / name)
    # A program that hangs while it is told to, and takes nothing then.
    made["exec"] = Program(tmp_path / "exec", "test -e {folder}/hang && exec sleep 600; cat >> {file}")
    yield made
    for one in made.values():
        one.close()


def table_of(name: str, receiver: Receiver) -> str:
    keys: dict[str, Any] = {"name": name, "type": name, "timeout_seconds": TIMEOUT_S, **receiver.keys(name)}
    return "[[sinks]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())


def failures(site: Site, name: str) -> float:
    return site.metrics()[f'edged_sink_failures_total{{sink="{name}"}}']


def everywhere(site: Site, receivers: dict[str, Receiver], rows: list[Record]) -> None:
    """Waits until everybody has everything, and holds them to it: at least once, in order, and nothing beside."""
    expected = [row.id for row in rows]
    flagged = [row.id for row in rows if row.is_anomaly]
    for name, receiver in receivers.items():
        metric = f'edged_outbox_items{{sink="{name}"}}'
        until(lambda: site.metrics()[metric] == 0, f"{name} to have all", LONG)  # noqa: B023
        ids = receiver.ids()
        if name in LAST_ALONE:
            assert ids[-1] == (flagged if name == "alertmanager" else expected)[-1]
        else:
            assert list(dict.fromkeys(ids)) == expected, name


def test_every_record_at_least_once_in_order_and_the_stop_within_its_time(
    site: Site, receivers: dict[str, Receiver]
) -> None:
    site.configure(rest="".join(table_of(name, receiver) for name, receiver in receivers.items()))
    webhook, program = receivers["webhook"], receivers["exec"]
    assert isinstance(webhook, WebhookReceiver)
    assert isinstance(program, Program)
    on_disk = [one for one in receivers.values() if isinstance(one, OnDisk)]
    hang = program.path.parent / "hang"

    receivers["opcua"].end()
    site.start()
    for name, one in receivers.items():
        if name != "opcua":
            one.end()
    for number in range(5):
        drop(site.inbox / f"{number}.png", bad(number) if number % 2 else good(number))
    site.wait_for_rows(5, LONG)
    for name in receivers:
        until(lambda: failures(site, name), f"{name} to fail", LONG)  # noqa: B023
    assert len(site.wait_for_lines(5)) == 5  # the one that works has them all
    site.kill()

    hang.touch()
    for one in (*on_disk, program):  # edged does not start with a program that cannot be started
        one.begin_again()
    site.start()  # the others are still down
    for number in range(5, 10):
        drop(site.inbox / f"{number}.png", bad(number) if number % 2 else good(number))
    site.wait_for_rows(10, LONG)
    webhook.answer = lambda number: ("hang", "trickle", 503, 200)[number] if number < 4 else 200
    webhook.begin_again()
    until(lambda: len(webhook.requests) >= 3, "the receiver to hang", LONG)
    hang.unlink()
    for name in ("opcua", "alertmanager", "mqtt"):
        receivers[name].begin_again()
    everywhere(site, receivers, site.rows())

    def slowly(_: int) -> int:
        time.sleep(0.5)  # the receiver is what takes its time
        return 200

    webhook.answer = slowly
    hang.touch()
    receivers["alertmanager"].end()
    for one in on_disk:
        one.place.rename(one.place.with_suffix(".kept"))
        one.end()
    for number in range(10, 30):
        drop(site.inbox / f"{number}.png", bad(number) if number % 2 else good(number))
    site.wait_for_rows(30, LONG)
    assert site.stop(signal.SIGTERM) == 0  # which waits a minute: the program hangs for ten, and the rest for ever

    webhook.answer = lambda _: 200
    hang.unlink()
    receivers["alertmanager"].begin_again()
    for one in on_disk:
        one.begin_again()
        one.place.with_suffix(".kept").rename(one.place)
    site.start()
    drop(site.inbox / "30.png", bad(30))
    everywhere(site, receivers, site.wait_for_rows(31, LONG))
    assert site.stop() == 0

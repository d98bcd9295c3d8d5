"""The opcua sink as a PLC sees it, by the library's own client."""

import asyncio
import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from asyncua import ua

from edged.errors import SinkError
from edged.results import Event, Record
from edged.settings import RetentionTable
from edged.sinks.contract import SinkContext
from edged.sinks.opcua import OpcuaSink, OpcuaTable
from edged.sinks.vision_system import TYPES
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, quarantined, record, until
from tests.edged.sinks.plc import PlcReader, certificate_files, connected, gather, node_id, read, values

pytestmark = pytest.mark.xdist_group("opcua")


LONG = 250  # to make a server takes more than a second of a CPU, and tests share theirs
SOURCES = ["line1", "line2", "line3", "line4", "line5", "line6", "LatestResult"]


@pytest.fixture
def plc(tmp_path: Path) -> PlcReader:
    return PlcReader(tmp_path)


def table(plc: PlcReader, **keys: Any) -> OpcuaTable:
    return OpcuaTable.model_validate({"name": "plc", "type": "opcua", "listen": plc.where, **keys})


def make(plc: PlcReader, tmp_path: Path, **keys: Any) -> OpcuaSink:
    return OpcuaSink(table(plc, **keys), SinkContext(tmp_path, RetentionTable(), SOURCES))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpcuaSink, PlcReader]]:
    """One server for the tests that differ in the sources of their records."""
    folder = tmp_path_factory.mktemp("opcua")
    reader = PlcReader(folder)
    one = make(reader, folder)
    assert one._listens.wait(LONG)
    yield one, reader
    one.close()


def publish(sink: OpcuaSink, *records: Record) -> None:
    assert sink.publish(records, LONG) == len(records)


def event(state: str, **changes: Any) -> Record:
    about = Event(state, 1.0, 2.0, 3.0, 9, None)  # type: ignore[arg-type]
    return record(event=about, is_anomaly=True, score=4.0, **changes)


def test_what_is_there_before_the_first_result_and_after_it(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    found = dict(zip(TYPES, read(plc.url, *(f"Results.line1.{name}" for name in TYPES)), strict=True))
    assert found["ResultId"] == found["Score"] == "BadWaitingForInitialData"
    assert found["Source"] == "line1"
    counters = ("ResultState", "ResultEvaluation", "ResultCount", "AnomalyCount", "NotDecidableCount")
    assert [found[name] for name in counters] == [0, 0, 0, 0, 0]

    one = record(is_anomaly=True, score=2.5, threshold=1.25, scored_at=1_700_000_001.5)
    publish(sink, record(), one)
    assert dict(zip(TYPES, read(plc.url, *(f"Results.line1.{name}" for name in TYPES)), strict=True)) == {
        "Source": "line1",
        "CreationTime": datetime(2023, 11, 14, 22, 13, 21, 500_000, UTC),
        "InternalRecipeId": "tiny",
        "IsPartial": False,
        "ResultState": 1,
        "ResultEvaluation": 2,
        "IsAnomaly": True,
        "Score": 2.5,
        "Threshold": 1.25,
        "ResultContent": one.to_json(),
        "ResultCount": 2,
        "AnomalyCount": 1,
        "NotDecidableCount": 0,
        "ResultId": one.id,
    }
    assert read(plc.url, "LatestResult.Source", "LatestResult.ResultId") == ["line1", one.id]
    assert read(plc.url, "Results.LatestResult.ResultId", "Results.LatestResult.ResultCount") == [
        "BadWaitingForInitialData",
        0,
    ]


def test_what_could_not_be_scored_has_no_score_and_is_not_decidable(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    one = quarantined(source="line9")  # a source that a reload has added
    publish(sink, record(source="line2"), one)
    names = ("ResultId", "ResultState", "ResultEvaluation", "IsAnomaly", "Score", "NotDecidableCount", "ResultCount")
    nothing = "BadNoData"
    assert read(plc.url, *(f"Results.line9.{name}" for name in names)) == [one.id, 4, 3, nothing, nothing, 1, 1]
    assert read(plc.url, "LatestResult.Score", "Results.line2.Score") == [nothing, 0.25]


def test_an_event_is_partial_while_it_lasts_and_counts_as_it_closes(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    names = [f"Results.line3.{name}" for name in ("IsPartial", "ResultState", "ResultCount", "AnomalyCount")]
    publish(sink, event("open", id="1", source="line3"))
    assert read(plc.url, *names) == [True, 2, 0, 0]
    publish(sink, event("closed", id="1", source="line3"))
    assert read(plc.url, *names) == [False, 1, 1, 1]


def test_records_that_come_again_are_not_counted_again(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    records = [record(source="line4") for _ in range(5)]
    publish(sink, *records[:3])
    publish(sink, *records)
    assert read(plc.url, "Results.line4.ResultCount", "Results.line4.ResultId") == [5, records[-1].id]


def test_a_subscriber_is_told_of_every_result_in_order(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    records = [record(source="line5", is_anomaly=number % 2 == 0) for number in range(300)]
    told = gather(plc.url, "Results.line5.ResultId", lambda: publish(sink, *records), lambda had: len(had) >= 301)
    assert told[1:] == [one.id for one in records]


def test_what_is_read_in_one_request_is_of_one_result(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    records = [record(source="line6", score=float(number), is_anomaly=number % 2 == 0) for number in range(400)]
    scores = {one.id: one.score for one in records}
    publish(sink, records[0])

    async def look() -> int:
        looks = 0
        async with connected(plc.url) as client:
            given = asyncio.create_task(asyncio.to_thread(publish, sink, *records[1:]))
            while not given.done():
                names = ("ResultId", "Score", "IsAnomaly", "ResultContent")
                id_, score, anomaly, text = await values(client, *(f"Results.line6.{name}" for name in names))
                assert (score, anomaly, json.loads(text)["id"]) == (scores[id_], score % 2 == 0, id_)
                looks += 1
            await given
        return looks

    assert asyncio.run(look()) > 0


def test_nobody_can_change_anything(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    publish(sink, record())

    async def meddle() -> None:
        async with connected(plc.url, user="admin", password="admin") as client:
            pytest.fail(f"a user that is not known got in: {client}")

    async def write() -> None:
        async with connected(plc.url) as client:
            node = client.get_node(node_id("LatestResult.Score"))
            with pytest.raises(ua.UaStatusCodeError):
                await node.write_value(9.0)
            with pytest.raises(ua.UaStatusCodeError):
                await client.nodes.objects.add_object(2, "mine")
            with pytest.raises(ua.UaStatusCodeError):
                await client.delete_nodes([node])

    with pytest.raises((ua.UaError, ua.UaStatusCodeError)):
        asyncio.run(meddle())
    asyncio.run(write())
    assert read(plc.url, "LatestResult.Score") == [0.25]


def test_with_a_certificate_only_the_user_gets_in_and_nothing_is_sent_in_the_clear(
    plc: PlcReader, tmp_path: Path
) -> None:
    files = certificate_files(tmp_path, "server", "urn:box7:edged")
    client_files = certificate_files(tmp_path, "client", "urn:test:plc")
    (tmp_path / "password").write_text("long and random\n")
    keys = {"certificate": files[0], "private_key": files[1], "user": "plc", "password_file": tmp_path / "password"}
    assert table(plc, **keys).problems() == table(plc, **keys, listen="0.0.0.0:4840").problems() == []
    sink = make(plc, tmp_path, **keys)
    try:
        one = record()
        publish(sink, one)
        login = {"user": "plc", "password": "long and random", "files": client_files}
        assert read(plc.url, "LatestResult.ResultId", **login) == [one.id]
        for wrong in ({"password": "another"}, {"user": "admin"}, {"user": None, "password": None}, {"files": ()}):
            with pytest.raises((ua.UaError, ConnectionError)):
                read(plc.url, "LatestResult.ResultId", **{**login, **wrong})
    finally:
        sink.close()


def test_what_is_wrong_with_its_keys(plc: PlcReader, tmp_path: Path) -> None:
    certificate, key = certificate_files(tmp_path, "one", "urn:box7:edged")
    _, other = certificate_files(tmp_path, "two", "urn:box7:edged")
    nameless, its_key = certificate_files(tmp_path, "three", None)
    small, small_key = certificate_files(tmp_path, "four", "urn:box7:edged", bits=1024)
    (tmp_path / "password").write_text("word")
    login = {"user": "plc", "password_file": tmp_path / "password"}
    for keys, what in (
        ({"listen": "plc:4840"}, "listen: 'plc:4840' is no address; write it as \"127.0.0.1:4840\""),
        ({"listen": "127.0.0.1:port"}, "listen: 'port' is no port"),
        (
            {"listen": "0.0.0.0:4840"},
            "listen: 0.0.0.0 can be reached from other machines; set certificate, private_key",
        ),
        ({"certificate": certificate}, "certificate: certificate and private_key belong together"),
        ({"user": "plc"}, "user: user and password_file belong together"),
        (login, "user: a password would be sent as it is; give certificate and private_key too"),
        ({"certificate": certificate, "private_key": other}, "do not belong together; give a certificate and its own"),
        ({"certificate": key, "private_key": key}, "cannot be used"),
        ({"certificate": tmp_path / "none", "private_key": key}, "none: No such file or directory"),
        ({"certificate": nameless, "private_key": its_key}, "names no application"),
        ({"certificate": small, "private_key": small_key}, "is no RSA key of 2048 bits or more"),
    ):
        problems = table(plc, **keys).problems()
        assert any(what in problem for problem in problems), (what, problems)


def test_a_port_that_is_taken_is_named_and_taken_when_it_is_free(plc: PlcReader, tmp_path: Path) -> None:
    plc.end()
    sink = make(plc, tmp_path)
    try:
        with pytest.raises(SinkError, match=rf"{plc.where} cannot be listened on: Address already in use; end what"):
            sink.publish([record()], LONG)
        plc.begin_again()
        assert sink._listens.wait(LONG)  # before there is a result
        publish(sink, one := record())
        assert plc.ids() == [one.id]
    finally:
        sink.close()


def test_clients_that_hang_or_send_nonsense_hold_up_nothing(shared: tuple[OpcuaSink, PlcReader]) -> None:
    sink, plc = shared
    silent = [socket.create_connection(("127.0.0.1", plc.port)) for _ in range(20)]
    for number, one in enumerate(silent):
        one.sendall([b"", b"GET / HTTP/1.1\r\n\r\n", b"HEL", b"HELF" + b"\xff" * 100][number % 4])
    publish(sink, one := record())
    assert plc.ids() == [one.id]
    for each in silent:
        each.close()


def test_who_announces_or_sends_too_much_is_disconnected_before_any_login(
    shared: tuple[OpcuaSink, PlcReader],
) -> None:
    _, plc = shared
    for start in (b"HELF" + (65536).to_bytes(4, "little"), b"MSGF" + (1 << 31).to_bytes(4, "little") + b"\1\0\0\0"):
        with socket.create_connection(("127.0.0.1", plc.port), timeout=LONG) as one:
            began = time.monotonic()
            one.sendall(start)
            assert one.recv(1) == b""
            assert time.monotonic() - began < 20  # one that only never logs in may stay for longer


def test_without_the_library_edged_check_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['asyncua'] = None\n"
        "from importlib.util import find_spec\n"
        "import importlib.util\n"
        "importlib.util.find_spec = lambda name, find=find_spec: None if name == 'asyncua' else find(name)\n"
        "from edged.sinks.opcua import OpcuaTable\n"
        "print(OpcuaTable(name='plc', type='opcua').problems())\n"
    )
    told = subprocess.check_output([sys.executable, "-c", program], text=True)
    assert told.strip() == (
        """['type: needs the package asyncua, which is not installed: pip install "edged[opcua]"']"""
    )


def test_in_a_daemon_across_a_kill_and_the_stop_keeps_its_time(site: Site, plc: PlcReader) -> None:
    site.configure(rest=f'[[sinks]]\nname = "plc"\ntype = "opcua"\nlisten = "{plc.where}"\n')
    site.start()
    until(lambda: site.said("OPC UA is served"), "the server to listen", LONG)
    names = ("Results.line1.ResultCount", "Results.line1.AnomalyCount", "Results.line1.ResultId")
    drop(site.inbox / "1.png", good(1))
    site.wait_for_rows(1)
    drop(site.inbox / "2.png", bad(2))
    rows = site.wait_for_rows(2)
    until(lambda: read(plc.url, *names) == [2, 1, rows[1].id], "both to be shown", LONG)
    assert read(plc.url, "LatestResult.Score") == [rows[1].score]
    site.kill()
    site.start()
    until(lambda: site.said("OPC UA is served"), "the server to listen", LONG)
    drop(site.inbox / "3.png", good(3))
    rows = site.wait_for_rows(3)
    until(lambda: read(plc.url, names[-1]) == [rows[2].id], "the third to be shown", LONG)
    hold, held = threading.Event(), threading.Event()

    def stay() -> None:
        async def connect() -> None:
            async with connected(plc.url):
                held.set()
                await asyncio.to_thread(hold.wait)

        with contextlib.suppress(Exception):  # the server goes away under it
            asyncio.run(connect())

    client = threading.Thread(target=stay)
    client.start()
    assert held.wait(LONG)
    began = time.monotonic()
    try:
        assert site.stop(signal.SIGTERM) == 0
        assert time.monotonic() - began < 20
    finally:
        hold.set()
        client.join()

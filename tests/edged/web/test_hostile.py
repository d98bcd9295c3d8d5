"""Clients that mean harm, against a real daemon: it scores on, stays well, and tells them nothing."""

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.edged.daemons import Site
from tests.edged.making import good, until

PATIENCE_S = 3.0
TOKEN = "a-long-random-word"
KNOWN = f"Authorization: Bearer {TOKEN}\r\n"
HOST = "Host: 127.0.0.1\r\n"


def get(path: str, headers: str = HOST + KNOWN) -> bytes:
    return f"GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode("utf-8", "surrogateescape")


def post(path: str, body: bytes, headers: str = HOST + KNOWN) -> bytes:
    return f"POST {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n".encode() + body


OVERSIZED = {
    "a path of 1 MB": get("/" + "a" * 1_000_000),
    "a query of 60 kB": get("/api/v1/results?source=" + "a" * 60_000),
    "a header of 1 MB": get("/", HOST + KNOWN + f"X: {'a' * 1_000_000}\r\n"),
    "10,000 headers": get("/", HOST + KNOWN + "".join(f"X-{number}: a\r\n" for number in range(10_000))),
    "1,000 cookies": get("/", HOST + "".join(f"Cookie: edged_session_80={number}\r\n" for number in range(1000))),
    "a form of 5 MB": post("/login", b"a" * 5_000_000, HOST + KNOWN + "Content-Length: 5000000\r\n"),
    "a form of no end": post("/login", b"fffff\r\n" + b"a" * 0xFFFFF, HOST + KNOWN + "Transfer-Encoding: chunked\r\n"),
    "a length of 10^30": post("/login", b"a", HOST + KNOWN + "Content-Length: 1" + "0" * 30 + "\r\n"),
}
TRUNCATED = {
    "half a method": b"GE",
    "half a path": b"GET /api/v1/res",
    "half a header": b"GET / HTTP/1.1\r\nHost: 127.0",
    "half a body": post("/login", b"token=", HOST + KNOWN + "Content-Length: 100\r\n"),
    "half a chunk": post("/login", b"10\r\ntoken", HOST + KNOWN + "Transfer-Encoding: chunked\r\n"),
}
MALFORMED = {
    "no request": b"\r\n\r\n\r\n\r\n",
    "bytes": bytes(range(256)) * 8 + b"\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500,
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9.9": b"GET / HTTP/9.9\r\n" + HOST.encode() + b"\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two hosts": get("/", HOST * 2 + KNOWN),
    "a host that is none": get("/", "Host: [::1\r\n" + KNOWN),
    "a host that is none, and no token": get("/", "Host: [::1\r\n"),
    "a port that is none": get("/", "Host: 127.0.0.1:x\r\n"),
    "a port that is too high": get("/", "Host: 127.0.0.1:99999999\r\n"),
    "two lengths": post("/login", b"token=x", HOST + KNOWN + "Content-Length: 7\r\nContent-Length: 3\r\n"),
    "a length and chunks": post(
        "/login", b"0\r\n\r\n", HOST + KNOWN + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
    ),
    "a length below 0": post("/login", b"", HOST + KNOWN + "Content-Length: -1\r\n"),
    "a chunk that is none": post("/login", b"zz\r\nxx\r\n", HOST + KNOWN + "Transfer-Encoding: chunked\r\n"),
    "a folded header": get("/", HOST + KNOWN + "X: a\r\n b\r\n"),
    "NUL in a path": get("/results/%00"),
    "bare NUL in a path": b"GET /\x00 HTTP/1.1\r\n" + HOST.encode() + b"\r\n",
    "a path of other bytes": b"GET /\xff\xfe HTTP/1.1\r\n" + HOST.encode() + b"\r\n",
    "a path that is no UTF-8": get("/results/%ff%fe"),
    "a query that is no UTF-8": get("/api/v1/results?source=%ff&since=%fe"),
    "an address for a path": get("http://127.0.0.1/api/v1/status"),
    "another site for a path": get("http://evil.example/"),
    "CONNECT": b"CONNECT 127.0.0.1:22 HTTP/1.1\r\n" + HOST.encode() + b"\r\n",
    "OPTIONS *": b"OPTIONS * HTTP/1.1\r\n" + HOST.encode() + b"\r\n",
    "TRACE": b"TRACE / HTTP/1.1\r\n" + HOST.encode() + KNOWN.encode() + b"\r\n",
    "DELETE": b"DELETE /api/v1/results HTTP/1.1\r\n" + HOST.encode() + KNOWN.encode() + b"\r\n",
    "an upgrade": get("/events", HOST + KNOWN + "Upgrade: websocket\r\nSec-WebSocket-Key: x\r\n"),
    "an odd accept": get("/metrics", HOST + KNOWN + "Accept: application/openmetrics-text;version=x,;;=\r\n"),
    "an odd language": get("/", HOST + KNOWN + "Accept-Language: ;q=,,-,../..\r\nCookie: edged_language=../../x\r\n"),
    "an odd origin": post("/login", b"token=x", HOST + "Origin: http://[\r\nContent-Length: 7\r\n"),
    "a form of nonsense": post("/login", b"%%%&=&&=%zz;", HOST + KNOWN + "Content-Length: 12\r\n"),
    "a number of 10,000 digits": get("/api/v1/results?limit=" + "9" * 10_000),
    "a threshold of 10,000 digits": get("/api/v1/models/tiny/threshold?value=" + "9" * 10_000),
    "a time of nonsense": get("/api/v1/results?since=9999-99-99T99:99:99Z&until=-1"),
    "times that overflow": get("/api/v1/results?since=0001-01-01T00:00:00%2B23:59&until=9999-12-31T23:59:59-23:59"),
}
UPWARDS = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "..\\", "%252e%252e%252f", "%c0%ae%c0%ae/", "....//")
TRAVERSAL = [
    f"{place}{up * times}{target}"
    for place in (
        "/", "/static/", "/results/", "/models/", "/api/v1/results/", "/api/v1/models/",
        "/api/v1/models/tiny/pictures/", "/api/v1/models/tiny/", "//", "/static//",
    )
    for up in UPWARDS
    for times, target in ((8, "etc/passwd"), (1, "manifest.json"), (2, "access.py"), (3, "token"))
]  # fmt: skip


def send(site: Site, data: bytes) -> bytes:
    """What is answered; nothing where the connection is closed on us."""
    address = urlsplit(site.url)
    with socket.create_connection((str(address.hostname), address.port or 0), timeout=60) as client:
        received = b""
        with contextlib.suppress(ConnectionError):  # it has heard enough; what it said may be here
            client.sendall(data)
        with contextlib.suppress(ConnectionError):
            client.settimeout(PATIENCE_S)
            with contextlib.suppress(TimeoutError):
                while part := client.recv(65536):
                    received += part
                return received
            client.shutdown(socket.SHUT_WR)  # it waits for more
            client.settimeout(60)
            while part := client.recv(65536):
                received += part
        return received


def code(answer: bytes) -> int:
    """The status of an answer; 0 where there is none."""
    return int(answer[9:12]) if answer.startswith(b"HTTP/1.") else 0


@pytest.fixture(params=[True, False], ids=["token", "no token"])
def guarded(site: Site, request: pytest.FixtureRequest) -> Iterator[Site]:
    """A daemon, with a token or without; in the end it is well, and its log tells of no mistake of its own."""
    token = site.root / "token"
    token.write_text(TOKEN)
    site.configure(http=f'token_file = "{token}"' if request.param else "", settle_seconds=0)
    site.start()
    before = resident_bytes(site)
    yield site
    (site.inbox / "after.png").write_bytes(good())
    until(lambda: any(row.path.endswith("after.png") for row in site.rows()), "a result")
    assert site.get("/readyz").text == "ready\n"
    assert resident_bytes(site) - before < 60_000_000
    log = site.log.read_text()
    assert TOKEN not in log
    assert "Traceback" not in log
    assert site.stop() == 0


def resident_bytes(site: Site) -> int:
    return int(Path(f"/proc/{site.pid}/statm").read_text().split()[1]) * 4096


def test_what_is_too_much_cut_off_or_nonsense_is_refused(guarded: Site) -> None:
    for name, data in {**OVERSIZED, **TRUNCATED, **MALFORMED}.items():
        answer = send(guarded, data)
        assert code(answer) < 500, (name, answer[:200])
        assert b"Traceback" not in answer, name
        assert TOKEN.encode() not in answer, name
    for name in ("half a method", "half a body", "bytes", "two lengths", "a length of 10^30", "a form of 5 MB"):
        assert code(send(guarded, {**OVERSIZED, **TRUNCATED, **MALFORMED}[name])) in {0, 400, 403, 413}, name


def test_no_path_leads_out(guarded: Site) -> None:
    for path in TRAVERSAL:
        answer = send(guarded, get(path))
        # "/static/../" and the like may be a place of ours, once a client has resolved it; nothing else is served.
        assert code(answer) in {0, 303, 307, 400, 404}, (path, answer[:200])
        for secret in (b"root:", b"schema_version", b"import ", TOKEN.encode()):
            assert secret not in answer, path


@pytest.mark.parametrize("guarded", [True], indirect=True)
def test_wrong_tokens_open_nothing(guarded: Site) -> None:
    wrong = [
        "", "Bearer", "Bearer ", "Bearer x", f"bearer{TOKEN}", f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x",
        "Bearer \xff",
        f"Bearer  {TOKEN}", f"Basic {TOKEN}", f"Bearer {TOKEN} {TOKEN}", "Bearer " + "x" * 8000, f"Token {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN.upper()}",
    ]  # fmt: skip
    attempts = [f"Authorization: {word}\r\n" for word in wrong]
    attempts += [f"Cookie: edged_session_{port}={TOKEN}\r\n" for port in ("80", "http")]
    attempts += [
        f"X-Forwarded-For: 127.0.0.1\r\nX-Token: {TOKEN}\r\n",
        f"Authorization: x\r\nAuthorization: {TOKEN}\r\n",
    ]
    for attempt in attempts:
        for path in ("/", "/metrics", "/api/v1/status", "/results.csv", "/events", "/models"):
            answer = send(guarded, get(path, HOST + attempt))
            assert code(answer) in {303, 400, 401}, (path, attempt[:60], answer[:100])
            assert b"line1" not in answer, (path, attempt[:60])
    assert code(send(guarded, get("/api/v1/status"))) == 200


@pytest.mark.parametrize("guarded", [True], indirect=True)
def test_it_scores_on_while_they_are_at_it(guarded: Site) -> None:
    address = urlsplit(guarded.url)
    place = (str(address.hostname), address.port or 0)
    silent = [socket.create_connection(place, timeout=60) for _ in range(200)]
    for number, client in enumerate(silent):
        with contextlib.suppress(ConnectionError):  # it was one too many
            client.sendall((b"", b"GET / HTTP/1.1\r\n", b"\x16\x03\x01", get("/metrics"))[number % 4])
    (guarded.inbox / "during.png").write_bytes(good(1))
    until(lambda: any(row.path.endswith("during.png") for row in guarded.rows()), "the result")
    for client in silent:
        client.close()

import asyncio
import contextlib
import select
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from edged.config.tables import HttpTable
from edged.errors import ConfigError
from edged.service.metrics import Metrics
from edged.web.app import make_app
from edged.web.server import Server
from tests.edged.making import until

PATIENCE_S = 1.0


def serve(*, streams: Sequence[Route] = (), patience_s: float = 10.0, **tls: Path) -> Server:
    registry = CollectorRegistry()
    Metrics(registry)
    app = make_app(registry, list)
    app.router.routes.extend(streams)
    server = Server(app, ("127.0.0.1", 0), patience_s=patience_s, **tls)
    server.start()
    return server


@pytest.fixture
def server() -> Iterator[Server]:
    one = serve()
    until(lambda: answers(one.url), "the server")
    yield one
    one.close()


@pytest.fixture
def impatient() -> Iterator[Server]:
    one = serve(patience_s=PATIENCE_S)
    until(lambda: answers(one.url), "the server")
    yield one
    one.close()


def answers(url: str, **options: object) -> bool:
    try:
        return httpx.get(url + "/healthz", timeout=5, **options).status_code == 200  # type: ignore[arg-type]
    except httpx.TransportError:
        return False


def connect(server: Server) -> socket.socket:
    port = int(server.url.rpartition(":")[2])
    return socket.create_connection(("127.0.0.1", port), timeout=40)


def is_closed(client: socket.socket) -> bool:
    """Waits for the server to close a connection."""
    try:
        while client.recv(65536):
            pass
    except ConnectionError:
        return True
    except TimeoutError:
        return False
    return True


def is_served(server: Server, client: socket.socket) -> bool:
    """Whether the server's end of a connection is open, whatever is still on its way to a client that does not read."""
    ends = [f":{int(server.url.rpartition(':')[2]):04X}", f":{client.getsockname()[1]:04X}"]
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    established = [line[1:3] for line in lines if line[3] == "01"]
    return any([end[-5:] for end in line] == ends for line in established)


def test_clients_that_say_nothing_or_not_enough_are_dropped(impatient: Server) -> None:
    silent, half, second = connect(impatient), connect(impatient), connect(impatient)
    half.sendall(b"GET /metrics HTTP/1.1\r\nHost: edged\r\n")
    second.sendall(b"GET /healthz HTTP/1.1\r\nHost: edged\r\n\r\n")
    assert second.recv(12) == b"HTTP/1.1 200"
    second.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
    for name, client in (("silent", silent), ("half a request", half), ("half a second request", second)):
        assert is_closed(client), name
        client.close()
    assert answers(impatient.url)


def test_a_request_that_comes_drop_by_drop_is_not_waited_for(impatient: Server) -> None:
    with connect(impatient) as slow:
        slow.settimeout(PATIENCE_S / 20)
        slow.sendall(b"GET /metrics HTTP/1.1\r\nHost: edged\r\n")

        def is_dropped() -> bool:
            try:
                slow.sendall(b"X: y\r\n")
                return slow.recv(1) == b""
            except TimeoutError:
                return False
            except ConnectionError:
                return True

        until(is_dropped, "the end of it")
    assert answers(impatient.url)


def test_a_client_that_does_not_take_its_answers_is_dropped(impatient: Server) -> None:
    greedy = connect(impatient)
    greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    asked = b"GET /metrics HTTP/1.1\r\nHost: edged\r\n\r\n" * 100
    greedy.settimeout(PATIENCE_S)
    with contextlib.suppress(TimeoutError, ConnectionError):  # nobody reads at either end
        while True:
            greedy.sendall(asked)
    assert answers(impatient.url)
    until(lambda: not is_served(impatient, greedy), "the end of it")
    greedy.close()
    assert answers(impatient.url)


class Stream:
    """A response without end: chunks of `size` bytes, one every `pause_s`."""

    def __init__(self, size: int, pause_s: float) -> None:
        self._chunk, self._pause_s, self.ended = b"x" * size, pause_s, threading.Event()

    @property
    def route(self) -> Route:
        return Route("/stream", lambda _: StreamingResponse(self._chunks(), media_type="text/event-stream"))

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            while True:
                yield self._chunk
                await asyncio.sleep(self._pause_s)
        finally:
            self.ended.set()


def ask(server: Server, path: str, receive_bytes: int = 4096) -> socket.socket:
    until(lambda: answers(server.url), "the server")
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    client.settimeout(30)
    client.connect(("127.0.0.1", int(server.url.rpartition(":")[2])))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: edged\r\n\r\n".encode())
    return client


def test_an_answer_may_last_and_pause() -> None:
    stream = Stream(100, 2.5 * PATIENCE_S)
    server = serve(streams=[stream.route], patience_s=PATIENCE_S)
    with contextlib.closing(server), ask(server, "/stream") as client:
        received = b""
        while received.count(b"x") < 200:
            more = client.recv(4096)
            assert more, "dropped"
            received += more
        assert not stream.ended.is_set()
        began = time.monotonic()
        server.close()  # an open stream keeps no daemon from stopping
        assert time.monotonic() - began < 10
        assert stream.ended.is_set()


def test_a_stream_that_nobody_takes_is_dropped() -> None:
    stream = Stream(1 << 20, 0.001)
    server = serve(streams=[stream.route], patience_s=PATIENCE_S)
    with contextlib.closing(server), ask(server, "/stream") as client:
        until(stream.ended.is_set, "the end of the stream")
        until(lambda: not is_served(server, client), "the end of the connection")
        assert answers(server.url)


def test_a_large_answer_is_given_to_who_takes_it_slowly() -> None:
    size = 24 << 20
    large = Route("/large", lambda _: Response(b"x" * size))
    server = serve(streams=[large], patience_s=2 * PATIENCE_S)
    with contextlib.closing(server), ask(server, "/large", 1 << 16) as client:
        received, began = 0, time.monotonic()
        while received < size:
            more = client.recv(1 << 16)
            assert more, "dropped"
            received += len(more)
            if time.monotonic() - began < 5 * PATIENCE_S:
                time.sleep(0.01)  # slower than the server is, and never for as long as its patience


def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def take(request: Request) -> Response:
        return Response(await request.body())

    server = serve(streams=[Route("/take", take, methods=["POST"])], patience_s=PATIENCE_S)
    until(lambda: answers(server.url), "the server")
    with contextlib.closing(server), connect(server) as client:
        client.sendall(b"POST /take HTTP/1.1\r\nHost: edged\r\nContent-Length: 10\r\n\r\nhalf")
        assert is_closed(client)
        assert answers(server.url)


def test_a_body_may_take_long_but_no_drip() -> None:
    async def take(request: Request) -> Response:
        return Response(str(len(await request.body())))

    server = serve(streams=[Route("/take", take, methods=["POST"])], patience_s=PATIENCE_S)
    until(lambda: answers(server.url), "the server")

    def send(pieces: int, size: int) -> bytes:
        """The first line of the answer to a body of that many pieces, one every fifth of the patience."""
        with connect(server) as client, contextlib.suppress(ConnectionError):
            client.sendall(f"POST /take HTTP/1.1\r\nHost: edged\r\nContent-Length: {pieces * size}\r\n\r\n".encode())
            for _ in range(pieces):
                client.sendall(b"x" * size)
                time.sleep(PATIENCE_S / 5)
            return client.recv(12)
        return b""

    with contextlib.closing(server):
        assert send(20, 2000) == b"HTTP/1.1 200"
        assert send(20, 20) == b""


def test_connections_are_bounded_and_the_place_comes_back(server: Server) -> None:
    crowd = [connect(server) for _ in range(200)]
    # Long before those that say nothing are dropped for that.
    until(lambda: len(select.select(crowd, [], [], 0.1)[0]) >= 200 - 64, "the end of those that are too many", 6)
    for client in crowd:
        client.close()
    until(lambda: answers(server.url), "room for an honest client")


def test_garbage_is_answered_and_harms_nobody(server: Server) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n", b"A" * 200_000):
        with connect(server) as client:
            try:
                client.sendall(garbage + b"\r\n\r\n")
                first = client.recv(12)
            except ConnectionError:
                first = b""
            assert first in {b"", b"HTTP/1.1 400"}
    assert answers(server.url)


def test_a_port_that_is_taken(server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ConfigError, match=rf"http\.listen: 127\.0\.0\.1:{port} cannot be bound"):
        Server(make_app(CollectorRegistry(), list), ("127.0.0.1", port))


def test_it_closes(server: Server) -> None:
    url = server.url
    server.close()
    assert not answers(url)


def test_one_that_was_never_started_closes_too() -> None:
    Server(make_app(CollectorRegistry(), list), ("127.0.0.1", 0)).close()


# TLS.


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("tls")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-days", "2", "-subj", "/CN=test ca")
    openssl("req", "-x509", *new, "-keyout", "other.key", "-out", "other.crt", "-days", "2", "-subj", "/CN=other")
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
    locked = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-passout", "pass:secret")
    openssl("req", "-x509", *locked, "-keyout", "locked.key", "-out", "locked.crt", "-days", "2", "-subj", "/CN=locked")
    for name in ("server", "client"):
        openssl("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial")
        openssl(*sign, "-out", f"{name}.crt", "-days", "2", "-extfile", "names")
    return folder


def test_tls(certificates: Path) -> None:
    server = serve(tls_cert=certificates / "server.crt", tls_key=certificates / "server.key")
    try:
        assert server.url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cafile=certificates / "ca.crt")
        until(lambda: answers(server.url, verify=trusting), "the server")
        silent = connect(server)  # says nothing, not even of TLS: it keeps nobody waiting
        assert answers(server.url, verify=trusting)
        assert not answers(server.url)  # our authority is not one of the system's
        assert not answers(server.url.replace("https", "http"))
        silent.close()
    finally:
        server.close()


def test_garbage_in_place_of_tls_harms_nobody(certificates: Path) -> None:
    server = serve(tls_cert=certificates / "server.crt", tls_key=certificates / "server.key")
    trusting = ssl.create_default_context(cafile=certificates / "ca.crt")
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    with contextlib.closing(server):
        until(lambda: answers(server.url, verify=trusting), "the server")
        for garbage in (
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(range(256)) * 100,
            hello + bytes(501),
            hello + b"\xff" * 60_000,
            b"\x15\x03\x03\x00\x02\x02\x28",
            b"\x80\x2e\x01\x00\x02",
        ):
            with connect(server) as client, contextlib.suppress(ConnectionError):
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                assert b"HTTP" not in client.recv(4096)
            assert answers(server.url, verify=trusting)


def test_tls_with_client_certificates(certificates: Path) -> None:
    server = serve(
        tls_cert=certificates / "server.crt",
        tls_key=certificates / "server.key",
        tls_client_ca=certificates / "ca.crt",
    )
    try:
        known = ssl.create_default_context(cafile=certificates / "ca.crt")
        known.load_cert_chain(certificates / "client.crt", certificates / "client.key")
        until(lambda: answers(server.url, verify=known), "the server")
        assert not answers(server.url, verify=ssl.create_default_context(cafile=certificates / "ca.crt"))
    finally:
        server.close()


def test_certificates_are_read_again_when_they_change(certificates: Path, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("tls_cert", "tls_key", "tls_client_ca")}

    def install(cert: str, key: str, ca: str) -> None:
        for name, source in zip(files, (cert, key, ca), strict=True):
            shutil.copyfile(certificates / source, tmp_path / "new")
            (tmp_path / "new").replace(files[name])

    def with_client(trusted: str) -> ssl.SSLContext:
        known = ssl.create_default_context(cafile=certificates / trusted)
        known.check_hostname = False
        known.load_cert_chain(certificates / "client.crt", certificates / "client.key")
        return known

    install("server.crt", "server.key", "ca.crt")
    server = serve(**files)
    with contextlib.closing(server):
        until(lambda: answers(server.url, verify=with_client("ca.crt")), "the server")
        assert not answers(server.url, verify=with_client("other.crt"))
        shutil.copyfile(certificates / "other.crt", files["tls_cert"])  # and its key is yet to come
        assert answers(server.url, verify=with_client("ca.crt"))
        install("other.crt", "other.key", "ca.crt")
        assert answers(server.url, verify=with_client("other.crt"))
        assert not answers(server.url, verify=with_client("ca.crt"))
        install("other.crt", "other.key", "other.crt")  # an authority that has not signed the client's
        assert not answers(server.url, verify=with_client("other.crt"))
        files["tls_cert"].unlink()
        install("server.crt", "server.key", "ca.crt")
        assert answers(server.url, verify=with_client("ca.crt"))


def test_tls_files_that_do_not_fit(certificates: Path) -> None:
    with pytest.raises(ConfigError, match=r"http\.tls_cert"):
        serve(tls_cert=certificates / "server.crt", tls_key=certificates / "client.key")
    with pytest.raises(ConfigError, match=r"http\.tls_cert"):
        serve(tls_cert=certificates / "names", tls_key=certificates / "server.key")


@pytest.mark.parametrize(
    ("cert", "key", "ca", "problem"),
    [
        ("server.crt", "server.key", "ca.crt", ""),
        ("server.crt", "client.key", None, "http.tls_cert"),
        ("names", "server.key", None, "http.tls_cert"),
        ("locked.crt", "locked.key", None, "http.tls_cert"),  # nobody is there to be asked for a passphrase
        ("server.crt", "server.key", "names", "http.tls_client_ca"),
    ],
)
def test_tls_files_are_tried_before_the_start(
    certificates: Path, cert: str, key: str, ca: str | None, problem: str
) -> None:
    http = HttpTable(
        tls_cert=certificates / cert,
        tls_key=certificates / key,
        tls_client_ca=None if ca is None else certificates / ca,
    )
    assert [found.partition(":")[0] for found in http.problems()] == ([problem] if problem else [])

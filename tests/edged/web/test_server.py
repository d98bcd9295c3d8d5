import select
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from edged.errors import ConfigError
from edged.metrics import Metrics
from edged.web.app import make_app
from edged.web.server import Server
from tests.edged.making import until


def serve(**tls: Path) -> Server:
    registry = CollectorRegistry()
    Metrics(registry)
    server = Server(make_app(registry, list), ("127.0.0.1", 0), **tls)
    server.start()
    return server


@pytest.fixture
def server() -> Iterator[Server]:
    one = serve()
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


def test_clients_that_say_nothing_or_not_enough_are_dropped(server: Server) -> None:
    silent, half, second = connect(server), connect(server), connect(server)
    half.sendall(b"GET /metrics HTTP/1.1\r\nHost: edged\r\n")
    second.sendall(b"GET /healthz HTTP/1.1\r\nHost: edged\r\n\r\n")
    assert second.recv(12) == b"HTTP/1.1 200"
    second.sendall(b"GET /metrics HTTP/1.1\r\nHost: ")
    for name, client in (("silent", silent), ("half a request", half), ("half a second request", second)):
        assert is_closed(client), name
        client.close()
    assert answers(server.url)


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
    (folder / "names").write_text("subjectAltName=IP:127.0.0.1\n")
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


def test_tls_files_that_do_not_fit(certificates: Path) -> None:
    with pytest.raises(ConfigError, match=r"http\.tls_cert"):
        serve(tls_cert=certificates / "server.crt", tls_key=certificates / "client.key")
    with pytest.raises(ConfigError, match=r"http\.tls_cert"):
        serve(tls_cert=certificates / "names", tls_key=certificates / "server.key")

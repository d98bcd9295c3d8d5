"""The opcua sink: an OPC UA server that holds the latest result of every source, for PLCs that read it."""

import asyncio
import contextlib
import hmac
import socket
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog
from pydantic import Field

from edged import __version__
from edged.backoff import Backoff
from edged.errors import ConfigError, SinkError
from edged.results import Record
from edged.settings import AbsolutePath, Login, SinkTable, address_of, missing
from edged.sinks.contract import SinkContext, SinkType
from edged.sinks.vision_system import VisionSystem

if TYPE_CHECKING:
    from asyncua import Server
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa

_PRODUCT: Final = "urn:edged"
_STOP_S: Final = 1.0
_MOST_CLIENTS: Final = 32
_LONGEST_MESSAGE: Final = 1 << 20
_LEAST_KEY_BITS: Final = 2048


class OpcuaTable(SinkTable, Login):
    """Serves the latest results by OPC UA."""

    type: Literal["opcua"]
    listen: str = "127.0.0.1:4840"
    certificate: AbsolutePath | None = None
    private_key: AbsolutePath | None = None
    user: str | None = Field(default=None, min_length=1, max_length=256)

    def listens(self) -> str | None:
        """Where readers connect to."""
        return self.listen

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, port, _ = address_of("listen", self.listen, example=4840)
        return host, port

    def problems(self) -> list[str]:
        """What is wrong with these keys together, and with the files that they name."""
        found = missing("asyncua", "opcua")
        try:
            host, _, loopback = address_of("listen", self.listen, example=4840)
        except ConfigError as error:
            return found + error.problems
        if (self.certificate is None) != (self.private_key is None):
            found.append("certificate: certificate and private_key belong together; give both")
        if (self.user is None) != (self.password_file is None):
            found.append("user: user and password_file belong together; give both")
        if self.user is not None and self.certificate is None:
            found.append("user: a password would be sent as it is; give certificate and private_key too")
        if not loopback and self.user is None:
            found.append(
                f"listen: {host} can be reached from other machines; set certificate, private_key, user and "
                "password_file, or listen on 127.0.0.1"
            )
        try:
            self.password()
        except ConfigError as error:
            found += error.problems
        if found:
            return found
        try:
            _identity(self)
        except ConfigError as error:
            return error.problems
        return []


class OpcuaSink:
    """Listens from the start on, in a thread with a loop of its own, and goes on trying to where it cannot.

    A record was taken when it stands in the server's variables: whether anyone reads it is for the reader to see.
    """

    def __init__(self, table: OpcuaTable, context: SinkContext) -> None:
        self.name, self._table, self._password = table.name, table, table.password()
        self._identity = _identity(table)
        self._vision_system = VisionSystem(context.sources)
        self._log = structlog.get_logger().bind(sink=table.name)
        self._why = ""
        self._loop_runs, self._tried, self._listens = threading.Event(), threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"opcua-{table.name}", daemon=True)
        self._thread.start()
        self._loop_runs.wait()

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Shows one record after the other, as many as go within the time; subscribers are told of each.

        Raises:
            SinkError: the server cannot listen, or takes too long.
        """
        ends = time.monotonic() + timeout_s
        if self._why:  # it is tried again at once
            self._tried.clear()
            self._loop.call_soon_threadsafe(self._nudged.set)
        self._tried.wait(timeout_s)
        if not self._listens.is_set():
            raise SinkError(self._why or f"{self._table.listen} is not listened on after {timeout_s:.1f} s")
        shown = asyncio.run_coroutine_threadsafe(self._vision_system.show(records, ends), self._loop)
        try:
            return shown.result(max(0.0, ends - time.monotonic()))
        except TimeoutError as error:
            shown.cancel()
            raise SinkError(f"the server on {self._table.listen} took longer than {timeout_s:.1f} s") from error

    def close(self) -> None:
        """Ends all connections; what takes too long ends with the process."""
        if self._thread.is_alive():
            with contextlib.suppress(RuntimeError):  # it has ended by itself meanwhile
                self._loop.call_soon_threadsafe(self._closing.set)
                self._loop.call_soon_threadsafe(self._nudged.set)
            self._thread.join(_STOP_S)

    def _run(self) -> None:
        asyncio.run(self._serve())

    async def _serve(self) -> None:
        self._loop, self._closing, self._nudged = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
        self._loop_runs.set()
        backoff = Backoff()
        while not self._closing.is_set():
            self._nudged.clear()
            try:
                await self._listen()
            except Exception as error:  # noqa: BLE001 -- of the library's too; nobody but this loop would begin again
                self._tell(error)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(backoff.pause_s()):
                        await self._nudged.wait()

    async def _listen(self) -> None:
        """Until the sink is closed."""
        _try(*self._table.address)  # to make a server takes seconds of a slow box
        server = await self._make()
        await server.start()
        try:
            self._why = ""
            self._listens.set()
            self._tried.set()
            assert server.bserver is not None
            self._log.info("OPC UA is served", endpoint=_url(self._table.address[0], server.bserver.port))
            await self._closing.wait()
        finally:
            self._listens.clear()
            await server.stop()

    def _tell(self, error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        is_new, where = not self._why, self._table.listen
        self._why = f"{where} cannot be listened on: {reason}; end what listens there, or choose another port in listen"
        self._tried.set()
        if is_new:
            self._log.error("OPC UA cannot be served; it is tried again", error=self._why)

    async def _make(self) -> "Server":
        from asyncua import Server, ua
        from asyncua.common.connection import TransportLimits

        from edged.sinks.opcua_connection import LONGEST_CHUNK, bound

        bound()
        table = self._table
        server = Server(user_manager=_Readers(table.user, self._password))
        server.name, server.product_uri, server.manufacturer_name = "edged", _PRODUCT, "edged"
        server.application_type = ua.ApplicationType.Server
        await server.init()
        await server.set_build_info(_PRODUCT, "edged", "edged", __version__, "", datetime.now(UTC))
        server.set_endpoint(_url(*table.address))
        server.limits = TransportLimits(
            LONGEST_CHUNK, LONGEST_CHUNK, _LONGEST_MESSAGE // LONGEST_CHUNK + 1, _LONGEST_MESSAGE
        )
        server.iserver.max_connections = _MOST_CLIENTS
        server.iserver.allow_remote_admin = False
        server.set_identity_tokens([ua.AnonymousIdentityToken if table.user is None else ua.UserNameIdentityToken])
        if self._identity is None:
            server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        else:
            server.iserver.certificate, server.iserver.private_key, uri = self._identity
            await server.set_application_uri(uri)
            server.set_security_policy(
                [
                    ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt,
                    ua.SecurityPolicyType.Aes128Sha256RsaOaep_SignAndEncrypt,
                    ua.SecurityPolicyType.Aes256Sha256RsaPss_SignAndEncrypt,
                ]
            )
        await self._vision_system.build(server)
        return server


class _Readers:
    """Who may connect: whoever reaches the server, or one user with a password. Nobody may change anything."""

    def __init__(self, user: str | None, password: str | None) -> None:
        self._expected = None if user is None or password is None else (user.encode(), password.encode())

    def get_user(
        self,
        iserver: Any,  # noqa: ARG002 -- the library's interface
        username: str | None = None,
        password: str | None = None,
        certificate: Any = None,  # noqa: ARG002
    ) -> Any:
        """A user of the library's; None for somebody who may not."""
        from asyncua.crypto.permission_rules import User, UserRole

        given = ((username or "").encode(), (password or "").encode())
        if self._expected is not None:
            same = [hmac.compare_digest(one, other) for one, other in zip(self._expected, given, strict=True)]
            if not all(same):
                return None
        return User(role=UserRole.User)


def _identity(table: OpcuaTable) -> "tuple[x509.Certificate, rsa.RSAPrivateKey, str] | None":
    """Certificate, its key, and the application's URI that it names, which clients compare with the server's, if any.

    Raises:
        ConfigError: they cannot be used.
    """
    if (certificate := table.certificate) is None or (private_key := table.private_key) is None:
        return None
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    what = f"{certificate} and {private_key}"
    try:
        found = x509.load_pem_x509_certificate(certificate.read_bytes())
        key = load_pem_private_key(private_key.read_bytes(), password=None)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, TypeError) as error:  # TypeError: the key has a passphrase
        why = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) else str(error)
        raise ConfigError(
            [f"certificate: {what} cannot be used: {why}; give both as PEM, the key without a passphrase"]
        ) from error
    except x509.ExtensionNotFound:
        names = x509.SubjectAlternativeName([])
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if not isinstance(key, rsa.RSAPrivateKey) or key.key_size < _LEAST_KEY_BITS:
        raise ConfigError([f"private_key: {private_key} is no RSA key of {_LEAST_KEY_BITS} bits or more; make one"])
    if key.public_key() != found.public_key():
        raise ConfigError([f"certificate: {what} do not belong together; give a certificate and its own key"])
    if not uris:
        raise ConfigError(
            [f"certificate: {certificate} names no application; make one with subjectAltName=URI:urn:HOST:edged"]
        )
    return found, key, uris[0]


def _try(host: str, port: int) -> None:
    """Raises OSError where it cannot be listened on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind((host, port))
        one.listen()


def _url(host: str, port: int) -> str:
    return f"opc.tcp://[{host}]:{port}/" if ":" in host else f"opc.tcp://{host}:{port}/"


TYPE: Final = SinkType(OpcuaTable, OpcuaSink)

"""uvicorn in a thread of its own, on a socket that is bound before anything else starts."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edged.errors import ConfigError

_MAX_CONNECTIONS: Final = 64
_SILENCE_SECONDS: Final = 10.0


class Server:
    """Serves an application until it is closed."""

    def __init__(
        self,
        app: ASGIApp,
        address: tuple[str, int],
        *,
        tls_cert: Path | None = None,
        tls_key: Path | None = None,
        tls_client_ca: Path | None = None,
    ) -> None:
        """Binds the address.

        Raises:
            ConfigError: the address cannot be bound, or the TLS files cannot be used.
        """
        self._socket = _bind(address)
        config = uvicorn.Config(
            app,
            http=_Protocol,
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
            ssl_certfile=tls_cert,
            ssl_keyfile=tls_key,
            ssl_ca_certs=None if tls_client_ca is None else str(tls_client_ca),
            ssl_cert_reqs=ssl.CERT_NONE if tls_client_ca is None else ssl.CERT_REQUIRED,
        )
        try:
            config.load()
        except (OSError, ssl.SSLError) as error:
            self._socket.close()
            raise ConfigError([f"http.tls_cert: {tls_cert} and its key cannot be used: {error}"]) from error
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http")

    @property
    def url(self) -> str:
        """Where it is to be reached."""
        host, port = self._socket.getsockname()[:2]
        scheme = "https" if self._server.config.is_ssl else "http"
        return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def close(self) -> None:
        """Ends the thread and closes the socket."""
        self._server.should_exit = True
        if self._thread.ident is not None:
            self._thread.join()
        self._socket.close()


class _Protocol(H11Protocol):
    """HTTP/1.1 with an end to patience: who says nothing, takes no answer, or is one too many is dropped."""

    _unanswered: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
            return
        self._expect_request()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._silence.cancel()
        self._expect_request()

    def _expect_request(self) -> None:
        self._silence = asyncio.get_running_loop().call_later(_SILENCE_SECONDS, self._drop_if_silent)

    def _drop_if_silent(self) -> None:
        waits = self.cycle is None or self.cycle.response_complete
        if waits or self.cycle is self._unanswered:
            self.transport.abort()
        else:  # a request that came late has its time from now on
            self._unanswered = self.cycle
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        if hasattr(self, "_silence"):
            self._silence.cancel()
        super().connection_lost(exc)


def _bind(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise ConfigError(
            [f"http.listen: {host}:{port} cannot be bound: {error.strerror}; free it, or choose another"]
        ) from error
    return bound

"""uvicorn in a thread of its own, on a socket that is bound before anything else starts."""

import asyncio
import socket
import ssl
import threading
from pathlib import Path
from typing import Any, Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from edged.errors import ConfigError
from edged.web.certificates import Certificates

_MAX_CONNECTIONS: Final = 64
_PATIENCE_S: Final = 10.0
_LEAST_BYTES_PER_S: Final = 1000
"""Of a body: who sends less of it for as long as the patience lasts holds a place for nothing."""


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
        patience_s: float = _PATIENCE_S,
    ) -> None:
        """Binds the address.

        Args:
            app: what is served.
            address: host and port; port 0 for one that is free.
            tls_cert: the server's certificate; without one there is no TLS. These files are read again as they change.
            tls_key: its key.
            tls_client_ca: who must have signed the certificates of clients.
            patience_s: for a client that says nothing, sends next to nothing of a body, or takes nothing of an answer;
                it is dropped within twice that.

        Raises:
            ConfigError: the address cannot be bound, or the TLS files cannot be used.
        """
        self._socket = _bind(address)
        config = uvicorn.Config(
            app,
            http=type("_PatientProtocol", (_Protocol,), {"patience_s": patience_s}),
            loop="asyncio",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_MAX_CONNECTIONS,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=2,
        )
        config.load()
        try:
            if tls_cert is not None:
                config.ssl = Certificates(tls_cert, tls_key, tls_client_ca).context
        except (OSError, ssl.SSLError) as error:
            self._socket.close()
            raise ConfigError([f"http.tls_cert: {tls_cert} and its key cannot be used: {error}"]) from error
        self._scheme = "http" if tls_cert is None else "https"
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="http")

    @property
    def url(self) -> str:
        """Where it is to be reached."""
        host, port = self._socket.getsockname()[:2]
        return f"{self._scheme}://[{host}]:{port}" if ":" in host else f"{self._scheme}://{host}:{port}"

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
    """HTTP/1.1 with an end to patience: who says nothing, takes nothing of an answer, or is one too many is dropped.

    An answer may last as long as it likes, and may pause: what streams is dropped when its client takes not one byte of
    what waits for it, and never for its age. One whose client has gone without a word is found when it is written to,
    so what streams should say something now and then.
    """

    patience_s: float
    _check: asyncio.TimerHandle | None = None
    _left_bytes: int | None = None
    _received_bytes: int = 0
    _unfinished: tuple[Any, int] | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if len(self.connections) > _MAX_CONNECTIONS:
            transport.abort()
            return
        # Writing pauses while anything waits for the client: what waits then shrinks only by what the client takes.
        transport.set_write_buffer_limits(high=1)  # 0 pauses TLS for good
        self._check_later()

    def data_received(self, data: bytes) -> None:
        self._received_bytes += len(data)
        super().data_received(data)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._check_later()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._left_bytes = None
        self._check_later()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_check()
        super().connection_lost(exc)

    def _check_later(self) -> None:
        self._cancel_check()
        self._check = asyncio.get_running_loop().call_later(self.patience_s, self._drop_if_stuck)

    def _cancel_check(self) -> None:
        if self._check is not None:
            self._check.cancel()

    def _drop_if_stuck(self) -> None:
        if self.flow.write_paused:
            left_bytes, before = self.transport.get_write_buffer_size(), self._left_bytes
            stuck, self._left_bytes = before is not None and left_bytes >= before, left_bytes
        elif self.cycle is None or self.cycle.response_complete:
            stuck = True  # no request came
        else:
            stuck = self._sends_too_little()
        if stuck:
            self.transport.abort()
        else:
            self._check_later()

    def _sends_too_little(self) -> bool:
        """Whether next to nothing has come since the last check of a body that is not whole and that we would take."""
        is_awaited = self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused
        before, self._unfinished = self._unfinished, (self.cycle, self._received_bytes) if is_awaited else None
        if before is None or self._unfinished is None or before[0] is not self.cycle:
            return False  # a body that came late has its time from now on
        return self._received_bytes - before[1] < _LEAST_BYTES_PER_S * self.patience_s


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

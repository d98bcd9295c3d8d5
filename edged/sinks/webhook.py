"""The webhook sink: every result as a POST to an HTTP server."""

import asyncio
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Literal
from urllib.parse import urlsplit

from edged.errors import ConfigError, RecordRefusedError, SinkError
from edged.results import Record, printable
from edged.settings import AbsolutePath, SinkTable, missing, read_secret
from edged.sinks.contract import SinkType
from edged.sinks.one_by_one import one_by_one

if TYPE_CHECKING:
    import httpx

_PASSES: Final = frozenset({401, 403, 404, 405, 407, 408, 409, 410, 421, 423, 425, 429})
"""Of the answers 4xx: these are about the receiver, its load or our rights, and not about the record."""
_REDIRECTS: Final = range(300, 400)
_REFUSALS: Final = range(400, 500)
_ANSWER_BYTES: Final = 1 << 16
_SHOWN: Final = 200


class WebhookTable(SinkTable):
    """Sends every record to an HTTP server, one POST each."""

    type: Literal["webhook"]
    url: str
    secret_file: AbsolutePath | None = None

    @property
    def origin(self) -> str:
        """Scheme, host and port of the URL: what may be shown, for there may be a secret in the rest."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def secret(self) -> bytes | None:
        """The key that signs bodies; None when there is none.

        Raises:
            ConfigError: the file cannot be used.
        """
        return None if self.secret_file is None else read_secret("secret_file", self.secret_file).encode("ascii")

    def problems(self) -> list[str]:
        """Whether the URL can be one, and its secret can be read."""
        found = missing("httpx", "webhook")
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            found.append('url: cannot be used; write it as "https://host/path", other characters than ASCII as %XX')
        elif "@" in parts.netloc:
            found.append("url: must not hold a password, which would be shown; sign with secret_file")
        try:
            self.secret()
        except ConfigError as error:
            found += error.problems
        return found


class WebhookSink:
    """Sends records one after the other, over a connection that is kept.

    A record was taken when the receiver has answered 2xx. The whole exchange is limited in time, so that a receiver
    that answers a byte at a time holds nothing up either.
    """

    def __init__(self, table: WebhookTable) -> None:
        import httpx

        self.name = table.name
        self._url, self._origin, self._secret = table.url, table.origin, table.secret()
        self._runner = asyncio.Runner()
        # The whole exchange has its time. Redirects would take records to where nobody has asked for them.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None), follow_redirects=False, verify=ssl.create_default_context()
        )
        self._closed = False

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Sends as many as go within the time.

        Raises:
            SinkError: the receiver cannot be reached, or cannot take the first of them now.
            RecordRefusedError: it does not want it.
        """
        return one_by_one(records, timeout_s, lambda record, left: self._runner.run(self._send(record, left)))

    def close(self) -> None:
        """Closes the connection."""
        if not self._closed:
            self._closed = True
            self._runner.run(self._client.aclose())
            self._runner.close()

    async def _send(self, record: Record, timeout_s: float) -> None:
        import httpx

        body = record.to_json().encode("ascii")
        posted = self._client.stream("POST", self._url, content=body, headers=self._headers(record, body))
        try:
            async with asyncio.timeout(timeout_s), posted as response:
                said = await _beginning(response)
        except TimeoutError as error:
            raise SinkError(f"{self._origin} has not answered within {timeout_s:.1f} s") from error
        except (httpx.HTTPError, OSError) as error:
            raise SinkError(f"{self._origin} cannot be reached: {error or type(error).__name__}") from error
        status = response.status_code
        if response.is_success:
            return
        text = f"{self._origin} answers {status}" + (f": {printable(said)}" if said else "")
        if status in _REDIRECTS:
            raise SinkError(f"{text}; redirects are not followed: set url to where it leads")
        if status in _REFUSALS and status not in _PASSES:
            raise RecordRefusedError(text)
        raise SinkError(text)

    def _headers(self, record: Record, body: bytes) -> dict[str, str]:
        headers = {"content-type": "application/json", "user-agent": "edged", "idempotency-key": record.delivery_key}
        if self._secret is not None:
            headers["x-edged-signature"] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        return headers


async def _beginning(response: "httpx.Response") -> str:
    """Of what the receiver answers; all is read, so that the connection can be kept, unless it is too much."""
    read = b""
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) > _ANSWER_BYTES:
            break
    return read[:_SHOWN].decode("utf-8", "replace").strip()


TYPE: Final = SinkType(WebhookTable, lambda table, _: WebhookSink(table))

"""One POST at a time to an HTTP server, within its time: what the webhook and the alertmanager sink have in common."""

import asyncio
import ssl
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from edged.errors import RecordRefusedError, SinkError
from edged.results import printable
from edged.settings import SinkTable, missing

if TYPE_CHECKING:
    import httpx

_PASSES: Final = frozenset({401, 403, 404, 405, 407, 408, 409, 410, 421, 423, 425, 429})
"""Of the answers 4xx: these are about the receiver, its load or our rights, and not about the record."""
_REDIRECTS: Final = range(300, 400)
_REFUSALS: Final = range(400, 500)
_ANSWER_BYTES: Final = 1 << 16
_SHOWN: Final = 200


class PostingTable(SinkTable):
    """Posts to an HTTP server."""

    url: str

    @property
    def origin(self) -> str:
        """Scheme, host and port of the URL: what may be shown, for there may be a secret in the rest."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc}"

    def problems(self) -> list[str]:
        """Whether the URL can be one."""
        found = missing("httpx", "webhook")
        try:
            parts = urlsplit(self.url)
            usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            found.append('url: cannot be used; write it as "https://host/path", other characters than ASCII as %XX')
        elif "@" in parts.netloc:
            found.append("url: must not hold a password, which would be shown; take it out")
        return found


class Poster:
    """Posts over a connection that is kept.

    The whole exchange is limited in time, so that a receiver that answers a byte at a time holds nothing up either.
    """

    def __init__(self, url: str, origin: str) -> None:
        """Prepares it; `origin` is what messages say of the URL."""
        import httpx

        self._url, self._origin = url, origin
        self._runner = asyncio.Runner()
        # The whole exchange has its time. Redirects would take records to where nobody has asked for them.
        self._client = httpx.AsyncClient(
            timeout=httpx.Timeout(None), follow_redirects=False, verify=ssl.create_default_context()
        )
        self._closed = False

    def post(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
        """Posts one body of JSON; the receiver has taken it when it answers 2xx.

        Raises:
            SinkError: the receiver cannot be reached, or cannot take it now.
            RecordRefusedError: it does not want it.
        """
        self._runner.run(self._post(body, headers, timeout_s))

    def close(self) -> None:
        """Closes the connection."""
        if not self._closed:
            self._closed = True
            self._runner.run(self._client.aclose())
            self._runner.close()

    async def _post(self, body: bytes, headers: Mapping[str, str], timeout_s: float) -> None:
        import httpx

        headers = {"content-type": "application/json", "user-agent": "edged", **headers}
        posted = self._client.stream("POST", self._url, content=body, headers=headers)
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


async def _beginning(response: "httpx.Response") -> str:
    """Of what the receiver answers; all is read, so that the connection can be kept, unless it is too much."""
    read = b""
    async for chunk in response.aiter_raw():
        read += chunk
        if len(read) > _ANSWER_BYTES:
            break
    return read[:_SHOWN].decode("utf-8", "replace").strip()

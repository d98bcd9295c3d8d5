"""Asks a running daemon for its status and its results, by its API."""

import http.client
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from edged.config.tables import HttpTable
from edged.errors import ConfigError, UnreachableError

_TIMEOUT_S: Final = 10.0
_MOST_BYTES: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Client:
    """What it takes to ask one daemon.

    Attributes:
        url: scheme, host and port.
        token: the bearer token; None without one.
        tls: whom to trust, and the certificate to show; None for http.
    """

    url: str
    token: str | None = None
    tls: ssl.SSLContext | None = None

    def get(self, path: str) -> Any:
        """The JSON at a path.

        Raises:
            UnreachableError: nobody answers, or not with that.
        """
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({}), _NoRedirects()]
        if self.tls is not None:
            handlers.append(urllib.request.HTTPSHandler(context=self.tls))
        request = urllib.request.Request(self.url + path, headers=headers)  # noqa: S310 -- `client` has seen the scheme
        try:
            with urllib.request.build_opener(*handlers).open(request, timeout=_TIMEOUT_S) as answer:
                return json.loads(answer.read(_MOST_BYTES))
        except urllib.error.HTTPError as error:
            said = {401: "it wants its token: --token-file", 404: "it is no edged, or an older one"}
            raise UnreachableError(f"{self.url}: {error.code}; {said.get(error.code, error.reason)}") from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise UnreachableError(f"{self.url}: {_in_words(reason)}; does edged run there?") from error


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A token is for the one who was asked."""

    def redirect_request(self, *_: Any) -> None:
        return None


def client(
    table: HttpTable | None,
    url: str | None,
    *,
    token: str | None,
    ca: Path | None,
    cert: Path | None,
    key: Path | None,
) -> Client:
    """A client of the daemon of a configuration, or of the one at `url`.

    Args:
        table: `[http]` of the configuration.
        url: `http://HOST:PORT` or `https://HOST:PORT`; in place of the table.
        token: the bearer token; None for that of the table.
        ca: who must have signed the daemon's certificate. None: of a table, that very certificate; else the system's
            authorities.
        cert: the certificate to show.
        key: its key.

    Raises:
        ConfigError: that is no address, or the files cannot be used.
    """
    if url is None:
        assert table is not None
        url = _url_of(table)
    try:
        parts = urllib.parse.urlsplit(url)
    except ValueError:
        parts = urllib.parse.urlsplit("")
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or parts.query:
        raise ConfigError([f"--url: {url!r} is no address of a daemon; write it as https://192.0.2.7:9108"])
    if token is None and table is not None:
        token = table.token()
    tls = None
    if parts.scheme == "https":
        try:
            if ca is None and table is not None and table.tls_cert is not None:
                # The very certificate of the daemon on this box, whatever name it bears and whoever signed it; and no
                # authority, for names are not looked at.
                tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
                tls.load_verify_locations(table.tls_cert)
                tls.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
                tls.check_hostname = False
            else:
                tls = ssl.create_default_context(cafile=ca)
            if cert is not None:
                tls.load_cert_chain(cert, key)
        except OSError as error:
            raise ConfigError([f"certificates cannot be used: {error}; give --ca, --cert and --key as PEM"]) from error
    return Client(url.rstrip("/"), token, tls)


def _url_of(table: HttpTable) -> str:
    host, port = table.address
    if port == 0:
        raise ConfigError(["http.listen: the system chooses the port; give --url, as the daemon's log says it"])
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 -- what it listens on is asked here
    scheme = "http" if table.tls_cert is None else "https"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _in_words(error: Any) -> str:
    return str(getattr(error, "strerror", None) or error)

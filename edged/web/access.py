"""Who may ask: a bearer token, in constant time; which hosts a browser may call us by; headers that bind browsers."""

import hmac
import ipaddress
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.datastructures import MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]

_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


class Access:
    """Says who may see what is not open to all."""

    def __init__(self, token: str | None) -> None:
        """Prepares it; without a token everybody may who gets through to the server."""
        self._token = token

    def allows(self, request: Request) -> bool:
        """Whether a request carries the token."""
        given = request.headers.get("authorization", "")
        return self._token is None or hmac.compare_digest(given.encode(), f"Bearer {self._token}".encode())

    def protected(self, handle: Handler) -> Handler:
        """`handle` for those who may."""

        async def check(request: Request) -> Response:
            if not self.allows(request):
                return PlainTextResponse("a bearer token is required\n", 401, {"www-authenticate": "Bearer"})
            return await handle(request)

        return check

    def guarded(self, handle: Handler) -> Handler:
        """`protected`, and without a token only under an address: a page that had its name resolve to us is refused."""

        async def check(request: Request) -> Response:
            if self._token is None and not _is_address(request.url.hostname or ""):
                text = "without http.token_file this is served under an IP address or localhost only\n"
                return PlainTextResponse(text, 421)
            return await self.protected(handle)(request)

        return check


class BrowserRules:
    """Middleware: has browsers load nothing from elsewhere, and keep nothing that does not say it may be kept."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Adds headers to an answer."""

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("cache-control", "no-store")
            await send(message)

        await self._app(scope, receive, with_headers)


def _is_address(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

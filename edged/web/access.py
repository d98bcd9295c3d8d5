"""Who may ask: a bearer token, or the cookie that the login form makes of it; headers that bind browsers."""

import hashlib
import hmac
import ipaddress
import re
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import parse_qs, quote

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

Handler = Callable[[Request], Awaitable[Response]]

LOGIN: Final = "/login"
SESSION_S: Final = 12 * 3600
_LOCAL: Final = re.compile(r"/(?!/)[A-Za-z0-9/_.?=&%:+-]*")
_MOST_FORM_BYTES: Final = 16_384
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


class FormRefusedError(Exception):
    """What was sent is not taken; its text is a key of the page's words."""


class Access:
    """Says who may see what is not open to all."""

    def __init__(self, token: str | None) -> None:
        """Prepares it; without a token everybody may who gets through to the server."""
        self._token = token

    @property
    def asks(self) -> bool:
        """Whether there is a token to be asked for."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether that is the token, compared in constant time."""
        return self._token is None or hmac.compare_digest(given.encode(), self._token.encode())

    def allows(self, request: Request) -> bool:
        """Whether a request carries the token, or a cookie that was made of it."""
        if self._token is None:
            return True
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given):  # upper and lower case are one (RFC 9110)
            return True
        return self._is_session(request.cookies.get(cookie_name(request), ""))

    def session(self) -> str:
        """What the cookie of one who knows the token holds, for `SESSION_S` from now on."""
        return self._sign(int(time.time()) + SESSION_S)

    def protected(self, handle: Handler) -> Handler:
        """`handle` for those who may."""

        async def check(request: Request) -> Response:
            if not self.allows(request):
                raise HTTPException(401, "a bearer token is required", {"www-authenticate": "Bearer"})
            return await handle(request)

        return check

    def guarded(self, handle: Handler, *, open_to_all: bool = False, page: bool = False) -> Handler:
        """`handle` for those who may, and for nobody whom another site has led here under its own name.

        Args:
            handle: answers.
            open_to_all: whoever it is may.
            page: who may not is led to the login form, unless that is a script of ours.
        """

        async def check(request: Request) -> Response:
            if self._token is None and request.url.scheme == "http" and not _is_address(_host(request)[0]):
                raise HTTPException(421, "without http.token_file this is served under an IP address or localhost only")
            if open_to_all or self.allows(request):
                return await handle(request)
            if page and not is_script(request):
                here = request.url.path + (f"?{request.url.query}" if request.url.query else "")
                return RedirectResponse(f"{LOGIN}?next={quote(here, safe='/')}", 303)
            return await self.protected(handle)(request)

        return check

    def _sign(self, ends: int) -> str:
        assert self._token is not None
        key = self._token.encode()
        return f"{ends}.{hmac.new(key, f'edged session until {ends}'.encode(), hashlib.sha256).hexdigest()}"

    def _is_session(self, cookie: str) -> bool:
        ends = cookie.partition(".")[0]
        if not re.fullmatch(r"[0-9]{1,12}", ends) or int(ends) < time.time():
            return False
        return hmac.compare_digest(cookie.encode(), self._sign(int(ends)).encode())


def is_script(request: Request) -> bool:
    """Whether a script of our page asks, which needs a status and no page."""
    return request.headers.get("accept") == "application/json"


def cookie_name(request: Request) -> str:
    """Of the session: browsers keep one set of cookies for all ports of a box, which may run several daemons."""
    return f"edged_session_{_host(request)[1] or request.url.scheme}"


def local(path: str) -> str:
    """A place of ours that a form names; the overview where it names another."""
    return path if _LOCAL.fullmatch(path) else "/"


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form that one of our own pages sent.

    Raises:
        FormRefusedError: it came from elsewhere, is too large, or does not come whole.
    """
    origin = request.headers.get("origin")
    # Every browser says where a form comes from; who sends the token in a header is none.
    if origin is None and "authorization" not in request.headers:
        raise FormRefusedError("foreign_form")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise FormRefusedError("foreign_form")
    body = await read_body(request)
    try:
        fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=20, errors="strict")
    except ValueError:
        return {}
    return {name: values[-1] for name, values in fields.items()}


async def read_body(request: Request) -> bytes:
    """What was sent, of bounded length.

    Raises:
        FormRefusedError: it is too large, or does not come whole.
    """
    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > _MOST_FORM_BYTES:
                raise FormRefusedError("too_large")
    except ClientDisconnect:
        raise FormRefusedError("cut_off") from None
    return body


def is_of_a_page(request: Request) -> bool:
    """Whether a web page sends it without the token.

    Any page can have a browser send, with its cookie if there is one, but not with that header.
    """
    return "origin" in request.headers and "authorization" not in request.headers


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


def _host(request: Request) -> tuple[str, int | None]:
    """Under which name, and at which port, we were asked; "" where that is no name."""
    try:
        return request.url.hostname or "", request.url.port
    except ValueError:
        return "", None


def _is_address(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True

"""The page for the shift: the overview, live while somebody looks; logging in."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from importlib.resources import files
from typing import Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from edged.errors import EdgedError
from edged.web.access import LOGIN, SESSION_S, Access, FormRefusedError, Handler, cookie_name, local, read_form
from edged.web.asking import BadRequestError, Worker
from edged.web.recent import Recent
from edged.web.rendering import SECTIONS, Renderer
from edged.web.site import Site
from edged.web.texts import Texts

_EVERY_S: Final = 0.5
_STILL_HERE_S: Final = 10.0
_MOST_VIEWERS: Final = 16
_STATIC: Final = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}


class Overview:
    """What the overview shows, made once for all who look at the same time."""

    def __init__(self, site: Site, renderer: Renderer) -> None:
        """Prepares it; nothing is read before somebody looks."""
        self._site, self._renderer = site, renderer
        self._recent = Recent(site.state_dir, lambda id_: site.overlay(id_) is not None, site.peaks)
        self._mutex = threading.Lock()
        self._made: dict[str, tuple[float, Mapping[str, str]]] = {}

    def sections(self, t: Texts) -> Mapping[str, str]:
        """Its changing parts, not older than a moment.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._mutex:
            made = self._made.get(t.code)
            if made is None or time.monotonic() - made[0] > 0.8 * _EVERY_S:
                status = self._site.status()
                sight = self._recent.look([source.name for source in status.sources])
                made = self._made[t.code] = time.monotonic(), self._renderer.sections(t, status, sight)
            return made[1]


def routes(site: Site, access: Access, worker: Worker, renderer: Renderer) -> list[Route]:
    """The routes of the page.

    Args:
        site: what is shown.
        access: who may see it.
        worker: runs what takes time.
        renderer: makes pages.
    """
    overview_ = Overview(site, renderer)
    viewers = 0

    async def overview(request: Request) -> Response:
        sections = await worker.run(partial(overview_.sections, renderer.texts(request)))
        return renderer.page(request, "overview.html", sections=sections, names=SECTIONS)

    async def events(request: Request) -> Response:
        if viewers >= _MOST_VIEWERS:
            return PlainTextResponse("too many look already\n", 503)
        stream = follow(renderer.texts(request))
        return StreamingResponse(stream, media_type="text/event-stream", headers={"x-accel-buffering": "no"})

    async def follow(t: Texts) -> AsyncIterator[str]:
        """Parts of the overview as they change, and now and then that we are still here."""
        nonlocal viewers
        viewers += 1
        sent: Mapping[str, str] = {}
        said = time.monotonic()
        try:
            while True:
                try:
                    now = await worker.run(partial(overview_.sections, t))
                except EdgedError:  # the journal cannot be read just now; the page says since when it hears nothing
                    now = sent
                if changed := {name: html for name, html in now.items() if sent.get(name) != html}:
                    yield f"data: {json.dumps(changed)}\n\n"
                elif time.monotonic() - said > _STILL_HERE_S:
                    yield ": still here\n\n"
                if changed or time.monotonic() - said > _STILL_HERE_S:
                    said = time.monotonic()
                sent = now
                await asyncio.sleep(_EVERY_S)
        finally:
            viewers -= 1

    async def login(request: Request) -> Response:
        following = local(request.query_params.get("next", "/"))
        if request.method != "POST":
            return renderer.page(request, "login.html", following=following, is_wrong=False)
        fields = await read_form(request)
        if not access.asks or not access.is_token(fields.get("token", "")):
            return renderer.page(request, "login.html", 403, following=following, is_wrong=True)
        answer = RedirectResponse(local(fields.get("next", "/")), 303)
        answer.set_cookie(
            cookie_name(request),
            access.session(),
            max_age=SESSION_S,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return answer

    async def logout(request: Request) -> Response:
        await read_form(request)
        answer = RedirectResponse(LOGIN, 303)
        answer.delete_cookie(cookie_name(request), httponly=True, samesite="strict")
        return answer

    async def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in _STATIC:
            return PlainTextResponse("there is no such file\n", 404)
        data = (files("edged.web") / "static" / name).read_bytes()
        return Response(data, media_type=_STATIC[name], headers={"cache-control": "no-cache"})

    def shown(handle: Handler) -> Handler:
        return access.guarded(answering(renderer, handle), page=True)

    def to_all(handle: Handler) -> Handler:
        return access.guarded(answering(renderer, handle), open_to_all=True)

    return [
        Route("/", shown(overview), methods=["GET"]),
        Route("/events", access.guarded(events), methods=["GET"]),
        Route(LOGIN, to_all(login), methods=["GET", "POST"]),
        Route("/logout", to_all(logout), methods=["POST"]),
        Route("/static/{name}", to_all(static), methods=["GET"]),
    ]


def answering(renderer: Renderer, handle: Handler) -> Handler:
    """`handle`, with what is wrong told on a page."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except FormRefusedError as error:
            status = 413 if str(error) == "too_large" else 403
            return renderer.page(request, "message.html", status, heading="refused", text=str(error), detail="")
        except BadRequestError as error:
            return renderer.page(request, "message.html", 400, heading="refused", text=None, detail=str(error))
        except (EdgedError, OSError):
            return renderer.page(request, "message.html", 503, heading="unavailable", text=None, detail="")

    return answer

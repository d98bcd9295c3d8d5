"""The ASGI application: /metrics, /healthz, /readyz, the page and the API, and pictures that are posted."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from edged.sources.uploads import UploadSource
from edged.web import api, models_page, page, results_page, uploads
from edged.web.access import Access, BrowserRules
from edged.web.allowance import Allowance, Paced
from edged.web.asking import Worker
from edged.web.exposition import exposition
from edged.web.rendering import Renderer
from edged.web.site import Remembered, Site
from edged.web.thresholds import Weeks


def make_app(
    registry: CollectorRegistry,
    problems: Callable[[], list[str]],
    *,
    token: str | None = None,
    site: Site | None = None,
    uploads_to: Callable[[str], UploadSource | None] = lambda _: None,
    notes: Callable[[], list[str]] = list,
    allowance: Allowance | None = None,
) -> Starlette:
    """Builds the application.

    Args:
        registry: what /metrics shows.
        problems: why the daemon is not ready; empty when it is. Called from the server's thread.
        token: when given, it is taken as a bearer token. Health is open: it says nothing of pictures.
        site: what the page and the API show; without one there are none.
        uploads_to: the source that takes posted pictures under a name.
        notes: what /readyz says beside "ready", which is no reason not to be.
        allowance: what all answers together may take of the machine; None: whatever it takes.
    """
    access, worker = Access(token), Worker(allowance)

    async def metrics(request: Request) -> Response:
        body, content_type = exposition(registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        found = problems()
        if found and not access.allows(request):
            found = ["not ready"]  # the reasons name files and folders
        lines = found or ["ready", *notes()]
        return PlainTextResponse("".join(f"{line}\n" for line in lines), 503 if found else 200)

    routes = [Route("/metrics", access.protected(metrics)), Route("/healthz", health), Route("/readyz", ready)]
    routes.append(uploading := uploads.route(uploads_to, access, allowance))
    if site is not None:
        site, weeks = replace(site, status=Remembered(site.status)), Weeks(site.state_dir)
        routes += api.routes(site, access, worker, weeks)
        renderer = Renderer(access)
        routes += page.routes(site, access, worker, renderer)
        routes += results_page.routes(site, access, worker, renderer)
        routes += models_page.routes(site, access, worker, renderer, weeks)
    is_work = partial(uploads.is_taken, route=uploading, find=uploads_to, access=access)
    paced = [] if allowance is None else [Middleware(Paced, allowance, is_work)]
    return Starlette(
        routes=routes,
        middleware=[*paced, Middleware(BrowserRules)],
        exception_handlers={HTTPException: _refuse},  # type: ignore[dict-item]
    )


async def _refuse(request: Request, error: HTTPException) -> Response:
    """Who may not ask, or asks for what there is not: as JSON below the API."""
    if request.url.path.startswith(f"{api.PREFIX}/"):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    return PlainTextResponse(f"{error.detail}\n", error.status_code, error.headers)

"""The ASGI application: /metrics, /healthz, /readyz, and pictures that are posted."""

import hmac
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from edged.sources.uploads import UploadSource
from edged.web import uploads
from edged.web.exposition import exposition


def make_app(
    registry: CollectorRegistry,
    problems: Callable[[], list[str]],
    *,
    token: str | None = None,
    uploads_to: Callable[[str], UploadSource | None] = lambda _: None,
) -> Starlette:
    """Builds the application.

    Args:
        registry: what /metrics shows.
        problems: why the daemon is not ready; empty when it is. Called from the server's thread.
        token: when given, /metrics takes it as a bearer token. Health is open: it says nothing of pictures.
        uploads_to: the source that takes posted pictures under a name.
    """

    def allowed(request: Request) -> bool:
        given = request.headers.get("authorization", "")
        return token is None or hmac.compare_digest(given.encode(), f"Bearer {token}".encode())

    def protected(
        handle: Callable[[Request], Awaitable[Response]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def check(request: Request) -> Response:
            if not allowed(request):
                return PlainTextResponse("a bearer token is required\n", 401, {"www-authenticate": "Bearer"})
            return await handle(request)

        return check

    async def metrics(request: Request) -> Response:
        body, content_type = exposition(registry, request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    async def health(_: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def ready(request: Request) -> Response:
        found = problems()
        if found and not allowed(request):
            found = ["not ready"]  # the reasons name files and folders
        return PlainTextResponse("".join(f"{line}\n" for line in found) or "ready\n", 503 if found else 200)

    posted = uploads.route(protected, uploads_to, with_token=token is not None)
    routes = [Route("/metrics", protected(metrics)), Route("/healthz", health), Route("/readyz", ready), posted]
    return Starlette(routes=routes)

"""The API, below /api/v1: status, results, what was drawn of them. `openapi` describes it."""

import json
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edged.errors import EdgedError, PictureError
from edged.journal import browsing
from edged.web import asking, pictures
from edged.web.access import Access, Handler
from edged.web.asking import BadRequestError, Worker
from edged.web.openapi import document
from edged.web.site import Site

PREFIX: Final = "/api/v1"
_FOREVER: Final = "private, max-age=86400, immutable"


def routes(site: Site, access: Access, worker: Worker) -> list[Route]:
    """The routes of the API.

    Args:
        site: what is shown.
        access: who may see it.
        worker: runs what takes time.
    """

    async def status(_: Request) -> Response:
        found = await worker.run(site.status)
        return Response(found.model_dump_json(), media_type="application/json")

    async def results(request: Request) -> Response:
        wanted, (before, limit) = asking.wanted(request.query_params), asking.place(request.query_params)
        look = partial(browsing.browse, site.state_dir, wanted, before=before, limit=limit)
        page = await worker.run(look)
        following = None if page.following is None else str(page.following)
        return _json({"results": [record.to_dict() for _, record in page.results], "next": following})

    async def result(request: Request) -> Response:
        id_ = request.path_params["id"]
        record = await worker.run(partial(browsing.find, site.state_dir, id_)) if asking.is_id(id_) else None
        return _nothing("there is no such result") if record is None else _json(record.to_dict())

    async def overlay(request: Request) -> Response:
        id_ = request.path_params["id"]
        drawn = await worker.run(partial(_overlay, site, id_)) if asking.is_id(id_) else None
        if drawn is None:
            return _nothing("no picture of this result was kept; a sink of the type images keeps some")
        record = await worker.run(partial(browsing.find, site.state_dir, id_))
        lasts = record is not None and record.event is not None and record.event.state == "open"  # is drawn again
        return Response(drawn, media_type="image/png", headers={"cache-control": "no-store" if lasts else _FOREVER})

    async def openapi(_: Request) -> Response:
        return _json(document())

    return [
        Route(PREFIX + path, access.guarded(_answering(handle)), methods=["GET"])
        for path, handle in (
            ("/openapi.json", openapi),
            ("/status", status),
            ("/results", results),
            ("/results/{id}", result),
            ("/results/{id}/overlay.png", overlay),
        )
    ]


def _answering(handle: Handler) -> Handler:
    """`handle`, with what is wrong told in JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except BadRequestError as error:
            return JSONResponse({"error": str(error)}, 400)
        except (EdgedError, OSError) as error:  # the journal, or a picture, cannot be read just now
            return JSONResponse({"error": str(error)}, 503)

    return answer


def _overlay(site: Site, id_: str) -> bytes | None:
    drawn = site.overlay(id_)
    try:
        return None if drawn is None else pictures.encode_again(drawn)
    except PictureError:  # something else has taken its name
        return None


def _nothing(why: str) -> Response:
    return JSONResponse({"error": why}, 404)


def _json(content: Any) -> Response:
    # In ASCII: paths may hold what is no UTF-8.
    return Response(json.dumps(content, ensure_ascii=True, allow_nan=False), media_type="application/json")

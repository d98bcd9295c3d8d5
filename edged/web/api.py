"""The API, below /api/v1: status, models, results, their labels, what was drawn. `openapi` describes it."""

import json
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edged.errors import EdgedError, PictureError
from edged.journal import browsing, labels
from edged.journal.labels import Label
from edged.models.sampling import DECODER
from edged.results import Record
from edged.web import asking, models, pictures
from edged.web.access import Access, FormRefusedError, Handler, is_of_a_page, read_body
from edged.web.asking import BadRequestError, Worker
from edged.web.openapi import document
from edged.web.site import Site
from edged.web.thresholds import Weeks

PREFIX: Final = "/api/v1"
_FOREVER: Final = "private, max-age=86400, immutable"
_FOR_NOW: Final = "private, max-age=300"
"""Pictures of a model, which another one under its name may replace."""
_REFUSALS: Final = {"too_large": "more bytes than a label and a note have", "cut_off": "the request broke off"}


def routes(site: Site, access: Access, worker: Worker, weeks: Weeks) -> list[Route]:
    """The routes of the API.

    Args:
        site: what is shown.
        access: who may see it.
        worker: runs what takes time.
        weeks: the results of models of late.
    """
    samples = models.Samples()

    async def status(_: Request) -> Response:
        found = await worker.run(site.status)
        return Response(found.model_dump_json(), media_type="application/json")

    async def results(request: Request) -> Response:
        wanted, (before, limit) = asking.wanted(request.query_params), asking.place(request.query_params)
        look = partial(browsing.browse, site.state_dir, wanted, before=before, limit=limit)
        page = await worker.run(look)
        following = None if page.following is None else str(page.following)
        found = await worker.run(partial(labels.read, site.state_dir, [record.id for _, record in page.results]))
        told = [_told(record, found.get(record.id)) for _, record in page.results]
        return _json({"results": told, "next": following})

    async def result(request: Request) -> Response:
        id_ = request.path_params["id"]
        record = await worker.run(partial(browsing.find, site.state_dir, id_)) if asking.is_id(id_) else None
        if record is None:
            return _nothing("there is no such result")
        found = await worker.run(partial(labels.read, site.state_dir, [id_]))
        return _json(_told(record, found.get(id_)))

    async def label(request: Request) -> Response:
        if is_of_a_page(request):
            return JSONResponse({"error": "a web page may not label but with the token, as Authorization: Bearer"}, 403)
        id_, word, note = request.path_params["id"], None, ""
        if request.method == "PUT":
            word, note = asking.label(await read_body(request))
        if not asking.is_id(id_) or not await worker.run(partial(site.label, id_, word, note)):
            return _nothing("there is no such result")
        return Response(status_code=204)

    async def overlay(request: Request) -> Response:
        id_ = request.path_params["id"]
        drawn = await worker.run(partial(_clean, partial(site.overlay, id_))) if asking.is_id(id_) else None
        record = None if drawn is None else await worker.run(partial(browsing.find, site.state_dir, id_))
        lasts = record is not None and record.event is not None and record.event.state == "open"  # is drawn again
        none = "no picture of this result was kept; a sink of the type images keeps some"
        return _png(drawn, none, "no-store" if lasts else _FOREVER)

    async def all_models(_: Request) -> Response:
        details = await worker.run(site.details)
        return _json({"models": [one.model_dump(mode="json") for one in details]})

    async def threshold(request: Request) -> Response:
        asked = asking.threshold(request.query_params)
        week = await worker.run(partial(weeks.of, request.path_params["name"], site.scorers()))
        if week is None:
            return _nothing("there is no such model")
        found = await worker.run(partial(week.what_if, week.scorer.threshold.value if asked is None else asked))
        return Response(found.model_dump_json(), media_type="application/json")

    async def card(request: Request) -> Response:
        scorer = site.scorers().get(request.path_params["name"])
        text = None if scorer is None else await worker.run(partial(models.card, scorer))
        if text is None:
            return _nothing("there is no such model, or it has no card")
        return Response(text, media_type="text/markdown; charset=utf-8")

    async def model_picture(request: Request) -> Response:
        scorer, name = site.scorers().get(request.path_params["name"]), request.path_params["file"]
        drawn = None if scorer is None else await worker.run(partial(_clean, partial(models.picture, scorer, name)))
        return _png(drawn, "there is no such model, or it has no such picture", _FOR_NOW)

    async def sampled(request: Request) -> Response:
        scorer, seed = site.scorers().get(request.path_params["name"]), asking.seed(request.query_params, models.SEEDS)
        can_draw = scorer is not None and DECODER in scorer.bundle.manifest.files
        drawn = await worker.run(partial(samples.sheet, scorer, seed)) if scorer is not None and can_draw else None
        return _png(drawn, "there is no such model, or it draws no pictures; a vae on pixels does", _FOR_NOW)

    async def openapi(_: Request) -> Response:
        return _json(document())

    return [
        Route(PREFIX + path, access.guarded(_answering(handle)), methods=["GET"])
        for path, handle in (
            ("/openapi.json", openapi),
            ("/status", status),
            ("/models", all_models),
            ("/models/{name}/threshold", threshold),
            ("/models/{name}/card.md", card),
            ("/models/{name}/pictures/{file}", model_picture),
            ("/models/{name}/samples.png", sampled),
            ("/results", results),
            ("/results/{id}", result),
            ("/results/{id}/overlay.png", overlay),
        )
    ] + [Route(f"{PREFIX}/results/{{id}}/label", access.guarded(_answering(label)), methods=["PUT", "DELETE"])]


def _answering(handle: Handler) -> Handler:
    """`handle`, with what is wrong told in JSON."""

    async def answer(request: Request) -> Response:
        try:
            return await handle(request)
        except BadRequestError as error:
            return JSONResponse({"error": str(error)}, 400)
        except FormRefusedError as error:
            return JSONResponse({"error": _REFUSALS[str(error)]}, 413 if str(error) == "too_large" else 400)
        except (EdgedError, OSError) as error:  # the journal, or a picture, cannot be read just now
            return JSONResponse({"error": str(error)}, 503)

    return answer


def _clean(read: Callable[[], bytes | None]) -> bytes | None:
    """A picture's pixels, and nothing else of it."""
    drawn = read()
    try:
        return None if drawn is None else pictures.encode_again(drawn)
    except PictureError:  # something else has taken its name
        return None


def _told(record: Record, label: Label | None) -> dict[str, Any]:
    """A result, with what a person said of it where somebody did."""
    return record.to_dict() | ({} if label is None else {"label": label.to_dict()})


def _png(drawn: bytes | None, why_not: str, how_long: str) -> Response:
    if drawn is None:
        return _nothing(why_not)
    return Response(drawn, media_type="image/png", headers={"cache-control": how_long})


def _nothing(why: str) -> Response:
    return JSONResponse({"error": why}, 404)


def _json(content: Any) -> Response:
    # In ASCII: paths may hold what is no UTF-8.
    return Response(json.dumps(content, ensure_ascii=True, allow_nan=False), media_type="application/json")

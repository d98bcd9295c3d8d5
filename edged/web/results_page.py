"""The pages of results: all of them, filtered and page by page, and one alone; as CSV too."""

from collections.abc import AsyncIterator
from functools import partial
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from edged.journal import browsing, labels
from edged.journal.browsing import OUTCOME_WORDS, Wanted
from edged.journal.labels import LABELS, LONGEST_NOTE
from edged.results import csv_line
from edged.web import api, asking
from edged.web.access import Access, Handler, is_script, local, read_form
from edged.web.asking import MOST_RESULTS, BadRequestError, Lookup, Worker
from edged.web.page import answering
from edged.web.rendering import Renderer
from edged.web.site import Site

_FILTERS = ("source", "outcome", "since", "until")


def routes(site: Site, access: Access, worker: Worker, renderer: Renderer) -> list[Route]:
    """The routes.

    Args:
        site: what is shown.
        access: who may see it.
        worker: runs what takes time.
        renderer: makes pages.
    """
    lookup = Lookup()

    async def results(request: Request) -> Response:
        wanted, (before, limit) = asking.wanted(request.query_params), asking.place(request.query_params)
        page = await worker.run(partial(browsing.browse, site.state_dir, wanted, before=before, limit=limit))
        said = await worker.run(partial(labels.read, site.state_dir, [record.id for _, record in page.results]))
        status = await worker.run(site.status)
        filters = {name: value for name in _FILTERS if (value := request.query_params.get(name))}
        query = dict.fromkeys((*_FILTERS, "before"), "") | filters
        following = None if page.following is None else _url("/results", {**filters, "before": str(page.following)})
        return renderer.page(
            request,
            "results.html",
            results=[record for _, record in page.results],
            labels=said,
            sources=sorted({source.name for source in status.sources} | ({wanted.source} if wanted.source else set())),
            outcomes=OUTCOME_WORDS,
            query={**query, "before": before},
            following=following,
            newest=_url("/results", filters),
            as_csv=_url("/results.csv", filters),
            as_json=_url(f"{api.PREFIX}/results", filters),
        )

    async def as_csv(request: Request) -> Response:
        lines = _csv(site, worker, asking.wanted(request.query_params))
        headers = {"content-disposition": 'attachment; filename="results.csv"'}
        return StreamingResponse(lines, media_type="text/csv", headers=headers)

    async def result(request: Request) -> Response:
        id_ = request.path_params["id"]
        record = await worker.run(partial(browsing.find, site.state_dir, id_)) if asking.is_id(id_) else None
        if record is None:
            return renderer.page(request, "message.html", 404, heading="not_found", text=None, detail="")
        has_picture = await worker.run(partial(site.overlay, id_)) is not None
        found = await worker.run(partial(labels.read, site.state_dir, [id_]))
        try:
            where, is_known = await lookup.run(partial(site.find, record)), True
        except TimeoutError:
            where, is_known = None, False
        return renderer.page(
            request,
            "result.html",
            one=record,
            has_picture=has_picture,
            label=found.get(id_),
            where=where,
            is_known=is_known,
            words=LABELS,
        )

    async def label(request: Request) -> Response:
        id_, fields = request.path_params["id"], await read_form(request)
        word, note = fields.get("label"), fields.get("note", "").replace("\r\n", "\n")  # forms send both
        if word not in {*LABELS, ""} or len(note) > LONGEST_NOTE:
            raise BadRequestError(
                f"label: is one of {', '.join(LABELS)}, or empty; note: at most {LONGEST_NOTE} letters"
            )
        put = partial(site.label, id_, word or None, note)
        if not asking.is_id(id_) or not await worker.run(put):
            return renderer.page(request, "message.html", 404, heading="not_found", text=None, detail="")
        if is_script(request):
            return Response(status_code=204)
        return RedirectResponse(local(fields.get("next", f"/results/{id_}")), 303)

    def shown(handle: Handler) -> Handler:
        return access.guarded(answering(renderer, handle), page=True)

    return [
        Route("/results", shown(results), methods=["GET"]),
        Route("/results.csv", shown(as_csv), methods=["GET"]),
        Route("/results/{id}", shown(result), methods=["GET"]),
        Route("/results/{id}/label", shown(label), methods=["POST"]),
    ]


async def _csv(site: Site, worker: Worker, wanted: Wanted) -> AsyncIterator[str]:
    """All results that are wanted, the newest first, a page at a time: what nobody takes is not read."""
    yield csv_line(labels.CSV_COLUMNS)
    before: int | None = None
    while True:
        look = partial(browsing.browse, site.state_dir, wanted, before=before, limit=MOST_RESULTS)
        page = await worker.run(look)
        if page.results:
            found = await worker.run(partial(labels.read, site.state_dir, [record.id for _, record in page.results]))
            yield "".join(csv_line(labels.csv_row(record, found.get(record.id))) for _, record in page.results)
        if page.following is None:
            return
        before = page.following


def _url(path: str, query: dict[str, str]) -> str:
    return f"{path}?{urlencode(query)}" if query else path

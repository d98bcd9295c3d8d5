"""Pictures that clients post: `POST /api/v1/sources/NAME/pictures`."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from anyio.to_thread import run_sync
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from edged.errors import SourceError
from edged.results import Record
from edged.sources.spool import LONGEST_NAME, Draft, SpooledPicture
from edged.sources.uploads import UploadSource
from edged.web.access import Access, is_of_a_page
from edged.web.allowance import Allowance
from edged.web.api import PREFIX

PATH: Final = PREFIX + "/sources/{name}/pictures"
_CHUNK: Final = 1 << 18
_LATER: Final = {"retry-after": "1"}


class _Refusal(Exception):  # noqa: N818 -- an answer
    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


def route(find: Callable[[str], UploadSource | None], access: Access, allowance: Allowance | None = None) -> Route:
    """The route.

    Args:
        find: the source of the type http of a name; called from the server's thread.
        access: who may post.
        allowance: what receiving is not counted in: pictures are work.
    """

    async def receive(request: Request) -> Response:
        try:
            if is_of_a_page(request):
                raise _Refusal(403, "a web page may not post pictures but with the token, as Authorization: Bearer")
            source = find(request.path_params["name"])
            if source is None:
                raise _Refusal(404, 'there is no source of this name that has type = "http"')
            with contextlib.nullcontext() if allowance is None else allowance.uncounted():
                picture = await _received(request, source)
            return await _answer(picture, source.answer_seconds)
        except _Refusal as refusal:
            headers = _LATER if refusal.status == 503 else {}
            return _json({"error": str(refusal)}, refusal.status, {**headers, "connection": "close"})
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it

    return Route(PATH, access.guarded(receive), methods=["POST"])


def is_taken(scope: Scope, route: Route, find: Callable[[str], UploadSource | None], access: Access) -> bool:
    """Whether a request brings a picture that one who may post gives to a source that is there."""
    match, found = route.matches(scope)
    request = Request(scope)
    return (
        match is Match.FULL
        and access.allows(request)
        and not is_of_a_page(request)
        and find(found["path_params"]["name"]) is not None
    )


async def _received(request: Request, source: UploadSource) -> SpooledPicture:
    length, name = request.headers.get("content-length", "0"), request.query_params.get("name", "")
    if length.isdecimal() and int(length) > source.max_bytes:
        raise _too_large(source)
    if not name.isprintable() or "/" in name or len(name.encode()) * 3 > LONGEST_NAME:
        raise _Refusal(400, f"name: is printable, without slashes, and at most {LONGEST_NAME // 3} bytes long")
    try:
        draft = await run_sync(source.begin, name)
        try:
            await _receive(request, source, draft)
            return await run_sync(draft.finish)
        finally:
            await run_sync(draft.discard)
    except SourceError as error:
        raise _Refusal(503, str(error)) from error
    except OSError as error:
        raise _Refusal(503, f"the picture cannot be kept: {error.strerror}") from error


async def _receive(request: Request, source: UploadSource, draft: Draft) -> None:
    async for chunk in _chunks(request.stream()):
        if draft.size + len(chunk) > source.max_bytes:
            raise _too_large(source)
        await run_sync(draft.write, chunk)


async def _chunks(stream: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The same bytes in larger pieces: one goes to another thread each time."""
    gathered = b""
    async for chunk in stream:
        gathered += chunk
        if len(gathered) >= _CHUNK:
            yield gathered
            gathered = b""
    if gathered:
        yield gathered


async def _answer(picture: SpooledPicture, patience_s: float) -> Response:
    waiting = asyncio.wrap_future(picture.result)
    record = await _within(waiting, patience_s)
    if record is None and not waiting.done():
        try:
            await run_sync(picture.make_durable)
        except OSError as error:
            raise _Refusal(503, f"the picture cannot be kept: {error.strerror}") from error
        where = f"{PREFIX}/results/{picture.id}"  # once it is scored
        return _json({"id": picture.id, "source": picture.source}, 202, {"location": where})
    if record is None:
        raise _Refusal(503, "the picture was taken away before it was scored; send it again")
    return _json(record.to_dict(), 200)


async def _within(waiting: "asyncio.Future[Record | None]", patience_s: float) -> Record | None:
    try:
        return await asyncio.wait_for(asyncio.shield(waiting), patience_s)
    except TimeoutError:
        return None


def _too_large(source: UploadSource) -> _Refusal:
    return _Refusal(413, f"more bytes than limits.max_bytes = {source.max_bytes}")


def _json(content: Any, status: int, headers: dict[str, str] | None = None) -> Response:
    text = json.dumps(content, ensure_ascii=True, allow_nan=False)
    return Response(text, status, headers, media_type="application/json")

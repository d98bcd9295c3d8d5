"""Asking an application without a server."""

from typing import Any

import anyio
import httpx
from starlette.types import ASGIApp


def ask(
    app: ASGIApp, path: str, *, method: str = "GET", url: str = "http://127.0.0.1", **options: Any
) -> httpx.Response:
    async def send() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=url) as client:
            return await client.request(method, path, **options)

    return anyio.run(send)

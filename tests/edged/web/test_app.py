import anyio
import httpx
from prometheus_client import CollectorRegistry

from edged.service.metrics import Metrics
from edged.web.app import make_app


def get(
    path: str, *, problems: list[str] | None = None, token: str | None = None, **headers: str | bytes
) -> httpx.Response:
    registry = CollectorRegistry()
    Metrics(registry)
    app = make_app(registry, lambda: problems or [], token=token)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://edged") as client:
            return await client.get(path, headers=dict(headers))  # type: ignore[arg-type]

    return anyio.run(ask)


def test_ready() -> None:
    assert (get("/readyz").status_code, get("/readyz").text) == (200, "ready\n")
    refused = get("/readyz", problems=["starting", "no source can be read"])
    assert (refused.status_code, refused.text) == (503, "starting\nno source can be read\n")
    assert get("/healthz", problems=["starting"]).status_code == 200


def test_metrics_in_both_formats() -> None:
    plain = get("/metrics", accept="text/plain")
    assert plain.status_code == 200
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert "# TYPE edged_ready gauge\n" in plain.text
    open_metrics = get("/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


def test_the_token_is_compared_whole() -> None:
    for right in ("Bearer secret", "bearer secret", "BEARER secret"):
        assert get("/metrics", token="secret", authorization=right).status_code == 200
    for wrong in ("Bearer secre", "Bearer secret2", "Bearer ", "bearersecret", "secret", "Bearer s\xe9cret"):
        assert get("/metrics", token="secret", authorization=wrong.encode("latin-1")).status_code == 401, wrong
    assert get("/metrics", token="secret").status_code == 401
    assert get("/readyz", token="secret").status_code == 200


def test_nothing_else_is_served() -> None:
    for path in ("/", "/metrics/", "/docs", "/../etc/passwd", "/metrics/../../etc/passwd"):
        assert get(path).status_code in {307, 404}, path

import io
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from edged.journal import labels
from edged.journal.journal import Entry, Journal
from edged.results import Event, Record, rfc3339
from edged.web.app import make_app
from edged.web.site import Site
from edged.web.status import Status
from tests.edged.daemons import Site as DaemonSite
from tests.edged.making import bad, encode, good, quarantined, record, until
from tests.edged.web.asking import ask

NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)


def status() -> Status:
    return Status(
        version="1", started_at=NOW, now=NOW, healthy=True, problems=[], warnings=[], models=[], sources=[], sinks=[]
    )


def drawn() -> bytes:
    about = PngInfo()
    about.add_text("secret", "of the camera")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 32), (10, 20, 30)).save(buffer, "PNG", pnginfo=about)
    return buffer.getvalue()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path)
    yield one
    one.close()


def make(
    folder: Path, *, token: str | None = None, overlay: bytes | None = None, journal: Journal | None = None
) -> Starlette:
    def label(id_: str, word: str | None, note: str) -> bool:
        return journal is not None and labels.put(journal, id_, word, note) is not None

    site = Site(folder, status, lambda _: overlay, label)
    return make_app(CollectorRegistry(), list, token=token, site=site)


def get(folder: Path, path: str, **options: Any) -> Any:
    answer = ask(make(folder), f"/api/v1{path}", **options)
    assert answer.status_code == 200, answer.text
    return answer.json()


def commit(journal: Journal, *records: Record) -> None:
    journal.commit([Entry(one) for one in records])


def test_status_and_headers(tmp_path: Path) -> None:
    answer = ask(make(tmp_path), "/api/v1/status")
    assert answer.json()["healthy"] is True
    assert answer.json()["started_at"] == "2026-11-22T14:00:00Z"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]


def test_without_a_journal_there_are_no_results(tmp_path: Path) -> None:
    assert get(tmp_path, "/results") == {"results": [], "next": None}


def test_results_come_newest_first_page_by_page(journal: Journal, tmp_path: Path) -> None:
    records = [record() for _ in range(25)]
    commit(journal, *records)
    seen, following, pages = [], None, 0
    while pages == 0 or following is not None:
        page = get(tmp_path, "/results", params={"limit": 10, **({"before": following} if following else {})})
        seen += [one["id"] for one in page["results"]]
        following, pages = page["next"], pages + 1
    assert seen == [one.id for one in records][::-1]
    assert pages == 3


def test_a_result_is_what_the_other_exports_say(journal: Journal, tmp_path: Path) -> None:
    one = record(path=os.fsdecode(b"/in/\xff\xfe <b>.png"))
    commit(journal, one)
    assert get(tmp_path, f"/results/{one.id}") == one.to_dict() == get(tmp_path, "/results")["results"][0]


def test_filters(journal: Journal, tmp_path: Path) -> None:
    fine = record(source="line1", scored_at=1000.0)
    odd = record(source="line2", scored_at=2000.0, is_anomaly=True)
    broken = quarantined(source="line2", scored_at=3000.0)
    commit(journal, fine, odd, broken)

    def ids(**filters: str) -> list[str]:
        return [one["id"] for one in get(tmp_path, "/results", params=filters)["results"]]

    assert ids(outcome="ok") == [fine.id]
    assert ids(outcome="anomaly") == [odd.id]
    assert ids(outcome="quarantined") == [broken.id]
    assert ids(source="line2") == [broken.id, odd.id]
    assert ids(source="nowhere") == []
    assert ids(since=rfc3339(2000.0)) == [broken.id, odd.id]
    assert ids(until=rfc3339(2000.0)) == [fine.id]
    assert ids(since=rfc3339(1500.0), until=rfc3339(2500.0), source="line2", outcome="anomaly") == [odd.id]
    assert ids(source="", since="", outcome="") == [broken.id, odd.id, fine.id]


@pytest.mark.parametrize(
    "query",
    [
        "source=../etc",
        "source=a%00b",
        "outcome=fine",
        "since=yesterday",
        "until=99999-01-01",
        "before=-1",
        "before=9999999999999999999999",
        "limit=0",
        "limit=201",
        "limit=ten",
    ],
)
def test_what_makes_no_sense_is_refused_in_words(tmp_path: Path, query: str) -> None:
    answer = ask(make(tmp_path), f"/api/v1/results?{query}")
    assert (answer.status_code, set(answer.json())) == (400, {"error"})
    assert answer.json()["error"].startswith(query.partition("=")[0] + ":")


def test_an_overlay_is_encoded_again(journal: Journal, tmp_path: Path) -> None:
    one = record()
    answer = ask(make(tmp_path, overlay=drawn()), f"/api/v1/results/{one.id}/overlay.png")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert "immutable" in answer.headers["cache-control"]
    assert b"secret" not in answer.content
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.size, picture.getpixel((5, 5)), picture.info) == ((64, 32), (10, 20, 30), {})


@pytest.mark.parametrize("data", [None, b"", b"<script>", drawn()[:60], encode(Image.new("L", (9, 9)), "JPEG")])
def test_what_is_no_overlay_is_not_served(tmp_path: Path, data: bytes | None) -> None:
    answer = ask(make(tmp_path, overlay=data), f"/api/v1/results/{record().id}/overlay.png")
    assert answer.status_code == 404


@pytest.mark.parametrize("id_", ["..", "%2e%2e%2f%2e%2e", "x" * 26, "0" * 25, "0" * 27, "A" * 26, "0" * 26 + "%00"])
def test_only_ids_are_looked_for(tmp_path: Path, id_: str) -> None:
    def refuse(_: str) -> bytes:
        raise AssertionError

    app = make_app(CollectorRegistry(), list, site=Site(tmp_path, status, refuse))
    for path in (f"/api/v1/results/{id_}", f"/api/v1/results/{id_}/overlay.png"):
        assert ask(app, path).status_code == 404


def test_a_label_is_put_changed_and_taken_away(journal: Journal, tmp_path: Path) -> None:
    one = record()
    commit(journal, one)
    app, path = make(tmp_path, journal=journal), f"/api/v1/results/{one.id}"
    assert ask(app, f"{path}/label", method="PUT", json={"label": "unsure"}).status_code == 204
    assert ask(app, f"{path}/label", method="PUT", json={"label": "real", "note": "Riß <b>"}).status_code == 204
    told = ask(app, path).json()["label"]
    assert (told["label"], told["note"]) == ("real", "Riß <b>")
    for _ in range(2):
        assert ask(app, f"{path}/label", method="DELETE").status_code == 204
    assert "label" not in ask(app, path).json()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "body: Invalid JSON"),
        (b"[]", "body: Input should be an object"),
        (b'{"label": "fine"}', "label: Input should be 'false_alarm', 'real' or 'unsure'"),
        (b'{"label": null}', "label: Input should be"),
        (b'{"note": "x"}', "label: Field required"),
        (b'{"label": "real", "why": "x"}', "why: Extra inputs are not permitted"),
        (b'{"label": "real", "note": 5}', "note: Input should be a valid string"),
        (b'{"label": "real", "note": "\\ud800"}', "body: Invalid JSON"),
        (b'{"label": "real", "note": "' + 1001 * b"x" + b'"}', "note: String should have at most 1000 characters"),
    ],
)
def test_a_label_that_makes_no_sense_is_refused_in_words(
    journal: Journal, tmp_path: Path, body: bytes, words: str
) -> None:
    one = record()
    commit(journal, one)
    app, path = make(tmp_path, journal=journal), f"/api/v1/results/{one.id}"
    answer = ask(app, f"{path}/label", method="PUT", content=body)
    assert (answer.status_code, words in answer.json()["error"]) == (400, True), answer.text
    assert "label" not in ask(app, path).json()


def test_who_may_not_label(journal: Journal, tmp_path: Path) -> None:
    one = record()
    commit(journal, one)
    path, real = f"/api/v1/results/{one.id}/label", {"label": "real"}
    app, closed = make(tmp_path, journal=journal), make(tmp_path, journal=journal, token="word")
    assert ask(app, path, method="PUT", json=real, headers={"origin": "http://evil"}).status_code == 403
    assert ask(app, path, method="DELETE", headers={"origin": "http://evil"}).status_code == 403
    assert ask(closed, path, method="PUT", json=real).status_code == 401
    assert ask(app, path, method="PUT", content=20_000 * b" ").status_code == 413
    assert ask(app, path.replace(one.id, 26 * "0"), method="PUT", json=real).status_code == 404
    assert ask(app, path.replace(one.id, "..%2f"), method="PUT", json=real).status_code == 404
    assert "label" not in ask(app, f"/api/v1/results/{one.id}").json()
    with_token = {"headers": {"authorization": "Bearer word", "origin": "http://mes.plant"}}
    assert ask(closed, path, method="PUT", json=real, **with_token).status_code == 204


def test_the_token_covers_all_of_it(tmp_path: Path) -> None:
    app = make(tmp_path, token="secret", overlay=drawn())
    for path in ("status", "results", f"results/{record().id}", f"results/{record().id}/overlay.png", "openapi.json"):
        url = "/api/v1/" + path
        refused = ask(app, url)
        assert (refused.status_code, refused.json()) == (401, {"error": "a bearer token is required"})
        assert refused.headers["www-authenticate"] == "Bearer"
        assert ask(app, url, headers={"authorization": "Bearer secre"}).status_code == 401
        assert ask(app, url, headers={"authorization": "Bearer secret"}).status_code in {200, 404}


def test_what_is_wrong_is_told_as_json_everywhere_below_the_api(tmp_path: Path) -> None:
    app = make(tmp_path)
    for path in ("/api/v1/", "/api/v1/nothing", "/api/v1/results/a/b", "/api/v1/results/..%2fx"):
        answer = ask(app, path)
        assert (answer.status_code, answer.json()) == (404, {"error": "Not Found"}), path
    answer = ask(app, "/api/v1/status", method="DELETE")
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})
    assert "GET" in answer.headers["allow"]
    assert "localhost only" in ask(app, "/api/v1/status", url="http://rebound.example").json()["error"]
    assert ask(app, "/nothing").text == "Not Found\n"


def test_without_a_token_no_name_but_localhost_leads_here(tmp_path: Path) -> None:
    for url, code in {
        "http://127.0.0.1:9108": 200,
        "http://[::1]:9108": 200,
        "http://localhost": 200,
        "http://rebound.example": 421,
    }.items():
        assert ask(make(tmp_path), "/api/v1/status", url=url).status_code == code
    headers = {"authorization": "Bearer secret"}
    named = ask(make(tmp_path, token="secret"), "/api/v1/status", url="http://box.example", headers=headers)
    assert named.status_code == 200


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").write_bytes(b"no database" * 1000)
    answer = ask(make(tmp_path), "/api/v1/results")
    assert answer.status_code == 503
    assert "cannot be read" in answer.json()["error"]


def test_the_document_describes_what_there_is(journal: Journal, tmp_path: Path) -> None:
    app = make(tmp_path)
    described = get(tmp_path, "/openapi.json")
    served = {route.path for route in app.routes if route.path.startswith("/api/")}  # type: ignore[attr-defined]
    assert set(described["paths"]) == served
    schemas = described["components"]["schemas"]
    event = Event(state="open", started_at=1.0, peak_at=1.0, ended_at=1.0, frames=1, offset_s=None)
    assert set(schemas["Result"]["properties"]) == set(record(event=event).to_dict())
    assert set(schemas["Result"]["required"]) == set(record().to_dict())
    assert set(schemas["Status"]["properties"]) == set(Status.model_fields)
    refs = [part.split('"')[0] for part in ask(app, "/api/v1/openapi.json").text.split('"#/components/schemas/')[1:]]
    assert set(refs) <= set(schemas)


def test_of_a_running_daemon(site: DaemonSite) -> None:
    site.configure(rest=f'[[sinks]]\nname = "overlays"\ntype = "images"\ndir = "{site.overlays}"')
    site.start()
    (site.inbox / "good.png").write_bytes(good())
    (site.inbox / "bad.png").write_bytes(bad())
    site.wait_for_rows(2)
    shown = site.get("/api/v1/status").json()
    assert (shown["healthy"], shown["problems"], shown["warnings"]) == (True, [], [])
    assert shown["models"][0]["threshold"] == 0.5
    assert shown["models"][0]["provider"] == "CPUExecutionProvider"

    def counted() -> bool:
        (line,) = site.get("/api/v1/status").json()["sources"]
        return (line["up"], line["ok"], line["anomaly"], line["quarantined"], line["last_minute"]) == (True, 1, 1, 0, 2)

    until(counted, "the counts of both")
    (odd,) = site.get("/api/v1/results", params={"outcome": "anomaly"}).json()["results"]
    assert odd == next(one.to_dict() for one in site.rows() if one.is_anomaly)
    picture = Image.open(io.BytesIO(site.get(f"/api/v1/results/{odd['id']}/overlay.png").content))
    assert picture.size == (320, 86)  # with its legend
    (fine,) = site.get("/api/v1/results", params={"outcome": "ok"}).json()["results"]
    assert site.get(f"/api/v1/results/{fine['id']}/overlay.png").status_code == 404

import csv
import functools
import io
import json
import re
import string
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette

from edged.journal import labels
from edged.journal.journal import Entry, Journal
from edged.results import Event, Record
from edged.web import texts
from edged.web.app import make_app
from edged.web.recent import Point
from edged.web.server import Server
from edged.web.site import Site
from edged.web.status import SourceStatus, Status
from tests.edged.making import quarantined, record
from tests.edged.web.asking import ask

NOW = datetime(2026, 11, 22, 14, tzinfo=UTC)
ORIGIN = {"origin": "http://127.0.0.1"}


def status(**changes: Any) -> Status:
    line = SourceStatus(
        name="line1", type="folder", model="tiny", denoiser=None, up=True, queue_items=3, queue_oldest_age_seconds=200,
        last_minute=7, ok=1, anomaly=2, quarantined=3, last_result_at=NOW,
    )  # fmt: skip
    whole = Status(
        version="1",
        started_at=NOW,
        now=NOW,
        healthy=True,
        problems=[],
        warnings=[],
        models=[],
        sources=[line],
        sinks=[],
    )
    return whole.model_copy(update=changes)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path)
    yield one
    one.close()


def make(folder: Path, *, token: str | None = None, **changes: Any) -> Starlette:
    site = Site(folder, lambda: status(**changes), lambda _: None)
    return make_app(CollectorRegistry(), list, token=token, site=site)


def test_it_says_how_things_are(tmp_path: Path) -> None:
    assert "Healthy" in ask(make(tmp_path), "/").text
    assert "3, the oldest for 3 min" in ask(make(tmp_path), "/").text
    odd = ask(make(tmp_path, warnings=["source <b> cannot be read"]), "/").text
    assert "needs a look" in odd
    assert "source &lt;b&gt; cannot be read" in odd
    assert "Not ready" in ask(make(tmp_path, healthy=False, problems=["starting"]), "/").text


def test_it_speaks_the_language_that_is_asked_for(tmp_path: Path) -> None:
    app = make(tmp_path)
    for asked, code in {"de-AT,en;q=0.5": "de", "fr, de;q=0.5": "de", "fr": "en", "": "en", "x;;,,": "en"}.items():
        assert f'<html lang="{code}">' in ask(app, "/", headers={"accept-language": asked}).text
    chosen = ask(app, "/?lang=de")
    assert '<html lang="de">' in chosen.text
    cookie = chosen.headers["set-cookie"].partition(";")[0]
    assert '<html lang="de">' in ask(app, "/", headers={"cookie": cookie}).text
    assert '<html lang="en">' in ask(app, "/?lang=../en").text


def test_languages_say_the_same() -> None:
    languages = texts.load()
    assert {"de", "en"} <= set(languages)
    for code, t in languages.items():
        assert t.words.keys() == languages["en"].words.keys(), code
        for key, words in t.words.items():
            assert fields(words) == fields(languages["en"].words[key]), (code, key)


def fields(words: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(words) if name}


def test_every_word_of_a_language_is_used() -> None:
    folder = Path(texts.__file__).parent
    used = "".join(path.read_text() for pattern in ("*.py", "templates/*.html") for path in folder.glob(pattern))
    assert {key for key in texts.load()["en"].words if f'"{key}"' not in used} == set(labels.LABELS)


def test_results_are_shown_and_nothing_in_them_is_markup(journal: Journal, tmp_path: Path) -> None:
    odd = record(source="line1", path="/in/<script>\n.png", score=2.0, threshold=0.5, is_anomaly=True)
    broken = quarantined(source="line1", error="is no <picture>")
    journal.commit([Entry(record(source="line1")), Entry(odd), Entry(broken)])
    text = ask(make(tmp_path), "/").text
    assert "4.00 × threshold" in text
    assert r"&lt;script&gt;\n.png" in text
    assert "is no &lt;picture&gt;" in text
    assert "1 of the last 2 above the threshold" in text


def test_what_has_come_since_is_seen_too(journal: Journal, tmp_path: Path) -> None:
    app = make(tmp_path)
    assert "No result yet." in ask(app, "/").text
    for number in range(150):
        journal.commit([Entry(record(source="line1", is_anomaly=number % 10 == 0))])
    deadline = time.monotonic() + 30
    while "12 of the last 120 above the threshold" not in (text := ask(app, "/").text):
        assert time.monotonic() < deadline, text
    assert text.count('<li id="anomaly-') == 12


def test_of_a_stream_the_highest_score_of_each_second_is_seen_and_not_its_events(
    journal: Journal, tmp_path: Path
) -> None:
    seconds = [Point(1_700_000_000 + number, 9.0 if number == 4 else 0.5, number == 4) for number in range(10)]
    streams: dict[str, list[Point]] = {"line1": []}
    site = Site(tmp_path, status, lambda _: None, peaks=lambda: streams)
    event = Event(state="closed", started_at=1.5, peak_at=2.5, ended_at=3.5, frames=3, offset_s=None)
    journal.commit([Entry(record(source="line1", is_anomaly=True, event=event))])
    assert "No result yet." in ask(make_app(CollectorRegistry(), list, site=site), "/").text
    streams["line1"] = seconds
    app = make_app(CollectorRegistry(), list, site=site)
    text = ask(app, "/").text
    assert "The highest score of each second: 1 of the last 10 above the threshold" in text
    assert 'd="M114 0.000h0"' in text  # the peak, at the upper edge
    assert text.count("2.000h0") == 9
    assert "2023-11-14 22:13:20 UTC" in text
    assert "Höchste Bewertung jeder Sekunde: 1 der letzten 10 über der Schwelle" in ask(app, "/?lang=de").text


def test_an_event_that_closes_is_seen_once(journal: Journal, tmp_path: Path) -> None:
    event = Event(state="open", started_at=1.5, peak_at=2.5, ended_at=3.5, frames=3, offset_s=None)
    one, app = record(source="line1", is_anomaly=True, event=event), make(tmp_path)
    journal.commit([Entry(one)])
    assert ask(app, "/").text.count(f'id="anomaly-{one.id}"') == 1
    journal.commit([Entry(replace(one, score=154.0 * (one.threshold or 1), event=replace(event, state="closed")))])
    deadline = time.monotonic() + 30
    while "154.00" not in (text := ask(app, "/").text):
        assert time.monotonic() < deadline, text
    assert text.count(f'id="anomaly-{one.id}"') == text.count(f'id="event-{one.id}"') == 1
    assert "lasted 2 s" in text


def test_events_are_told_from_pictures(journal: Journal, tmp_path: Path) -> None:
    event = Event(state="open", started_at=1.5, peak_at=2.5, ended_at=3.5, frames=37, offset_s=3723.4)
    one, app = record(source="line1", is_anomaly=True, event=event), make(tmp_path)
    journal.commit([Entry(one), Entry(record(is_anomaly=True))])
    listed = ask(app, "/results?outcome=event").text
    assert (listed.count("<tr>"), "Event</span>" in listed) == (2, True)
    assert [found["id"] for found in ask(app, "/api/v1/results?outcome=event").json()["results"]] == [one.id]
    text = ask(app, f"/results/{one.id}").text
    for words in ("goes on", "37", "at 1:02:03 of the file", "Event</span>"):
        assert words in text


@pytest.fixture
def server(journal: Journal, tmp_path: Path) -> Iterator[Server]:
    one = Server(make(tmp_path), ("127.0.0.1", 0))
    one.start()
    yield one
    one.close()


def test_changes_are_told_and_only_they(server: Server, journal: Journal) -> None:
    with httpx.stream("GET", f"{server.url}/events", timeout=30) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = (line for line in stream.iter_lines() if line.startswith("data: "))
        first = json.loads(next(lines)[6:])
        assert set(first) == {"state", "models", "sources", "latest", "events", "quarantine"}
        odd = record(source="line1", is_anomaly=True)
        journal.commit([Entry(odd)])
        second = json.loads(next(lines)[6:])
        assert set(second) == {"sources", "latest"}
        assert f"anomaly-{odd.id}" in second["latest"]


def test_viewers_are_bounded_and_their_places_come_back(server: Server) -> None:
    with httpx.Client(timeout=30) as client:
        crowd = [client.send(client.build_request("GET", f"{server.url}/events"), stream=True) for _ in range(16)]
        streams = [one.iter_bytes() for one in crowd]
        for stream in streams:
            next(stream)
        assert client.get(f"{server.url}/events").status_code == 503
        assert client.get(f"{server.url}/").status_code == 200
        for one in crowd:
            one.close()
        deadline = time.monotonic() + 30
        while True:
            with client.stream("GET", f"{server.url}/events") as again:
                if again.status_code == 200:
                    break
            assert time.monotonic() < deadline


# Results.


def test_results_are_filtered_and_paged(journal: Journal, tmp_path: Path) -> None:
    app = make(tmp_path)
    assert "No result like that." in ask(app, "/results").text
    journal.commit([Entry(record(source="line1", path=f"/in/{number}.png")) for number in range(60)])
    journal.commit([Entry(quarantined(source="line2", path="/in/<i>.png"))])
    first = ask(app, "/results").text
    assert first.count("<tr>") == 51
    assert "&lt;i&gt;.png" in first
    (following,) = re.findall(r'href="(/results\?before=\d+)"', first)
    second = ask(app, following).text
    assert second.count("<tr>") == 12
    assert "before=" not in second
    odd = ask(app, "/results?outcome=quarantined&source=line2&since=2020-01-01T00:00").text
    assert odd.count("<tr>") == 2
    assert "/results.csv?source=line2&amp;outcome=quarantined&amp;since=2020-01-01T00%3A00" in odd


def test_a_filter_that_makes_no_sense_is_told(tmp_path: Path) -> None:
    answer = ask(make(tmp_path), "/results?limit=<b>")
    assert (answer.status_code, "limit: is a number" in answer.text) == (400, True)


def test_results_as_csv(journal: Journal, tmp_path: Path) -> None:
    journal.commit([Entry(record(source="line1", path=f"/in/{number}.png")) for number in range(450)])
    journal.commit([Entry(record(source="line2", path="=formula"))])
    rows = list(csv.DictReader(io.StringIO(ask(make(tmp_path), "/results.csv").text)))
    assert [row["path"] for row in rows] == ["'=formula", *(f"/in/{number}.png" for number in range(449, -1, -1))]
    assert tuple(rows[0]) == labels.CSV_COLUMNS
    assert len(ask(make(tmp_path), "/results.csv?source=line2").text.splitlines()) == 2


def test_a_page_of_one_result(journal: Journal, tmp_path: Path) -> None:
    one = record(score=2.0, threshold=0.5, is_anomaly=True, path="/in/a<b>.png", p_value=0.01)
    broken = quarantined(error="is no <picture>")
    journal.commit([Entry(one), Entry(broken)])
    text = ask(make(tmp_path), f"/results/{one.id}").text
    for words in (
        "/in/a&lt;b&gt;.png",
        "4.00 × threshold",
        "0.0100",
        "about 1 look at least as bad",
        "No picture was kept",
    ):
        assert words in text
    assert "is no &lt;picture&gt;" in ask(make(tmp_path), f"/results/{broken.id}").text
    for id_ in ("0" * 26, "x"):
        assert ask(make(tmp_path), f"/results/{id_}").status_code == 404


def test_a_picture_that_never_was_a_file_is_not_looked_for(journal: Journal, tmp_path: Path) -> None:
    filed, published = record(path="/in/a.png"), record(path="cell3/left/picture", timings_ms={})
    journal.commit([Entry(filed), Entry(published)])
    app = make(tmp_path)
    assert "It is gone, or has changed." in ask(app, f"/results/{filed.id}").text
    text = ask(app, f"/results/{published.id}").text
    assert "It is gone, or has changed." not in text
    assert "Timings" not in text
    assert "cell3/left/picture" in ask(app, "/results").text


# Logging in.


def login(app: Starlette, word: str, **headers: str) -> httpx.Response:
    form = {"token": word, "next": "/?lang=de"}
    return ask(app, "/login", method="POST", data=form, headers=headers or ORIGIN)


def test_a_token_is_asked_for_and_becomes_a_cookie(tmp_path: Path) -> None:
    app = make(tmp_path, token="secret")
    led = ask(app, "/?lang=de")
    assert (led.status_code, led.headers["location"]) == (303, "/login?next=/%3Flang%3Dde")
    for wrong in ("", "secre", "secret2", "sécret"):
        assert login(app, wrong).status_code == 403
    answer = login(app, "secret")
    assert (answer.status_code, answer.headers["location"]) == (303, "/?lang=de")
    cookie, *attributes = answer.headers["set-cookie"].split("; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(attributes)
    assert "secret" not in cookie
    for path in ("/", "/api/v1/status", "/metrics"):
        assert ask(app, path, headers={"cookie": cookie}).status_code == 200
    name, _, value = cookie.partition("=")
    for spoilt in (
        value[:-1],
        value + "0",
        "9" + value,
        f"{10**11}.{value.partition('.')[2]}",
        "",
        "x.y",
        "1." + "0" * 64,
    ):
        assert ask(app, "/", headers={"cookie": f"{name}={spoilt}"}).status_code == 303


def test_every_path_but_a_few_asks_for_the_token(tmp_path: Path) -> None:
    app = make(tmp_path, token="secret")
    open_to_all = {"/login", "/static/{name}", "/healthz", "/readyz", "/logout"}
    for route in app.routes:
        path = route.path  # type: ignore[attr-defined]
        if path not in open_to_all:
            method = min(route.methods - {"HEAD"})  # type: ignore[attr-defined]
            concrete = path.replace("{id}", "0" * 26)
            assert ask(app, concrete, method=method).status_code in {303, 401}, path


def test_forms_of_other_pages_are_refused(tmp_path: Path) -> None:
    app = make(tmp_path, token="secret")
    for origin in ("http://evil.example", "null", "http://127.0.0.1:81", "https://127.0.0.1.evil.example", ""):
        assert login(app, "secret", origin=origin).status_code == 403
    assert ask(app, "/login", method="POST", data={"token": "secret"}).status_code == 403


def test_forms_are_bounded(tmp_path: Path) -> None:
    app = make(tmp_path, token="secret")
    assert login(app, "s" * 100_000).status_code == 413
    many = "&".join(f"a{number}=1" for number in range(1000))
    assert ask(app, "/login", method="POST", content=many, headers=ORIGIN).status_code == 403
    assert ask(app, "/login", method="POST", content=b"\xff%", headers=ORIGIN).status_code == 403


@pytest.mark.parametrize("following", ["//evil.example", "https://evil.example", "/\\evil.example", "/a\n", "x"])
def test_nobody_is_led_elsewhere(tmp_path: Path, following: str) -> None:
    form = {"token": "secret", "next": following}
    answer = ask(make(tmp_path, token="secret"), "/login", method="POST", data=form, headers=ORIGIN)
    assert answer.headers["location"] == "/"


@pytest.mark.parametrize("name", ["page.py", "..%2fpage.py", "%2e%2e", "en.toml", ""])
def test_only_three_files_are_served(tmp_path: Path, name: str) -> None:
    assert ask(make(tmp_path), f"/static/{name}").status_code in {307, 404}
    assert ask(make(tmp_path), "/static/page.css").headers["content-type"].startswith("text/css")


# Labels.


def labelling(journal: Journal, folder: Path) -> Starlette:
    put = functools.partial(labels.put, journal)
    return make_app(CollectorRegistry(), list, site=Site(folder, status, lambda _: None, put))


def say(app: Starlette, id_: str, headers: dict[str, str] = ORIGIN, **fields: str) -> httpx.Response:
    return ask(app, f"/results/{id_}/label", method="POST", data=fields, headers=headers)


def test_a_label_is_kept_changed_and_taken_back(journal: Journal, tmp_path: Path) -> None:
    app, one = labelling(journal, tmp_path), record(source="line1", is_anomaly=True)
    journal.commit([Entry(one)])
    answer = say(app, one.id, label="false_alarm", note="dust <b>\n=1+1")
    assert (answer.status_code, answer.headers["location"]) == (303, f"/results/{one.id}")
    assert labels.read(tmp_path)[one.id].label == "false_alarm"
    assert 'False alarm <span class="small">dust &lt;b&gt;' in ask(app, "/results").text
    text = ask(app, f"/results/{one.id}").text
    assert 'value="false_alarm" aria-pressed="true"' in text
    assert "dust &lt;b&gt;" in text
    told = ask(app, f"/api/v1/results/{one.id}").json()["label"]
    assert (told["label"], told["note"]) == ("false_alarm", "dust <b>\n=1+1")
    (row,) = csv.DictReader(io.StringIO(ask(app, "/results.csv").text))
    assert (row["label"], row["note"]) == ("false_alarm", "dust <b>\\n=1+1")
    assert say(app, one.id, label="real", next="/").headers["location"] == "/"
    assert labels.read(tmp_path, [one.id])[one.id].label == "real"
    assert 'aria-pressed="true"' in ask(app, "/").text
    say(app, one.id, label="")
    assert labels.read(tmp_path) == {}
    assert "label" not in ask(app, f"/api/v1/results/{one.id}").json()


def test_a_folder_that_hangs_keeps_no_page_from_being_made(journal: Journal, tmp_path: Path) -> None:
    one, answers = record(sha256="0" * 64), threading.Event()
    journal.commit([Entry(one)])

    def hang(_: Record) -> Path:
        answers.wait(60)
        return Path("/in/found.png")

    app = make_app(CollectorRegistry(), list, site=Site(tmp_path, status, lambda _: None, find=hang))

    async def look() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://127.0.0.1") as client:
            with anyio.fail_after(20):
                for _ in range(3):
                    assert "cannot be looked up just now" in (await client.get(f"/results/{one.id}")).text
                assert (await client.get("/results")).status_code == 200
            answers.set()
            assert "/in/found.png" in (await client.get(f"/results/{one.id}")).text

    anyio.run(look)


def test_a_script_is_told_whether_a_label_is_kept(journal: Journal, tmp_path: Path) -> None:
    one, put, script = record(), functools.partial(labels.put, journal), {**ORIGIN, "accept": "application/json"}
    journal.commit([Entry(one)])
    site = Site(tmp_path, status, lambda _: None, put)
    assert say(make_app(CollectorRegistry(), list, site=site), one.id, script, label="real").status_code == 204
    locked = make_app(CollectorRegistry(), list, site=site, token="word")
    assert say(locked, one.id, script, label="unsure").status_code == 401
    assert say(locked, one.id, label="unsure").headers["location"].startswith("/login")
    assert labels.read(tmp_path)[one.id].label == "real"


def test_a_line_break_of_a_note_is_one_letter_whatever_a_form_makes_of_it(journal: Journal, tmp_path: Path) -> None:
    app, one = labelling(journal, tmp_path), record()
    journal.commit([Entry(one)])
    assert say(app, one.id, label="real", note="\r\n".join(["x" * 9] * 100) + "x").status_code == 303
    assert labels.read(tmp_path)[one.id].note == "\n".join(["x" * 9] * 100) + "x"


def test_labels_that_make_no_sense_are_refused(journal: Journal, tmp_path: Path) -> None:
    app, one = labelling(journal, tmp_path), record()
    journal.commit([Entry(one)])
    assert say(app, one.id, label="good").status_code == 400
    assert say(app, one.id, note="a form without one").status_code == 400
    assert say(app, one.id, label="real", note="x" * 1001).status_code == 400
    assert say(app, one.id, label="real", note="x" * 100_000).status_code == 413
    assert say(app, "0" * 26, label="real").status_code == 404
    assert say(app, "x", label="real").status_code == 404
    assert say(app, one.id, headers={"origin": "http://evil.example"}, label="real").status_code == 403
    assert say(app, one.id, headers={}, label="real").status_code == 403
    assert labels.read(tmp_path) == {}

"""Pictures that are posted to a real daemon: answered, bounded, durable."""

import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry

from edged.errors import SourceError
from edged.journal.journal import Journal
from edged.media.imaging import ImageInput
from edged.results import new_id
from edged.service.metrics import Metrics, SourceObserver
from edged.sources.contract import SourceContext
from edged.sources.uploads import UploadSource, UploadTable
from edged.web.app import make_app
from tests.edged.daemons import Site
from tests.edged.making import BAD_SCORE, bad, good, until


def configure(site: Site, keys: str = "", *, http: str = "", rest: str = "") -> None:
    site.configure(
        http=http,
        rest=f'[[sources]]\nname = "posted"\ntype = "http"\nmodel = "tiny"\n{keys}\n{rest}',
    )


def post(site: Site, data: Any, name: str = "posted", **options: Any) -> httpx.Response:
    return httpx.post(f"{site.url}/api/v1/sources/{name}/pictures", content=data, timeout=30, **options)


def reload(site: Site) -> None:
    before = len(site.said("reloaded"))
    os.kill(site.pid, signal.SIGHUP)
    until(lambda: len(site.said("reloaded")) > before, "the reload")


def left(site: Site) -> list[Path]:
    return list((site.state / "received" / "posted").iterdir())


def test_a_picture_is_answered_with_its_result(site: Site) -> None:
    configure(site)
    site.start()
    answer = post(site, bad(), params={"name": "part 4.png"})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    result = answer.json()
    assert (result["source"], result["path"], result["score"]) == ("posted", "part 4.png", pytest.approx(BAD_SCORE))
    (row,) = site.wait_for_rows(1)
    assert row.to_dict() == result
    unnamed = post(site, good()).json()
    assert (unnamed["path"], unnamed["is_anomaly"]) == (unnamed["id"], False)
    broken = post(site, b"no picture")
    assert (broken.status_code, broken.json()["status"], broken.json()["reason"]) == (200, "quarantined", "undecodable")
    assert post(site, b"").json()["reason"] == "empty"
    assert [line["id"] for line in site.wait_for_lines(4)] == [row.id for row in site.rows()]
    assert left(site) == []
    assert site.metrics()['edged_images_total{outcome="ok",source="posted"}'] == 1
    assert site.stop() == 0


def test_bodies_and_names_are_bounded_and_leave_nothing_behind(site: Site) -> None:
    configure(site, rest="[limits]\nmax_bytes = 5000")
    site.start()
    assert post(site, b"x" * 5001).status_code == 413
    assert post(site, (b"x" * 1000 for _ in range(6))).status_code == 413  # without a length
    for name in ("a/b", "a\nb", "x" * 67):
        assert post(site, good(), params={"name": name}).status_code == 400
    assert post(site, good(), name="line1").status_code == 404
    assert post(site, good(), name="nobody").status_code == 404
    assert post(site, good(), headers={"origin": "http://elsewhere"}).status_code == 403
    assert site.get("/api/v1/sources/posted/pictures").status_code == 405
    until(lambda: left(site) == [], "nothing to be left")
    assert site.rows() == []
    assert post(site, b"x" * 5000).status_code == 200


def test_with_a_token_it_is_asked_for(site: Site, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("word")
    configure(site, http=f'token_file = "{tmp_path}/token"')
    site.start()
    assert post(site, good()).status_code == 401
    assert post(site, good(), headers={"authorization": "Bearer wrong"}).status_code == 401
    assert post(site, good(), headers={"authorization": "Bearer word"}).status_code == 200


def test_what_takes_longer_is_promised_and_a_promise_outlives_kills(site: Site) -> None:
    configure(site, "answer_seconds = 0")
    promised: list[str] = []
    chance = random.Random(1)
    for _ in range(3):
        site.start()
        url, enough = site.url, len(promised) + chance.randrange(10, 40)

        def send(url: str = url) -> None:
            for number in range(10_000):
                try:
                    answer = httpx.post(f"{url}/api/v1/sources/posted/pictures", content=good(number), timeout=30)
                except httpx.HTTPError:
                    return
                if answer.status_code != 503:  # it has not looked yet at what an earlier one received
                    assert answer.status_code in {200, 202}
                    promised.append(answer.json()["id"])

        threads = [threading.Thread(target=send) for _ in range(3)]
        for thread in threads:
            thread.start()
        until(lambda enough=enough: len(promised) >= enough, "promises")
        site.kill()
        for thread in threads:
            thread.join()
    site.start()
    until(lambda: left(site) == [], "all to have results")
    ids = [row.id for row in site.rows()]
    assert len(ids) == len(set(ids))
    assert set(promised) <= set(ids)
    assert len(ids) - len(promised) <= 9  # of clients that had no answer
    assert site.stop() == 0


def test_who_comes_when_too_much_waits_is_to_come_later(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    context = SourceContext(journal, SourceObserver(Metrics(CollectorRegistry())), tmp_path, ImageInput(32, 32, 1))
    table = UploadTable(name="posted", type="http", model="tiny", answer_seconds=0.1, max_waiting_bytes=1_000_000)
    source, stop = UploadSource(table, context), threading.Event()
    app = make_app(CollectorRegistry(), list, uploads_to={"posted": source}.get)

    async def ask() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            return await client.post("/api/v1/sources/posted/pictures", content=b"x" * 600_000)

    answers = [anyio.run(ask)]  # before it runs
    thread = threading.Thread(target=source.run, args=(lambda _: False, stop))
    thread.start()
    until(source._spool.has_room, "it to run")
    drafts = [source.begin(name) for name in "abc"]
    for draft in drafts[:2]:  # what is still being received counts
        draft.write(b"x" * 600_000)
    with pytest.raises(SourceError, match="takes no more pictures"):
        drafts[2].write(b"x")
    assert anyio.run(ask).status_code == 503
    for draft in drafts:
        draft.discard()
    answers += [anyio.run(ask) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [503, 202, 202, 503]
    assert answers[3].json()["error"] == "the source posted takes no more pictures just now; send it again later"
    assert answers[3].headers["retry-after"] == "1"
    stop.set()
    source.wake.set()
    thread.join(10)
    assert not thread.is_alive()
    assert anyio.run(ask).status_code == 503
    journal.close()


def test_pictures_whose_source_went_are_named_until_it_is_back(site: Site) -> None:
    what = "received pictures wait for a source that is not there; name it again, or post them to another"
    folder = site.state / "received" / "posted"
    (folder / "lost+found").mkdir(parents=True)
    (folder / f"{new_id()}.part%204.png").write_bytes(bad())
    (folder / "notes.txt").write_text("of somebody")
    site.start()
    (said,) = until(lambda: site.said(what), "the error")
    assert (said["source"], said["pictures"], said["folder"], said["level"]) == ("posted", 1, str(folder), "error")
    checked = subprocess.run(
        [sys.executable, "-P", "-m", "edged", "check", "-c", site.config], capture_output=True, text=True, check=True
    )
    assert f"{folder}: 1 {what}" in checked.stderr
    configure(site)
    reload(site)
    assert [row.path for row in site.wait_for_rows(1)] == ["part 4.png"]
    assert post(site, good()).status_code == 200
    (stray,) = site.said("these are no received pictures; put them elsewhere")
    assert stray["names"] == ["lost+found", "notes.txt"]
    assert len(site.said(what)) == 1


def test_a_reload_takes_it_in_and_out(site: Site) -> None:
    site.start()
    assert post(site, good()).status_code == 404
    configure(site)
    reload(site)
    assert post(site, good()).status_code == 200
    site.configure()
    reload(site)
    assert post(site, good()).status_code == 404

import os
import threading
import time
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry

from edged.journal.journal import Journal
from edged.media.imaging import ImageInput
from edged.service.metrics import Metrics, SourceObserver
from edged.sources.contract import SourceContext
from edged.sources.uploads import UploadSource, UploadTable
from edged.web.allowance import _LONGEST_DEBT_S, Allowance
from edged.web.app import make_app
from edged.web.asking import Worker
from edged.web.server import Server
from tests.edged.making import until

CORES = len(os.sched_getaffinity(0))


def test_what_is_spent_comes_back_with_time() -> None:
    allowance = Allowance(share=0.1 / CORES, saved_s=0.05)

    async def waited_s() -> float:
        began = time.monotonic()
        await allowance.wait()
        return time.monotonic() - began

    assert anyio.run(waited_s) < 0.5
    allowance.spend(0.15)
    assert anyio.run(waited_s) >= 0.9  # at least 0.1 s of CPU is owed, and a tenth of a second comes back in one


def test_a_debt_is_over_in_seconds() -> None:
    allowance = Allowance(share=10.0 / CORES, saved_s=0.05)
    allowance.spend(10.0 * 600)  # what ten minutes give back

    async def wait() -> None:
        with anyio.fail_after(_LONGEST_DEBT_S + 5):
            await allowance.wait()

    anyio.run(wait)


def test_a_crowd_begins_no_more_than_there_is_room_for() -> None:
    allowance = Allowance(share=0.001 / CORES, saved_s=0.01)
    worker, began = Worker(allowance), []

    def work() -> None:
        began.append(1)
        allowance.spend(1.0)

    async def crowd() -> None:
        with anyio.move_on_after(1.0):
            async with anyio.create_task_group() as tasks:
                for _ in range(20):
                    tasks.start_soon(worker.run, work)

    anyio.run(crowd)
    assert 1 <= len(began) <= 2


def test_pictures_go_on_and_what_only_looks_like_them_waits(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    context = SourceContext(journal, SourceObserver(Metrics(CollectorRegistry())), tmp_path, ImageInput(32, 32, 1))
    source = UploadSource(UploadTable(name="posted", type="http", model="tiny"), context)
    allowance = Allowance(share=0.001 / CORES)
    allowance.spend(60)
    app = make_app(CollectorRegistry(), list, token="word", uploads_to={"posted": source}.get, allowance=allowance)
    known = {"authorization": "Bearer word"}

    async def goes_on(method: str, name: str, headers: dict[str, str]) -> bool:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            with anyio.move_on_after(1.0):
                await client.request(method, f"/api/v1/sources/{name}/pictures", content=b"x", headers=headers)
                return True
        return False

    assert anyio.run(goes_on, "POST", "posted", known)
    assert not anyio.run(goes_on, "POST", "posted", {})
    assert not anyio.run(goes_on, "POST", "posted", {"authorization": "Bearer wrong"})
    assert not anyio.run(goes_on, "POST", "nobody", known)
    assert not anyio.run(goes_on, "GET", "posted", known)
    journal.close()


def http_cpu_s() -> float:
    """CPU time of the server's thread."""
    (thread,) = [one for one in threading.enumerate() if one.name == "http"]
    return int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0]) / 1e9


@pytest.mark.parametrize("anew", [False, True])
def test_a_flood_of_scrapes_takes_no_more_than_its_share(anew: bool) -> None:
    registry, per_s, saved_s = CollectorRegistry(), 0.05, 0.1
    Metrics(registry)
    app = make_app(registry, list, allowance=Allowance(share=per_s / CORES, saved_s=saved_s))
    server = Server(app, ("127.0.0.1", 0))
    server.start()
    stopped, answered = threading.Event(), [0] * 8

    def scrape(place: int) -> None:
        with httpx.Client(timeout=60) as client:
            while not stopped.is_set():
                ask = httpx.get if anew else client.get
                answered[place] += ask(f"{server.url}/metrics").status_code == 200

    threads = [threading.Thread(target=scrape, args=(place,)) for place in range(len(answered))]
    try:
        began = time.monotonic()
        for one in threads:
            one.start()
        until(lambda: sum(answered) > 0, "an answer")
        first_s, since = http_cpu_s(), time.monotonic()
        time.sleep(3.0)
        spent_s, elapsed_s = http_cpu_s() - first_s, time.monotonic() - since
        assert spent_s <= saved_s + 2 * per_s * elapsed_s + 0.1, (spent_s, elapsed_s, time.monotonic() - began)
        # What they were given at once is spent: now it is answers that take the CPU time, and not the waiting for them.
        before, first_s = sum(answered), http_cpu_s()
        time.sleep(3.0)
        answers, spent_s = sum(answered) - before, http_cpu_s() - first_s
        assert answers >= 60 * spent_s > 0, (answers, spent_s)
    finally:
        stopped.set()
        for one in threads:
            one.join()
        server.close()

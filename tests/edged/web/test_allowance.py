import os
import threading
import time
from pathlib import Path

import anyio
import httpx
import pytest
from prometheus_client import CollectorRegistry

from edged.service.metrics import Metrics
from edged.web.allowance import Allowance
from edged.web.app import make_app
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
        before = sum(answered)
        until(lambda: sum(answered) > before, "a further answer")
    finally:
        stopped.set()
        for one in threads:
            one.join()
        server.close()

"""Receivers that fail, hang, answer slowly and are down for minutes, while pictures come and the daemon is stopped.

    python bench/receivers.py              eleven minutes
    python bench/receivers.py --scale 0.1  the same in one, with receivers that are down for 18 s

A real daemon gets two pictures a second, every third one bad, and tells a file, a web hook, a program, a real Mosquitto
and a real Alertmanager. Each receiver in turn fails for a minute (500, exit code 1, a broker that restarts), hangs for
one, answers slowly for one, and is down for three; they begin a minute after each other, so that every mix occurs.
Three times meanwhile the daemon is stopped, as receivers hang, and started again.

What must be zero is printed as a count, and anything else there makes the exit code 1.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final, Protocol

import httpx
import numpy as np

from tests.edged.brokers import Broker, Listener
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, until
from tests.edged.sinks.alerting import Alertmanager
from tests.edged.sinks.receiving import Program

PHASES: Final = (("fail", 60.0), ("hang", 60.0), ("slow", 60.0), ("down", 180.0))
FIRST_S: Final = 30.0  # until the first receiver fails
APART_S: Final = 60.0  # until the next one does
STOPS_S: Final = (105.0, 240.0, 300.0)
LAST_S: Final = 60.0
EVERY_S: Final = 0.5
TIMEOUT_S: Final = 10.0
STOP_S: Final = TIMEOUT_S + 10.0
"""What a stop may take: the sinks' last tries, all at the same time, and what is around them."""
SLOWLY_S: Final = 0.4
LOOK_S: Final = 0.02
PATIENCE_S: Final = 900.0


class Receiver(Protocol):
    """One that does as it is told: well, fail, hang, slow, down."""

    keys: str

    def become(self, mode: str) -> None:
        """Does so from now on."""

    def ids(self) -> list[str]:
        """Of the records that it has taken, in order, as often as it took them."""
        ...

    def close(self) -> None:
        """Ends what runs."""


class HttpReceiver:
    """An HTTP server on loopback, which gives what it takes to `take`; that answers with a status."""

    def __init__(self, take: Callable[[bytes], int]) -> None:
        self._take, self._mode, self._port = take, "well", 0
        self._changed = threading.Event()
        self._server: ThreadingHTTPServer | None = None
        self._serve()
        self.keys = f'url = "http://127.0.0.1:{self._port}/"'

    def become(self, mode: str) -> None:
        """See `Receiver`."""
        self._mode = mode
        self._changed.set()  # who hangs lets go
        self._changed = threading.Event()
        if mode == "down":
            self._go_down()
        elif self._server is None:
            self._serve()

    def close(self) -> None:
        """See `Receiver`."""
        self.become("down")

    def _go_down(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def _serve(self) -> None:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                receiver._answer(self, self.rfile.read(int(self.headers["content-length"])))

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads, block_on_close = True, False

            def handle_error(self, *_: object) -> None:  # a client that has gone
                pass

        self._server = Server(("127.0.0.1", self._port), Handler)
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        mode, changed = self._mode, self._changed
        if mode == "hang":
            changed.wait()
        if mode in {"hang", "down"}:
            request.close_connection = True
            return
        if mode == "slow":
            time.sleep(SLOWLY_S)
        request.send_response(500 if mode == "fail" else self._take(body))
        request.send_header("content-length", "0")
        request.end_headers()


class WebHook(HttpReceiver):
    """It keeps the ids of what it has taken."""

    def __init__(self, folder: Path) -> None:  # noqa: ARG002 -- as the others
        self._ids: list[str] = []
        super().__init__(self._keep)

    def ids(self) -> list[str]:
        """See `Receiver`."""
        return self._ids.copy()

    def _keep(self, body: bytes) -> int:
        self._ids.append(json.loads(body)["id"])
        return 204


class AlertReceiver(HttpReceiver):
    """A real Alertmanager behind one who fails; it keeps the ids of what that has taken."""

    def __init__(self, folder: Path) -> None:
        self._real, self._ids = Alertmanager(folder / "alertmanager"), list[str]()
        super().__init__(self._pass_on)

    def ids(self) -> list[str]:
        """See `Receiver`."""
        return self._ids.copy()

    def close(self) -> None:
        """See `Receiver`."""
        super().close()
        self._real.close()

    def _pass_on(self, body: bytes) -> int:
        headers = {"content-type": "application/json"}
        answer = httpx.post(f"{self._real.where}/api/v2/alerts", content=body, headers=headers, timeout=60)
        if answer.is_success:
            self._ids += [alert["annotations"]["id"] for alert in json.loads(body)]
        return answer.status_code


class ProgramReceiver:
    """A program that appends what it reads to a file, or does what another file says."""

    def __init__(self, folder: Path) -> None:
        place = folder / "exec"
        place.mkdir()
        self._mode = place / "mode"
        modes = f"fail) exit 1;; hang) sleep 1000;; slow) sleep {SLOWLY_S};;"
        self._program = Program(place, f"case $(cat {self._mode}) in {modes} esac\ncat >> {{file}}")
        self._program.file.touch()
        self._mode.write_text("well")
        self.keys = f'command = ["{self._program.path}"]'

    def become(self, mode: str) -> None:
        """See `Receiver`."""
        partial = self._mode.with_suffix(".part")
        partial.write_text(mode)
        partial.rename(self._mode)
        self._program.end() if mode == "down" else self._program.begin_again()

    def ids(self) -> list[str]:
        """See `Receiver`."""
        return self._program.ids()

    def close(self) -> None:
        """There is nothing to end."""


class BrokerReceiver:
    """A real Mosquitto: one that fails is started anew every three seconds, a slow one runs one second in five."""

    def __init__(self, folder: Path) -> None:
        self._broker = Broker(folder)
        self._listener = Listener(self._broker, "edged/line1")
        self._mode, self._changed = "well", threading.Event()
        self._thread: threading.Thread | None = None
        self.keys = f'url = "{self._broker.url}"'

    def become(self, mode: str) -> None:
        """See `Receiver`."""
        self._changed.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._changed.clear()
        if mode == "down":
            self._end()
        else:
            self._begin_again()
        if mode == "hang":
            self._broker.send_signal(signal.SIGSTOP)
        if mode in {"fail", "slow"}:
            self._thread = threading.Thread(target=self._fail if mode == "fail" else self._go_slowly)
            self._thread.start()

    def ids(self) -> list[str]:
        """See `Receiver`."""
        return [json.loads(payload)["id"] for payload in self._listener.payloads("edged/line1")]

    def close(self) -> None:
        """See `Receiver`."""
        self.become("well")
        self._listener.close()
        self._broker.close()

    def _fail(self) -> None:
        while not self._changed.wait(3.0):
            self._end()
            self._begin_again()

    def _go_slowly(self) -> None:
        while not self._changed.is_set():
            self._broker.send_signal(signal.SIGSTOP)
            self._changed.wait(4.0)
            self._broker.send_signal(signal.SIGCONT)
            self._changed.wait(1.0)

    def _begin_again(self) -> None:
        if self._broker.process is None:
            self._broker.start()
        self._broker.send_signal(signal.SIGCONT)

    def _end(self) -> None:
        """In order: what it has acknowledged and not yet written would be lost by the broker, not by us."""
        if self._broker.process is not None:
            self._broker.send_signal(signal.SIGCONT)
            self._broker.end(signal.SIGTERM)


RECEIVERS: Final[dict[str, Callable[[Path], Receiver]]] = {
    "mqtt": BrokerReceiver,
    "alertmanager": AlertReceiver,
    "exec": ProgramReceiver,
    "webhook": WebHook,
}
"""In the order in which they begin to fail."""


class Pictures:
    """Drops pictures, steadily, in a thread of its own, and watches how long the file takes to have each."""

    def __init__(self, site: Site) -> None:
        self._site, self._stopping = site, threading.Event()
        self.dropped_at: list[float] = []
        self.told_at: list[float] = []
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def stop(self) -> None:
        """Drops no more, and waits until the file has all."""
        self._stopping.set()
        self._thread.join()

    def lags(self, away: list[tuple[float, float]]) -> list[float]:
        """Seconds from the drop to the line, without those that met the daemon away in between."""
        return [
            told - dropped
            for dropped, told in zip(self.dropped_at, self.told_at, strict=True)
            if not any(dropped < until_ and told > since for since, until_ in away)
        ]

    def _work(self) -> None:
        due, read = time.monotonic(), 0
        ends = float("inf")
        while len(self.told_at) < len(self.dropped_at) or not self._stopping.is_set():
            now = time.monotonic()
            if self._stopping.is_set():
                ends = min(ends, now + PATIENCE_S)
                if now > ends:
                    return
            elif now >= due:
                number = len(self.dropped_at)
                self.dropped_at.append(now)
                drop(self._site.inbox / f"{number:06}.png", good(number) if number % 3 else bad(number))
                due += EVERY_S
            with contextlib.suppress(FileNotFoundError), self._site.jsonl.open("rb") as file:
                file.seek(read)
                new = file.read()
                read += len(new)
                self.told_at += [time.monotonic()] * new.count(b"\n")
            time.sleep(LOOK_S)


def main() -> int:
    """Lets everything go wrong, and accounts for every record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="of all times")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edged-receivers-") as name, contextlib.ExitStack() as stack:
        return measure(Path(name), stack, arguments.scale)


def measure(folder: Path, stack: contextlib.ExitStack, scale: float) -> int:
    """What `main` returns."""
    receivers: dict[str, Receiver] = {}
    for kind, make in RECEIVERS.items():
        receivers[kind] = make(folder)
        stack.callback(receivers[kind].close)
    site = Site(folder)
    stack.callback(site.clean_up)
    tables = (
        f'[[sinks]]\nname = "{kind}"\ntype = "{kind}"\ntimeout_seconds = {TIMEOUT_S}\n{one.keys}\n'
        for kind, one in receivers.items()
    )
    site.configure(rest="".join(tables))
    site.start()
    began, pictures = time.monotonic(), Pictures(site)
    stack.callback(pictures.stop)
    modes, away = dict.fromkeys(receivers, "well"), list[tuple[float, float]]()
    for at, act in plan(scale):
        time.sleep(max(0.0, began + at - time.monotonic()))
        if act is None:
            away.append(stop_and_start(site, modes))
            continue
        kind, mode = act
        print(f"{time.monotonic() - began:6.0f} s  {kind}: {mode}", file=sys.stderr)
        receivers[kind].become(mode)
        modes[kind] = mode
    pictures.stop()
    metrics = site.metrics()
    rows = site.rows()
    wanted = {
        kind: [row.id for row in rows if kind != "alertmanager" or row.is_anomaly] for kind in ("jsonl", *receivers)
    }
    for kind, one in receivers.items():
        until(lambda one=one, kind=kind: {*one.ids()} >= {*wanted[kind]}, f"all records at {kind}", PATIENCE_S)
    print(f"{len(pictures.dropped_at)} pictures, {len(rows)} records, {len(away)} stops")
    lags = pictures.lags(away)
    print(
        f"from the drop of a picture to its line in the file, of {len(lags)} that met no stop: p50 "
        f"{np.median(lags):.2f} s, p95 {np.quantile(lags, 0.95):.2f} s, at most {max(lags):.2f} s"
    )
    faults = int(site.stop() != 0) + len(pictures.dropped_at) - len(rows)
    counts = ("edged_sink_dead_letters_total", "edged_sink_dropped_total")
    faults += sum(int(value) for name, value in metrics.items() if name.startswith(counts))
    print(f"{'':14}{'records':>9}{'missing':>9}{'invented':>10}{'disorder':>10}{'came again':>12}")
    had = {"jsonl": [line["id"] for line in site.lines()]} | {kind: one.ids() for kind, one in receivers.items()}
    for kind, ids in had.items():
        first = list(dict.fromkeys(ids))
        known = [id_ for id_ in first if id_ in {*wanted[kind]}]
        missing, invented = len({*wanted[kind]} - {*ids}), len(first) - len(known)
        disorder = sum(one != other for one, other in zip(known, wanted[kind], strict=False))
        print(f"{kind:14}{len(known):9}{missing:9}{invented:10}{disorder:10}{len(ids) - len(first):12}")
        faults += missing + invented + disorder
    return int(faults > 0)


def plan(scale: float) -> list[tuple[float, tuple[str, str] | None]]:
    """When which receiver becomes what, seconds from the beginning; None for a stop. The end is the last entry."""
    found: list[tuple[float, tuple[str, str] | None]] = [(at * scale, None) for at in STOPS_S]
    for number, kind in enumerate(RECEIVERS):
        at = FIRST_S + number * APART_S
        for mode, seconds in PHASES:
            found.append((at * scale, (kind, mode)))
            at += seconds
        found.append((at * scale, (kind, "well")))
    found.sort(key=lambda entry: entry[0])
    last, _ = found[-1]
    return [*found, (last + LAST_S * scale, (next(iter(RECEIVERS)), "well"))]


def stop_and_start(site: Site, modes: dict[str, str]) -> tuple[float, float]:
    """From when to when the daemon was away; whether the stop was in time is told."""
    began = time.monotonic()
    code = site.stop()
    took = time.monotonic() - began
    away = ", ".join(f"{kind}: {mode}" for kind, mode in modes.items())
    print(f"a stop took {took:.1f} s and ended with {code} ({away})")
    if code != 0 or took > STOP_S:
        sys.exit(f"receivers: a stop may take {STOP_S:.0f} s and ends with 0")
    site.start()
    return began, time.monotonic()


if __name__ == "__main__":
    sys.exit(main())

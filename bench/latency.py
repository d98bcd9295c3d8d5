"""How long it takes from the rename of a picture to whoever is to know: a PLC, a program, a web hook, a file.

    python bench/latency.py [BUNDLE] [--pictures DIR] [--count N] [--sink TYPE]...

By default it takes what `make demo` left behind. One daemon, with a sink of each type; pictures come one by one, each
when everybody has heard of the one before it, after a pause. A result is durable before any sink hears of it.

    jsonl     until the line stands in the file, which is on the disk by then; looked for every 0.5 ms
    opcua     until a subscriber of ResultId is told, with a publishing interval of 10 ms
    exec      until the program, started anew for each, has passed on what it reads (tee)
    webhook   until the request has arrived
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import numpy as np
from throughput import PATIENCE_SECONDS, PAUSE_SECONDS, TEMPLATE, WARM_UP, Lines

from demo import DEMO, answers, free_port, wait
from edged.media.imaging import find_pictures

PUBLISHING_MS: Final = 10
LOOK_SECONDS: Final = 0.0005
TYPES: Final = ("jsonl", "opcua", "exec", "webhook")

Arrived = Callable[[], None]


def main() -> int:
    """Prints p50 and p95 of every sink, in milliseconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=DEMO / "bundles" / "solar")
    parser.add_argument("--pictures", type=Path, default=DEMO / "inbox", help="a folder of pictures")
    parser.add_argument("--count", type=int, default=100, help="pictures that are measured")
    parser.add_argument("--sink", action="append", choices=TYPES, help="only these types; the file is always there")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    arguments = parser.parse_args()
    if not arguments.bundle.is_dir() or not arguments.pictures.is_dir():
        sys.exit("latency: there is no bundle or there are no pictures; run `make demo` first, or name both")
    types = [one for one in TYPES if one == "jsonl" or one in (arguments.sink or TYPES)]
    with tempfile.TemporaryDirectory(prefix="edged-latency-") as folder, contextlib.ExitStack() as stack:
        taken = measure(Path(folder), stack, types, arguments)
    figures = {
        name: dict(zip(("p50_ms", "p95_ms"), np.percentile(times, (50, 95)), strict=True))
        for name, times in taken.items()
    }
    print(f"from the rename, {arguments.count} pictures one by one\n{'':10}{'p50, ms':>10}{'p95, ms':>10}")
    for name, (p50, p95) in ((name, found.values()) for name, found in figures.items()):
        print(f"{name:10}{p50:10.1f}{p95:10.1f}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


def measure(
    folder: Path, stack: contextlib.ExitStack, types: list[str], arguments: argparse.Namespace
) -> dict[str, list[float]]:
    """Milliseconds of every picture, by sink."""
    inbox, staging, port = folder / "inbox", folder / "staging", free_port()
    for made in (inbox, staging):
        made.mkdir()
    arrivals: defaultdict[str, queue.SimpleQueue[float]] = defaultdict(queue.SimpleQueue)

    def arrived(name: str) -> Arrived:
        return lambda: arrivals[name].put(time.perf_counter())

    keys, watchers = {}, []
    for name in types:
        if name != "jsonl":
            keys[name], watcher = RECEIVERS[name](folder, stack, arrived(name))
            watchers.append(watcher)
    paths = {"state": folder / "state", "bundle": arguments.bundle.resolve(), "inbox": inbox, "results": folder / "out"}
    config = folder / "edged.toml"
    config.write_text(
        TEMPLATE.format(port=port, device="cpu", **{key: json.dumps(str(path)) for key, path in paths.items()})
        + "".join(f'[[sinks]]\nname = "{name}"\ntype = "{name}"\n{lines}\n' for name, lines in keys.items())
    )
    stack.enter_context(running(folder, config, port))
    for watcher in watchers:
        watcher()
    pictures = sorted(find_pictures(arguments.pictures))
    lines, taken = Lines(paths["results"]), {name: list[float]() for name in types}
    for number in range(WARM_UP + arguments.count):
        picture = pictures[number % len(pictures)]
        staged = staging / f"{number:06d}{picture.suffix}"
        staged.write_bytes(picture.read_bytes())
        time.sleep(PAUSE_SECONDS)
        began = time.perf_counter()
        staged.rename(inbox / staged.name)
        while lines.count() <= number:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                sys.exit(f"latency: no result in {PATIENCE_SECONDS:.0f} s")
            time.sleep(LOOK_SECONDS)
        ends = {"jsonl": time.perf_counter()}
        ends |= {name: arrivals[name].get(timeout=PATIENCE_SECONDS) for name in keys}
        if number >= WARM_UP:
            for name, end in ends.items():
                taken[name].append(1000 * (end - began))
    return taken


@contextlib.contextmanager
def running(folder: Path, config: Path, port: int) -> Iterator[None]:
    """A daemon that is ready."""
    with (folder / "edged.log").open("wb") as log:
        process = subprocess.Popen([Path(sys.executable).with_name("edged"), "run", "-c", config], stderr=log)
    try:
        wait(lambda: answers(f"http://127.0.0.1:{port}/readyz"), PATIENCE_SECONDS, "the daemon is not ready", process)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


# Receivers: the keys of the sink, and what is to be done when the daemon is ready.


def web_hook(_: Path, stack: contextlib.ExitStack, arrived: Arrived) -> tuple[str, Arrived]:
    """An HTTP server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            arrived()
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return f'url = "http://127.0.0.1:{server.server_address[1]}/"', lambda: None


def program(folder: Path, stack: contextlib.ExitStack, arrived: Arrived) -> tuple[str, Arrived]:
    """A program that writes what it reads into a pipe with a name."""
    pipe = folder / "pipe"
    os.mkfifo(pipe)
    descriptor = os.open(pipe, os.O_RDWR)  # never at its end
    stack.callback(os.close, descriptor)

    def follow() -> None:
        left = b""
        while True:
            left += os.read(descriptor, 1 << 16)
            for _ in range(left.count(b"\n")):
                arrived()
            left = left.rpartition(b"\n")[2]

    threading.Thread(target=follow, daemon=True).start()
    return f'command = ["/usr/bin/tee", {json.dumps(str(pipe))}]', lambda: None


def plc(_: Path, __: contextlib.ExitStack, arrived: Arrived) -> tuple[str, Arrived]:
    """A subscriber of the OPC UA server."""
    from asyncua import Client

    logging.getLogger("asyncua").setLevel(logging.CRITICAL)  # that the server goes at the end
    port, subscribed = free_port(0), threading.Event()  # not what the daemon will have

    class Told:
        def datachange_notification(self, _: Any, value: Any, __: Any) -> None:
            if value is not None:  # none before the first result
                arrived()

    async def follow() -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                async with Client(f"opc.tcp://127.0.0.1:{port}/", timeout=60) as client:
                    subscription = await client.create_subscription(PUBLISHING_MS, Told())
                    node = client.get_node("ns=2;s=LatestResult.ResultId")
                    await subscription.subscribe_data_change(node, queuesize=100)
                    subscribed.set()
                    await asyncio.Event().wait()
            except OSError:  # it does not listen yet
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.2)

    def begin() -> None:
        threading.Thread(target=lambda: asyncio.run(follow()), daemon=True).start()
        if not subscribed.wait(PATIENCE_SECONDS):
            sys.exit("latency: the OPC UA server does not answer")

    return f'listen = "127.0.0.1:{port}"', begin


RECEIVERS: Final = {"exec": program, "opcua": plc, "webhook": web_hook}


if __name__ == "__main__":
    sys.exit(main())

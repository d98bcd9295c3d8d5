"""What clients of the page, the API and the metrics cost scoring: those that are silent, slow, many, or a flood.

    python bench/clients.py [BUNDLE] [--pictures DIR] [--rounds N] [--count N]

By default it takes what `make demo` left behind. One daemon scores bursts, in turns with nobody there and with each
sort of client, which are a process of their own at the lowest priority. Medians over rounds are given, each of a burst
as a share of the one before it that nobody disturbed:

    images/s      of what it is when nobody is there; on a machine of few cores the clients' own work is in it
    CPU           of a picture: the daemon and its decoders, answers included
    share         of the machine's CPU time that the daemon took more than for the same pictures alone
    answers       that the clients got in a second
"""

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from throughput import WARM_UP, Daemon, running

from demo import DEMO
from edged.media.imaging import find_pictures

SETTLE_SECONDS: Final = 15.0
Place = tuple[str, int]
answered = 0


async def silent(place: Place) -> None:
    """Connects, says nothing, and comes back when it is dropped."""
    reader, writer = await asyncio.open_connection(*place)
    await reader.read()
    writer.close()
    await asyncio.sleep(0.5)


async def slow(place: Place) -> None:
    """Sends a request that never ends, a line a second."""
    _, writer = await asyncio.open_connection(*place)
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    while not writer.is_closing():
        writer.write(b"X: y\r\n")
        await writer.drain()
        await asyncio.sleep(1.0)


async def scrape(place: Place) -> None:
    """Asks for the metrics again and again on one connection."""
    reader, writer = await asyncio.open_connection(*place)
    while True:
        await ask(reader, writer, "/metrics")


async def visit(place: Place) -> None:
    """Asks for the metrics, each time on a new connection."""
    reader, writer = await asyncio.open_connection(*place)
    await ask(reader, writer, "/metrics")
    writer.close()


async def look(place: Place) -> None:
    """Looks at everything, again and again."""
    for path in ("/", "/results", "/results.csv", "/api/v1/results?limit=200", "/models", "/models/bench/threshold"):
        reader, writer = await asyncio.open_connection(*place)
        await ask(reader, writer, path)
        writer.close()


async def ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> None:
    """One request, and its whole answer."""
    global answered  # noqa: PLW0603
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if b"transfer-encoding: chunked" in head:
        while await reader.readuntil(b"\r\n") != b"0\r\n":
            await reader.readuntil(b"\r\n")
    else:
        await reader.readexactly(int(head.partition(b"content-length:")[2].split(b"\r\n")[0]))
    answered += b"http/1.1 200" in head


SORTS: Final[dict[str, tuple[Callable[[Place], Awaitable[None]], int]]] = {
    "20 that are silent": (silent, 20),
    "20 that are slow": (slow, 20),
    "200 idle connections": (silent, 200),
    "8 that scrape without a pause": (scrape, 8),
    "8 that scrape, connecting anew": (visit, 8),
    "8 that look at everything": (look, 8),
}


async def disturb(sort: str, place: Place) -> None:
    """Clients of a sort, until the process is ended; tells how much they were answered, twice a second."""
    client, count = SORTS[sort]

    async def again() -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError):
                await client(place)
            await asyncio.sleep(0)

    clients = [asyncio.create_task(again()) for _ in range(count)]
    while not any(one.done() for one in clients):
        print(answered, flush=True)
        await asyncio.sleep(0.5)


@contextlib.contextmanager
def disturbed(sort: str, daemon: Daemon) -> Iterator[list[float]]:
    """Clients of a sort are there meanwhile; what is given holds, in the end, their answers a second."""
    rate: list[float] = []
    command = ["nice", "-n", "19", sys.executable, __file__, "--disturb", sort, "--address", daemon.address]
    with tempfile.TemporaryFile("w+") as told, subprocess.Popen(command, stdout=told) as clients:
        try:
            time.sleep(SETTLE_SECONDS)  # with what was saved for a quiet while spent
            began, before = time.monotonic(), last(told.fileno())
            yield rate
            rate.append((last(told.fileno()) - before) / (time.monotonic() - began))
        finally:
            clients.terminate()


def last(told: int) -> int:
    """The last whole number that clients have told."""
    lines = os.pread(told, 1 << 20, 0).decode().rpartition("\n")[0].splitlines()
    return int(lines[-1]) if lines else 0


def main() -> int:
    """Prints one line a sort of client."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", nargs="?", type=Path, default=DEMO / "bundles" / "solar")
    parser.add_argument("--pictures", type=Path, default=DEMO / "inbox", help="a folder of pictures")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=600, help="pictures in a burst")
    parser.add_argument("--sort", action="append", choices=SORTS, help="only clients of this sort")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.set_defaults(device="cpu", overlays=False)
    parser.add_argument("--disturb", choices=SORTS, help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.disturb:
        address = urlsplit(arguments.address)
        asyncio.run(disturb(arguments.disturb, (str(address.hostname), address.port or 0)))
        return 0
    if not arguments.bundle.is_dir() or not arguments.pictures.is_dir():
        sys.exit("clients: there is no bundle or there are no pictures; run `make demo` first, or name both")
    found = sorted(find_pictures(arguments.pictures))
    pictures = [found[index % len(found)] for index in range(max(WARM_UP, arguments.count))]
    rounds: defaultdict[str, defaultdict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    program = Path(sys.executable).with_name("edged")
    with (
        tempfile.TemporaryDirectory(prefix="edged-clients-") as folder,
        running(Path(folder) / "daemon", "daemon", program, arguments) as daemon,
    ):
        daemon.burst(pictures)
        for _ in range(arguments.rounds):
            for sort in arguments.sort or SORTS:
                alone = daemon.burst(pictures, tell_stages=False)
                with disturbed(sort, daemon) as rate:
                    beside = daemon.burst(pictures, tell_stages=False)
                for key in ("images_per_s", "cpu_ms"):
                    rounds[sort][key].append(beside[key] / alone[key])
                more_s = (beside["cpu_ms"] - alone["cpu_ms"]) / 1000 * beside["images_per_s"]
                rounds[sort]["share"].append(more_s / len(os.sched_getaffinity(0)))
                rounds[sort]["answers_per_s"] += rate
    medians = {sort: {key: statistics.median(one) for key, one in figures.items()} for sort, figures in rounds.items()}
    print(f"\nbursts of {len(pictures)}\n{'':34}{'images/s':>12}{'CPU':>12}{'share':>12}{'answers/s':>12}")
    for sort, figures in medians.items():
        print(f"{sort:34}" + "".join(f"{value:12.3f}" for value in figures.values()))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(medians, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

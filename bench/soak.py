"""Whether anything is lost, doubled or leaked in the long run, and what durability costs.

    python bench/soak.py --rounds 1000      kills the daemon so often, and accounts for every picture
    python bench/soak.py --mqtt-rounds 200  the same for pictures of a broker, and results to it (takes mosquitto)
    python bench/soak.py --minutes 30       steady load with faults; slopes of memory, files, threads and journal
    python bench/soak.py --cost             images/s with the journal on this disk, and in memory

The daemon is a real one on the tiny model of the tests, whose harness this uses. What must be zero is printed as a
count, and anything else there makes the exit code 1.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import hashlib
import json
import os
import random
import shutil
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from slopes import eighths, slope

from edged.journal.schema import FILE
from tests.edged.brokers import Broker, Listener
from tests.edged.daemons import Site
from tests.edged.killing import Account, Kills, Line, other_file_system
from tests.edged.making import drop, good, kill_child, until
from tests.edged.producing import WAYS

SAMPLE_S = 2.0
FAULTS = ("decoder killed", "reload", "folder away", "sink away", "stopped for a second")
PER_BLOCK = 50
AT_FDCWD, RENAME_EXCHANGE = -100, 2
COST_PICTURES, COST_RUNS = 1500, 5
STEPS = ("claimed", "decoded", "committing", "committed", "told", "published", "delivered")
MQTT = """
[[sources]]
name = "cell"
type = "mqtt"
url = "{url}"
topic = "cell/+"
model = "tiny"
[[sinks]]
name = "broker"
type = "mqtt"
url = "{url}"
"""


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=0, help="kills")
    parser.add_argument("--mqtt-rounds", type=int, default=0, help="kills with messages in flight")
    parser.add_argument("--minutes", type=float, default=0.0, help="of steady load")
    parser.add_argument("--per-second", type=float, default=20.0, help="pictures a second of that load, about")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only these faults under that load")
    parser.add_argument("--fault-seconds", type=float, default=10.0, help="from one fault to the next")
    parser.add_argument("--cost", action="store_true", help="throughput with and without the disk")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--place", type=Path, default=None, help="where to work; a temporary folder by default")
    arguments = parser.parse_args()
    if not (arguments.rounds or arguments.mqtt_rounds or arguments.minutes or arguments.cost):
        parser.error("give --rounds, --mqtt-rounds, --minutes or --cost")
    sound = True
    with tempfile.TemporaryDirectory(prefix="edged-soak-", dir=arguments.place) as folder:
        if arguments.rounds:
            sound &= kill_rounds(Path(folder), arguments.rounds, arguments.seed)
        if arguments.mqtt_rounds:
            sound &= mqtt_rounds(Path(folder), arguments.mqtt_rounds, arguments.seed)
        if arguments.minutes:
            sound &= steady(Path(folder), arguments)
        if arguments.cost:
            cost(Path(folder))
    return 0 if sound else 1


# Kills.


def kill_rounds(folder: Path, rounds: int, seed: int) -> bool:
    """Kills the daemon and accounts for every picture after every block of rounds; whether all is well."""
    kills, account, began = Kills(), Account(), time.monotonic()
    for block in range(-(-rounds // PER_BLOCK)):
        root = folder / f"kills-{block}"
        root.mkdir()
        far = other_file_system(root)
        line = Line(root, seed=seed + block, far=far)
        try:
            line.kill_rounds(min(PER_BLOCK, rounds - block * PER_BLOCK), kills)
            _add(account, line.finish())
        finally:
            line.clean_up()
            shutil.rmtree(root)
            if far is not None:
                shutil.rmtree(far)
        print(f"{kills.total:5} kills, {account.dropped} pictures, {len(account.problems)} problems", file=sys.stderr)
    _print(dataclasses.asdict(kills) | {"minutes": round((time.monotonic() - began) / 60, 1)})
    return _report(account)


def mqtt_rounds(folder: Path, rounds: int, seed: int) -> bool:
    """Kills the daemon while pictures come from a broker and results go to it; whether all is well.

    A third of the kills come at a random instant, a third after a random number of rows, a third between two durable
    steps.
    """
    root = folder / "mqtt"
    root.mkdir()
    site, broker, chance, began = Site(root), Broker(root), random.Random(seed), time.monotonic()
    site.configure(rest=MQTT.format(url=broker.url))
    listener = Listener(broker, "edged/cell")
    found = {"kills": 0, "with pictures in flight": 0, "with results the broker had not": 0, "while it started": 0}
    site.start()  # so that the broker keeps what comes from now on
    until(lambda: site.metrics()['edged_source_up{source="cell"}'] == 1, "the source to be up", 600)
    published: Counter[str] = Counter()
    try:
        with broker.client() as client:
            for number in range(rounds):
                sent = []
                for _ in range(chance.randint(5, 40)):
                    data = good(chance.randrange(100_000)) if chance.random() < 0.95 else os.urandom(500)
                    for _ in range(2 if chance.random() < 0.05 else 1):  # the same picture may come twice
                        sent.append(client.publish("cell/a", data, qos=1))
                        published[hashlib.sha256(data).hexdigest()] += 1
                _await_kill(site, chance, number % 3)
                for one in sent:
                    one.wait_for_publish(600)
                rows = _count(site)
                found["kills"] += 1
                found["with pictures in flight"] += rows < published.total()
                found["with results the broker had not"] += len({*_ids(listener)}) < rows
                found["while it started"] += not site.said("ready")
                armed = {"EDGED_FAILPOINT": f"{chance.choice(STEPS)}:{chance.randint(1, 20)}"}
                site.start(wait=False, environment=armed if (number + 1) % 3 == 2 else {})
        site.stop()
        site.start()
        until(lambda: _count(site) >= published.total(), "a row for every picture", 600)
        until(lambda: {*_ids(listener)} >= {row.id for row in site.rows()}, "a message for every row", 600)
        assert site.stop() == 0
        rows = Counter(row.sha256 for row in site.rows())
        ids = [row.id for row in site.rows()]
        found |= {
            "pictures": published.total(),
            "rows": rows.total(),
            "lost": (published - rows).total(),
            "doubled": (rows - published).total(),
            "missing at the broker": len({*ids} - {*_ids(listener)}),
            "out of order": int(list(dict.fromkeys(_ids(listener))) != ids),
            "messages that came twice": len(_ids(listener)) - len({*_ids(listener)}),
            "minutes": round((time.monotonic() - began) / 60, 1),
        }
    finally:
        site.clean_up()
        listener.close()
        broker.close()
    _print(found)
    return not any(found[what] for what in ("lost", "doubled", "missing at the broker", "out of order"))


def _await_kill(site: Site, chance: random.Random, how: int) -> None:
    """Kills the daemon, at an instant, after some rows, or where it kills itself; it runs no longer."""
    assert site.process is not None
    before, patience = _count(site), chance.uniform(0.2, 3.0) if how == 0 else 20.0
    wanted = before + (1_000_000 if how != 1 else chance.randint(1, 30))
    deadline = time.monotonic() + patience
    while site.process.poll() is None and time.monotonic() < deadline and _count(site) < wanted:
        time.sleep(0.02)
    site.clean_up()  # kills
    site.process = None


def _count(site: Site) -> int:
    """How many results there are; asked often, of many."""
    with contextlib.closing(sqlite3.connect(f"file:{site.state / FILE}?mode=ro", uri=True, timeout=60)) as db:
        return int(db.execute("SELECT count(*) FROM results").fetchone()[0])


def _ids(listener: Listener) -> list[str]:
    return [json.loads(payload)["id"] for payload in listener.payloads("edged/cell")]


def _add(account: Account, more: Account) -> None:
    for field in dataclasses.fields(Account):
        setattr(account, field.name, getattr(account, field.name) + getattr(more, field.name))


def _report(account: Account) -> bool:
    _print({key: value for key, value in dataclasses.asdict(account).items() if key != "problems"})
    for problem in account.problems[:20]:
        print(problem)
    print(f"{'problems':28}{len(account.problems):12}")
    return not account.problems


def _print(figures: dict[str, float]) -> None:
    for name, value in figures.items():
        print(f"{name:28}{value:12}")


# Steady load.


def steady(folder: Path, asked: argparse.Namespace) -> bool:
    """Steady load with a fault every few seconds; whether all is well at the end."""
    root = folder / "steady"
    root.mkdir()
    line, chance = Line(root, seed=asked.seed, kinds=("move", "delete"), lines=""), random.Random(asked.seed)
    # A folder that was moved in stays, and is watched; it is the load then that grows, not the daemon.
    line.producer.ways = tuple(way for way in WAYS if way != "folder")
    samples: list[tuple[float, ...]] = []
    faults = dict.fromkeys(asked.fault or FAULTS, 0)
    line.site.start()
    pid = line.site.pid
    line.producer.start(2 / asked.per_second)
    began, fault_due = time.monotonic(), time.monotonic() + asked.fault_seconds
    try:
        while (now := time.monotonic()) < began + 60 * asked.minutes:
            if now >= fault_due:
                fault = chance.choice(list(faults))
                _fault(line, fault)
                faults[fault] += 1
                fault_due = now + asked.fault_seconds
            samples.append((now - began, *_measure(pid), line.site.metrics()["edged_journal_bytes"], line.rows()))
            time.sleep(SAMPLE_S)
    finally:
        line.producer.stop()
    alive = line.site.process is not None and line.site.process.poll() is None
    _print({"minutes": asked.minutes, "daemon alive": int(alive), **faults})
    _slopes(np.array(samples))
    sound = _report(line.finish())
    line.clean_up()
    return sound and alive


def _fault(line: Line, fault: str) -> None:
    if fault == "decoder killed":
        kill_child(line.site.pid)
    elif fault == "reload":
        os.kill(line.site.pid, signal.SIGHUP)
    elif fault == "stopped for a second":
        os.kill(line.site.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.kill(line.site.pid, signal.SIGCONT)
    elif fault == "sink away":
        folder = line.site.jsonl.with_suffix(".away")
        folder.mkdir()
        _exchange(line.site.jsonl, folder)
        time.sleep(2.0)
        _exchange(line.site.jsonl, folder)
        folder.rmdir()
    else:
        with line.producer.held():
            inbox = line.inboxes[0].folder
            inbox.rename(inbox.with_name("away"))
            time.sleep(2.0)
            inbox.with_name("away").rename(inbox)


def _exchange(one: Path, other: Path) -> None:
    """Swaps two names at once: in a moment without the file, the sink would begin a new one, which is then lost."""
    names = (os.fsencode(one), os.fsencode(other))
    if ctypes.CDLL(None, use_errno=True).renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) != 0:
        raise OSError(ctypes.get_errno(), "cannot be exchanged", str(one), None, str(other))


def _measure(pid: int) -> tuple[float, float, float]:
    """Resident MiB, open files and threads."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return (
        int(status["VmRSS"].split()[0]) / 1024,
        len(os.listdir(f"/proc/{pid}/fd")),
        int(status["Threads"]),
    )


def _slopes(samples: np.ndarray) -> None:
    print(f"{'resident MiB, in eighths':28}{eighths(samples[:, 1])}")
    hours, results = samples[:, 0] / 3600, samples[:, 5] / 1000
    for name, over, values in (
        ("resident MiB / hour", hours, samples[:, 1]),
        ("open files / hour", hours, samples[:, 2]),
        ("threads / hour", hours, samples[:, 3]),
        ("journal kB / 1000 results", results, samples[:, 4] / 1000),
    ):
        print(f"{name:28}{slope(over, values)}")


# What it costs.


def cost(folder: Path) -> None:
    """Images/s with the journal and the sink on this disk, and in memory; the runs take turns."""
    memory = other_file_system(folder)
    if memory is None:
        sys.exit("soak: /dev/shm is no file system of its own here, so there is no memory to compare with")
    rates: dict[str, list[float]] = {"disk": [], "memory": []}
    try:
        for run in range(COST_RUNS):
            for name, place in (("disk", folder), ("memory", memory)):
                rates[name].append(_rate(folder / f"cost-{name}-{run}", place / f"state-{name}-{run}"))
    finally:
        shutil.rmtree(memory)
    disk, in_memory = (sorted(values)[len(values) // 2] for values in rates.values())
    _print({"images/s, journal on disk": round(disk, 1), "images/s, in memory": round(in_memory, 1)})
    print(f"{'ratio of the medians':28}{disk / in_memory:12.3f}   {rates}")


def _rate(root: Path, state: Path) -> float:
    root.mkdir()
    site = Site(root)
    site.state, site.jsonl = state, state / "results.jsonl"
    site.configure('after = "keep"', settle_seconds=0)
    for number in range(COST_PICTURES):
        drop(site.inbox / f"{number}.png", good(number))
    site.start()
    count = 'edged_images_total{outcome="ok",source="line1"}'
    until(lambda: site.metrics()[count] >= COST_PICTURES / 10, "the first ones", 600)
    first, began = site.metrics()[count], time.monotonic()
    until(lambda: site.metrics()[count] >= COST_PICTURES, "the last one", 600)
    rate = (COST_PICTURES - first) / (time.monotonic() - began)
    assert site.stop() == 0
    shutil.rmtree(root)
    return rate


if __name__ == "__main__":
    sys.exit(main())

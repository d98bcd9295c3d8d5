"""A daemon that is killed again and again, and an account of every picture that it was given.

The daemon, its inboxes, its journal and its sinks are real. Four sources run at once: one for each `after`, and one
that moves to another file system.
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edged.errors import RefusedError
from edged.journal.schema import FILE
from edged.results import OK
from edged.sources.folder.requeue import requeue
from edged.sources.folder.table import FolderTable
from tests.edged.daemons import Site
from tests.edged.making import until
from tests.edged.producing import Inbox, Producer

SETTLE_S, PAUSE_S = 0.2, 0.5
RETRY_S = 6.0
"""How long a writer that pauses has for the rest of its file, on a machine that is busy with other things."""

_PATIENCE_S = 600.0


@dataclass
class Kills:
    """What the kills found. `waiting`: arrivals without a result; `owed`, `undelivered`: results whose file had not
    left, which a sink had not been given; `held`: files between inbox and target."""

    total: int = 0
    in_flight: int = 0
    starting: int = 0
    waiting: int = 0
    owed: int = 0
    undelivered: int = 0
    held: int = 0


@dataclass
class Account:
    """What became of the pictures; `problems` says of each that is not as it should be what is wrong."""

    dropped: int = 0
    rows: int = 0
    lost: int = 0
    duplicated: int = 0
    misplaced: int = 0
    misjudged: int = 0
    not_in_sinks: int = 0
    repeated_lines: int = 0
    problems: list[str] = field(default_factory=list)


class Line:
    """A site whose daemon may be killed at any time, and the producer that fills its inboxes."""

    def __init__(
        self,
        root: Path,
        *,
        seed: int,
        far: Path | None = None,
        kinds: Sequence[str] = (),
        rest: str = "",
        place: Path | None = None,
        rescan_seconds: float = 60,
        lines: str = "max_bytes = 10_000\nmax_backups = 1000",
    ) -> None:
        """Makes the folders and the configuration.

        Args:
            root: an empty folder.
            seed: of the producer and the kills.
            far: a folder on another file system.
            kinds: some of move, keep, delete, far; all by default, far only with the folder.
            rest: more lines of the configuration.
            place: where the inboxes, and what is done with on the same file system, are; `root` by default.
            rescan_seconds: of every source.
            lines: more keys of the jsonl sink; by default it rotates its file again and again, and keeps all of it.
        """
        self.site = Site(root)
        self.random = random.Random(seed)
        kinds = kinds or ("move", "keep", "delete", *(("far",) if far else ()))
        self.inboxes = []
        here = place or root
        for kind in kinds:
            there = here if kind != "far" or far is None else far
            folder = here / f"in-{kind}"
            folder.mkdir()
            self.inboxes.append(
                Inbox(
                    kind,
                    "move" if kind == "far" else kind,
                    folder,
                    there / f"done-{kind}",
                    there / f"quarantine-{kind}",
                )
            )
        self._tables = [
            inbox.table(settle_seconds=SETTLE_S, retry_seconds=RETRY_S, rescan_seconds=rescan_seconds)
            for inbox in self.inboxes
        ]
        overlays = f'[[sinks]]\nname = "pictures"\ntype = "images"\ndir = "{self.site.overlays}"\nonly = "all"\n'
        self._tables.append(overlays)
        self._lines = lines
        self.configure(rest)
        self.producer = Producer(self.inboxes, here / "scratch", seed=seed, pause_s=PAUSE_S, scored=self.is_done)
        self._asked: dict[str, str] = {}

    def configure(self, rest: str) -> None:
        """Writes the configuration with these lines more."""
        self.site.configure(rest="\n".join([*self._tables, rest]), lines=self._lines)

    # What stands in the journal, whatever else happens to it.

    def ask(self, query: str, *values: object) -> list[tuple]:  # type: ignore[type-arg]
        """Rows of the journal; none before there is one."""
        try:
            with contextlib.closing(
                sqlite3.connect(f"file:{self.site.state / FILE}?mode=ro", uri=True, timeout=60)
            ) as db:
                return db.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "unable to open" in str(error) or "no such table" in str(error):
                return []
            raise

    def rows(self) -> int:
        """How many results there have been."""
        found = self.ask("SELECT seq FROM sqlite_sequence WHERE name = 'results'")
        return int(found[0][0]) if found else 0

    def is_done(self, sha256: str) -> bool:
        """Whether a picture has all of its results."""
        results = self.ask("SELECT count(*) FROM results WHERE sha256 = ?", sha256)
        return bool(results) and results[0][0] >= self._results_of(sha256)

    def ask_again(self, number: int) -> None:
        """Asks that the file of one result be scored again, unless that was done; the daemon must not run."""
        results = self.ask("SELECT id, sha256, source FROM results ORDER BY id")
        fresh = [result for result in results if result[0] not in self._asked]
        if not fresh:
            return
        id_, sha256, source = fresh[number % len(fresh)]
        (inbox,) = [inbox for inbox in self.inboxes if inbox.source == source]
        table = FolderTable(
            name=source, type="folder", path=inbox.folder, after=inbox.after, done_dir=inbox.done, model="tiny"
        )
        with contextlib.suppress(RefusedError):  # its file was deleted, or is still to leave, say
            requeue(self.site.state, table, id_)
            self._asked[id_] = sha256

    @property
    def asked(self) -> int:
        """How many results are to be there because somebody asked for them."""
        return len(self._asked)

    def _results_of(self, sha256: str) -> int:
        return 1 + sum(asked == sha256 for asked in self._asked.values())

    # Kills.

    def kill_rounds(self, rounds: int, kills: Kills) -> None:
        """Starts and kills the daemon; every other time at a random instant, else after a random number of rows."""
        self.producer.start()
        try:
            for number in range(rounds):
                for _ in range(self.random.randint(5, 30)):
                    self.producer.drop()
                before = self.rows()
                self.site.start(wait=False)
                deadline = time.monotonic() + (self.random.uniform(0.5, 3.0) if number % 2 else 120.0)
                wanted = before + (1_000_000 if number % 2 else self.random.randint(1, 40))
                while self.rows() < wanted and time.monotonic() < deadline:
                    assert self.site.process is not None
                    assert self.site.process.poll() is None, self.site.log.read_text()[-2000:]
                    time.sleep(0.002)
                self.site.kill()
                self._look(kills)
        finally:
            self.producer.stop()

    def _look(self, kills: Kills) -> None:
        waiting = len(self.producer.dropped) - self.rows()
        owed = self.ask("SELECT count(*) FROM disposals")
        undelivered = self.ask("SELECT (SELECT max(seq) FROM results) - min(delivered_seq) FROM sinks")
        kills.total += 1
        kills.starting += not self.site.said("ready")
        kills.waiting += waiting > 0
        kills.owed += bool(owed and owed[0][0])
        kills.undelivered += bool(undelivered and undelivered[0][0])
        kills.held += bool(self._held())
        kills.in_flight += waiting > 0 or bool(owed and owed[0][0]) or bool(undelivered and undelivered[0][0])

    def _held(self) -> list[Path]:
        places = {path for inbox in self.inboxes for path in (inbox.done, inbox.quarantine)} | {self.site.state}
        hidden = [place / ".edged" for place in places] + [
            inbox.folder.parent / f".{inbox.folder.name}.edged" for inbox in self.inboxes
        ]
        parts = [part for place in places if place.exists() for part in place.rglob(".*.part")]
        return [path for folder in hidden if folder.exists() for path in folder.iterdir()] + parts

    def fill(self, prefix: str, count: int = 10) -> None:
        """Drops good pictures into every inbox, as a producer should."""
        for inbox in self.inboxes:
            for number in range(count):
                self.producer.put(inbox, f"{prefix}-{number}.png".encode())

    # The account.

    def finish(self, restarts: int = 1, *, pruned: bool = False) -> Account:
        """Lets the daemon finish everything, again after each of so many restarts, and draws up the account."""
        for _ in range(restarts + 1):
            if self.site.process is None:
                self.site.start()
            for inbox in self.inboxes:  # what would be scored twice is scored before these
                self.producer.put(inbox, b"last-%d.png" % len(self.producer.dropped))
            until(
                lambda: self.rows() >= len(self.producer.dropped) + len(self._asked),
                "a row for every picture",
                _PATIENCE_S,
            )
            until(self.at_rest, "files to leave and sinks to be fed", _PATIENCE_S)
            assert self.site.stop() == 0, self.site.log.read_text()[-2000:]
        return self.account(pruned=pruned)

    def at_rest(self) -> bool:
        """Whether no file is still to leave its inbox, and every sink has been given everything."""
        undelivered = self.ask("SELECT (SELECT max(seq) FROM results) - min(delivered_seq) FROM sinks")[0][0]
        return not undelivered and not self.ask("SELECT count(*) FROM disposals")[0][0]

    def account(self, *, pruned: bool = False) -> Account:
        """Every picture against rows, files and sinks; the daemon must not run.

        Args:
            pruned: whether old results were removed from the journal; those are taken from the lines of the sink.
        """
        account = Account(dropped=len(self.producer.dropped))
        rows: dict[tuple[str, bytes], list[tuple[str, str, bytes]]] = {}
        every_id = set()
        results = self.ask("SELECT id, source, path, status, sha256 FROM results")
        if pruned:
            there = {row[0] for row in results}
            lines = {line["id"]: line for line in self.site.lines() if line["id"] not in there}
            results += [
                (id_, line["source"], os.fsencode(line["path"]), line["status"], line["sha256"])
                for id_, line in lines.items()
            ]
        for id_, source, path, status, sha256 in results:
            account.rows += 1
            every_id.add(id_)
            rows.setdefault((source, sha256), []).append((id_, status, path))
        places = {inbox.source: _places(inbox) for inbox in self.inboxes}
        scored = set()
        for one in self.producer.dropped:
            key = (one.inbox.source, one.sha256)
            found = rows.pop(key, [])
            name = os.fsdecode(one.path)
            account.lost += not found
            wanted_rows = self._results_of(one.sha256)
            account.duplicated += len(found) > wanted_rows
            if len(found) != wanted_rows or one.path not in {path for _, _, path in found}:
                account.problems.append(f"{key[0]}: {name!r} has the rows {found}, and is to have {wanted_rows}")
                continue
            ids, status = {id_ for id_, _, _ in found}, found[0][1]
            if {status} != {status_ for _, status_, _ in found}:
                account.problems.append(f"{key[0]}: {name!r} is judged in two ways: {found}")
            if status == OK:
                scored |= ids
            if (status == OK) != one.is_good:
                account.misjudged += 1
                account.problems.append(f"{key[0]}: {name!r} is {status}")
            wanted = [] if one.replaced else _wanted(one.inbox, status)
            found_at = places[key[0]].pop(one.sha256, [])
            if [place for place, _ in found_at] != wanted:
                account.misplaced += 1
                account.problems.append(f"{key[0]}: {name!r} ({status}) is at {found_at}, not in {wanted}")
            elif wanted == ["quarantine"]:
                sidecar = found_at[0][1] + b".json"
                if not os.path.exists(sidecar) or json.loads(Path(os.fsdecode(sidecar)).read_bytes())["id"] not in ids:
                    account.problems.append(f"{key[0]}: {name!r} has no sidecar of its own")
        for key, found in rows.items():
            account.duplicated += 1
            account.problems.append(f"rows of what was not dropped: {key}: {found}")
        account.problems += [f"files of what was not dropped: {files}" for files in places.values() if files]
        account.problems += [f"left between inbox and target: {path}" for path in self._held()]
        self._check_sinks(account, every_id, scored, pruned=pruned)
        return account

    def _check_sinks(self, account: Account, every_id: set[str], scored: set[str], *, pruned: bool) -> None:
        lines = Counter(line["id"] for line in self.site.lines())
        account.repeated_lines = lines.total() - len(lines)
        overlays = {path.stem for path in self.site.overlays.glob("*.png")}
        if pruned:  # an overlay goes with its result
            scored = scored & overlays
        for what, there, wanted in (("lines", set(lines), every_id), ("overlays", overlays, scored)):
            account.not_in_sinks += len(wanted - there)
            if there != wanted:
                account.problems.append(f"{what}: {len(wanted - there)} missing, {len(there - wanted)} of no row")

    def clean_up(self) -> None:
        """Ends what runs."""
        self.producer.stop()
        self.site.clean_up()


def _wanted(inbox: Inbox, status: str) -> list[str]:
    """Where a scored file belongs."""
    if inbox.after == "keep":
        return ["inbox"]
    if status != OK:
        return ["quarantine"]
    return ["done"] if inbox.after == "move" else []


def _places(inbox: Inbox) -> dict[str, list[tuple[str, bytes]]]:
    """SHA-256 -> every place where a file of that content is."""
    found: dict[str, list[tuple[str, bytes]]] = {}
    for place, root in (("inbox", inbox.folder), ("done", inbox.done), ("quarantine", inbox.quarantine)):
        for folder, folders, names in os.walk(os.fsencode(root)):
            if b".edged" in folders:
                folders.remove(b".edged")
            for name in names:
                path = os.path.join(folder, name)
                if not (place == "quarantine" and name.endswith(b".json")):
                    with open(path, "rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
                    found.setdefault(digest, []).append((place, path))
    return found


def other_file_system(path: Path) -> Path | None:
    """A new folder that is on another file system than `path`, or None; to be removed by who asks."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == path.stat().st_dev or not os.access(shared, os.W_OK):
        return None
    folder = shared / f"edged-{os.getpid()}-{path.name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    return folder

"""A damaged journal: reading what can be read, setting it aside. `damage` notices it.

    journal.sqlite.salvaged            what was salvaged, whole; it is about to become the journal
    journal.sqlite.damaged-<time>      a damaged journal as it was, its -wal and -shm beside it, for people

A crash at any instruction leaves a state from which the next start goes on.
"""

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from edged.files import sync
from edged.journal import schema
from edged.journal.damage import forget_damage

WAL: Final = "-wal"
_SHM: Final = "-shm"
_BATCH: Final = 1000
_KEPT_ASIDE: Final = 3
_HEADER_PAGE_BYTES: Final = 4096
_LAST_SEQ: Final = 1 << 62
_LATER: Final = frozenset({"quarantine", "state", "places", "dead_letters", "remembered", "labels"})
"""Tables that the first schema did not have: an older journal without them is whole."""


@dataclass(frozen=True, slots=True)
class Salvage:
    """What came of a damaged journal.

    Attributes:
        damage: what was wrong with it.
        results: rows that were read.
        lost: rows that were not, as far as their numbers tell.
        forgotten: marks of kept files whose results were lost: these files are scored again.
        whole: whether every table but `results` was read to its end.
    """

    damage: str
    results: int
    lost: int
    forgotten: int
    whole: bool


def set_aside(path: Path) -> list[Path]:
    """The damaged journals that lie beside a journal."""
    found = path.parent.glob(path.name + ".damaged-*")
    return sorted(file for file in found if not file.name.endswith((WAL, _SHM)))


def salvage(path: Path, damage: str) -> Salvage:
    """Reads what can be read into a new journal, which replaces the damaged one; that one is set aside.

    Raises:
        sqlite3.Error: or OSError; the disk refuses. The damaged journal is as it was.
    """
    report = _read(path, damage)
    forget_damage(path)
    finish(path)
    return report


def finish(path: Path) -> None:
    """Puts a salvaged journal in the place of the damaged one, unless there is none."""
    salvaged = _named(path, "salvaged")
    try:
        when = datetime.fromtimestamp(salvaged.stat().st_mtime, UTC)  # the same in every try
    except FileNotFoundError:
        return
    _move_aside(path, when)
    salvaged.rename(path)
    for file in set_aside(path)[1:-_KEPT_ASIDE]:  # a disk that dies slowly is not to fill itself with copies
        for suffix in ("", WAL, _SHM):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    sync(path.parent)


def set_stray_log_aside(path: Path) -> bool:
    """Moves a write-ahead log away that has lost its journal: SQLite would play it into a new one."""
    if not path.with_name(path.name + WAL).exists():
        return False
    _move_aside(path, datetime.now(UTC))
    return True


def _move_aside(path: Path, when: datetime) -> None:
    aside = f"{path.name}.damaged-{when:%Y%m%dT%H%M%S.%f}"
    for suffix in (_SHM, WAL, ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(path.with_name(aside + suffix))
    sync(path.parent)


def _read(path: Path, damage: str) -> Salvage:
    """Fills `.salvaged` from the damaged journal, or from a copy of it whose first page is replaced."""
    best, other, repaired, template = (_named(path, name) for name in ("best", "other", "repaired", "template"))
    report = _attempt(path, best, damage)
    if not _has_schema(path):
        # The first page is lost, and with it where the tables begin. New journals are alike, so that another's first
        # page may stand in: of one made by this edged, or of one that was made by the first and migrated.
        for steps, vacuum in ((schema.VERSION, True), (1, False)):
            template.unlink(missing_ok=True)
            schema.create(template, steps=steps, vacuum=vacuum)
            _with_header_of(template, path, repaired)
            found = _attempt(repaired, other, damage)
            if found.results > report.results:
                other.replace(best)
                report = found
    for file in (other, template, repaired):
        for suffix in ("", WAL, _SHM):
            file.with_name(file.name + suffix).unlink(missing_ok=True)
    best.rename(_named(path, "salvaged"))
    sync(path.parent)
    return report


def _attempt(source: Path, into: Path, damage: str) -> Salvage:
    reports: list[Salvage] = []
    into.unlink(missing_ok=True)
    schema.create(into, lambda db: reports.append(_copy(source, db, damage)))
    return reports[0]


def _has_schema(path: Path) -> bool:
    try:
        with contextlib.closing(_open(path)) as db:
            return any(row[0] == "results" for row in db.execute("SELECT name FROM sqlite_schema"))
    except sqlite3.Error:
        return False


def _open(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None)
    db.execute("PRAGMA writable_schema = ON")  # a file that is shorter than it says is then read as far as it goes
    db.text_factory = lambda data: data.decode("utf-8", "replace")
    return db


def _with_header_of(template: Path, damaged: Path, repaired: Path) -> None:
    for suffix in ("", WAL):
        with contextlib.suppress(FileNotFoundError):
            shutil.copyfile(damaged.with_name(damaged.name + suffix), repaired.with_name(repaired.name + suffix))
    first = bytearray(template.read_bytes()[:_HEADER_PAGE_BYTES])
    first[18:20] = b"\x02\x02"  # there is a write-ahead log
    first[92:96] = b"\xff\xff\xff\xff"  # the number of pages in the header is not this file's: count them
    with repaired.open("r+b") as file:
        file.write(first)


def _copy(source: Path, target: sqlite3.Connection, damage: str) -> Salvage:
    """Copies what can be read of every table, and makes what was read agree."""
    try:
        db = _open(source)
        db.execute("SELECT 1 FROM sqlite_schema").fetchall()
    except sqlite3.Error:
        return Salvage(damage, 0, 0, 0, whole=False)
    target.execute("BEGIN")
    whole = {}
    with contextlib.closing(db):
        columns = _shared_columns(db, target, "results")
        _insert(target, "results", columns, _results(db, columns) if columns else ())
        for table, key in schema.KEYS.items():
            columns = _shared_columns(db, target, table)
            rows = _Rows(db, table, columns, key)
            _insert(target, table, columns, rows if columns else ())
            whole[table] = rows.whole and bool(columns or table in _LATER)
        try:
            given = db.execute("SELECT seq FROM sqlite_sequence WHERE name = 'results'").fetchone()
        except sqlite3.Error:
            given = None
    report = _reconcile(target, given[0] if given else 0, whole, damage)
    target.execute("COMMIT")
    return report


def _reconcile(db: sqlite3.Connection, given: int, whole: dict[str, bool], damage: str) -> Salvage:
    def one(query: str) -> int:
        return int(db.execute(query).fetchone()[0] or 0)

    highest = max(
        given,
        one("SELECT max(seq) FROM results"),
        one("SELECT max(seq) FROM kept"),
        one("SELECT max(delivered_seq) FROM sinks"),
        one("SELECT max(value) FROM state WHERE name = 'pruned_seq'"),
    )
    # A number that any sink was given must not be given out again.
    db.execute("DELETE FROM sqlite_sequence")
    db.execute("INSERT INTO sqlite_sequence VALUES ('results', ?)", (highest,))
    if not whole["sinks"]:  # at least once: a sink whose cursor is lost is given all that there is
        db.execute("INSERT OR REPLACE INTO state VALUES ('resend', 1)")
    pruned = one("SELECT max(value) FROM state WHERE name = 'pruned_seq'")
    if not whole["state"]:
        pruned = max(pruned, one("SELECT min(seq) FROM results") - 1)
        db.execute("INSERT OR REPLACE INTO state VALUES ('pruned_seq', ?)", (max(0, pruned),))
    # An event that has closed left its first number.
    moved = """event LIKE '%"state": "closed"%'"""
    lost = highest - pruned - one(f"SELECT count(*) + total({moved}) FROM results WHERE seq > {pruned}")
    forgotten = db.execute(
        "DELETE FROM kept WHERE seq > ? AND seq NOT IN (SELECT seq FROM results)", (pruned,)
    ).rowcount
    if not whole["kept"]:
        _mark_anew(db)
    return Salvage(damage, one("SELECT count(*) FROM results"), max(0, lost), forgotten, all(whole.values()))


def _mark_anew(db: sqlite3.Connection) -> None:
    """Marks files that stand where their result says, by their SHA-256: if it is the same file, it is the same arrival.

    Its fingerprint is not known. It is set to what no file has, so that the file is read, and compared.
    """
    rows = db.execute("SELECT max(seq), source, path, sha256 FROM results GROUP BY source, path")
    marks = [
        (source, path, -1, 0, sha256, seq)
        for seq, source, path, sha256 in rows
        if sha256 is not None and os.path.lexists(path)
    ]
    db.executemany("INSERT OR IGNORE INTO kept VALUES (?, ?, ?, ?, ?, ?)", marks)


def _shared_columns(db: sqlite3.Connection, target: sqlite3.Connection, table: str) -> list[str]:
    """Columns that the damaged journal, which may be an older one, has in common with a new one."""
    try:
        there = {row[1] for row in db.execute(f"PRAGMA table_info({table})")}
    except sqlite3.Error:
        return []
    return [row[1] for row in target.execute(f"PRAGMA table_info({table})") if row[1] in there]


def _insert(target: sqlite3.Connection, table: str, columns: Sequence[str], rows: Any) -> None:
    query = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' * len(columns))})"
    rows = iter(rows)
    while batch := list(islice(rows, _BATCH)):
        try:
            target.executemany(query, batch)
        except sqlite3.IntegrityError:
            for row in batch:
                with contextlib.suppress(sqlite3.IntegrityError):  # no row of ours: its page is damaged, unnoticed
                    target.execute(query, row)


class _Rows:
    """The rows of a table without numbers: from its start up to the first damage, and from its end down to the last."""

    def __init__(self, db: sqlite3.Connection, table: str, columns: Sequence[str], key: Sequence[str]) -> None:
        self._db, self._table, self._columns, self._key = db, table, columns, key
        self.whole = True

    def __iter__(self) -> Iterator[Sequence[Any]]:
        for order in ("ASC", "DESC"):
            by = ", ".join(f"{column} {order}" for column in self._key)
            try:
                yield from self._db.execute(f"SELECT {', '.join(self._columns)} FROM {self._table} ORDER BY {by}")
            except sqlite3.Error:
                self.whole = False
            else:
                return


def _results(db: sqlite3.Connection, columns: Sequence[str]) -> Iterator[Sequence[Any]]:
    """The rows of `results`, around every page that cannot be read; `columns` begins with seq."""
    select = f"SELECT {', '.join(columns)} FROM results"
    last = 0
    while True:
        try:
            for row in db.execute(f"{select} WHERE seq > ? ORDER BY seq", (last,)):
                last = max(last, row[0])  # damage may have put them out of order
                yield row
        except sqlite3.Error:
            beyond = _readable_after(db, last)
            if beyond is None:
                return
            # The leap may have gone over rows that can be read: back from there, up to the damage.
            with contextlib.suppress(sqlite3.Error):
                yield from db.execute(f"{select} WHERE seq > ? AND seq < ? ORDER BY seq DESC", (last, beyond))
            last = beyond - 1
        else:
            return


def _readable_after(db: sqlite3.Connection, seq: int) -> int | None:
    """The number of a row beyond the damage that follows `seq`; None when there is none."""
    leap = 1
    while leap < _LAST_SEQ:
        try:
            row = db.execute("SELECT seq FROM results WHERE seq > ? ORDER BY seq LIMIT 1", (seq + leap,)).fetchone()
        except sqlite3.Error:
            leap *= 2
        else:
            return None if row is None or row[0] <= seq else int(row[0])
    return None


def _named(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}.{what}")

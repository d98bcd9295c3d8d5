"""The journal: one SQLite file that holds results, what is done, and what is still owed to files and sinks.

A result, the mark that its arrival is done, the disposal that its file is owed and its place in every sink's outbox
are one transaction: the rows of `results` are the outbox, and a sink is a position in them.

    results    one row an arrival, in the order of commits
    kept       (source, path) -> the stamps and SHA-256 that were scored last; for files that stay where they are
    disposals  files whose result is durable and that are still to be moved or deleted
    sinks      name -> the last row that it was given

One process writes (it holds the lock beside the journal); any number read.
"""

import contextlib
import fcntl
import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Final
from urllib.parse import quote

from edged import failpoints
from edged.arrivals import Disposal, Entry, Stamps
from edged.errors import JournalError
from edged.results import QUARANTINED, Record

FILE: Final = "journal.sqlite"
LOCK: Final = "edged.lock"

_VERSION: Final = 1
_APPLICATION_ID: Final = 0x65646764  # "edgd"
_PAGE: Final = 1000
_SCHEMA: Final = """
CREATE TABLE results (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    sha256 TEXT,
    captured_at REAL NOT NULL,
    scored_at REAL NOT NULL,
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    device TEXT NOT NULL,
    score REAL,
    threshold REAL,
    p_value REAL,
    is_anomaly INTEGER,
    status TEXT NOT NULL CHECK (status IN ('ok', 'quarantined')),
    reason TEXT,
    error TEXT,
    timings_ms TEXT NOT NULL
) STRICT;
CREATE INDEX results_scored_at ON results (scored_at);
CREATE TABLE kept (
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 TEXT,
    PRIMARY KEY (source, path)
) STRICT, WITHOUT ROWID;
CREATE TABLE disposals (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('move', 'delete', 'quarantine')),
    sidecar TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sinks (
    name TEXT PRIMARY KEY,
    delivered_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
"""
# What reading a damaged file may raise: text that is not UTF-8 and values that are not what the schema says, too.
_UNREADABLE: Final = (sqlite3.Error, ValueError, TypeError, OverflowError)
_COLUMNS: Final = tuple(Record.__dataclass_fields__)
_SELECT: Final = f"SELECT seq, {', '.join(_COLUMNS)} FROM results"
_INSERT: Final = (
    f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)


class Journal:
    """The one writer. Its methods may be called from any thread."""

    def __init__(self, state_dir: Path) -> None:
        """Opens or creates the journal in `state_dir`.

        Raises:
            JournalError: another daemon has it, it is of a newer edged, it is damaged, or the disk refuses.
        """
        self.path = state_dir / FILE
        self._mutex, self._reading = threading.Lock(), threading.Lock()
        self._lock = _take_lock(state_dir)
        try:
            self._db = self._open()
            # Who only reads does not wait for the disk behind one who commits.
            self._reader = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> sqlite3.Connection:
        try:
            db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            # FULL: a commit is on the disk when it returns, which is what lets a file be moved or deleted after it.
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA busy_timeout = 10000")
            # A short write-ahead log: a small disk holds it beside the journal.
            db.execute("PRAGMA wal_autocheckpoint = 256")
            db.execute("PRAGMA journal_size_limit = 1048576")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(
                    f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA application_id = {_APPLICATION_ID}; "
                    f"PRAGMA user_version = {_VERSION}; COMMIT;"
                )
            elif version != _VERSION:
                raise JournalError(
                    f"{self.path} has schema {version}, this edged knows {_VERSION}: it was written by a newer edged; "
                    "install that one again"
                )
        except _UNREADABLE as error:
            raise JournalError(
                f"{self.path} cannot be opened: {error}. If the file is damaged, move it and its -wal and -shm away "
                "together; files that are still in the inboxes are then scored again"
            ) from error
        return db

    def commit(self, entries: Sequence[Entry]) -> None:
        """Makes results durable together with the marks that their arrivals are done: all of them or none.

        May be repeated with the same entries when it failed: an id that is there already is not added again.

        Raises:
            JournalError: the disk refuses (it is full, say); nothing was added.
        """
        kept, owed = [], []
        for entry in entries:
            if entry.disposal is None:
                path, stamps = os.fsencode(entry.record.path), entry.stamps
                kept.append((entry.record.source, path, stamps.size, stamps.mtime_ns, entry.record.sha256))
            else:
                owed.append(_disposal_row(entry.disposal))
        with self._transaction() as db:
            db.executemany(_INSERT, [_result_row(entry.record) for entry in entries])
            db.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?)", kept)
            db.executemany("INSERT OR REPLACE INTO disposals VALUES (?, ?, ?, ?, ?, ?, ?, ?)", owed)
            failpoints.reach("committing")

    def absent(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that no result has."""
        return {id_ for id_ in ids if not self._fetch("SELECT 1 FROM results WHERE id = ?", (id_,))}

    def refresh_kept(self, source: str, path: bytes, stamps: Stamps) -> None:
        """Notes new stamps of a kept file whose content is what was scored: no new arrival."""
        with self._transaction() as db:
            db.execute(
                "UPDATE kept SET size = ?, mtime_ns = ? WHERE source = ? AND path = ?",
                (stamps.size, stamps.mtime_ns, source, path),
            )

    def kept(self, source: str) -> Iterator[tuple[bytes, int, int]]:
        """(path, size, mtime_ns) of every kept file of a source."""
        last = b""
        while True:
            rows = self._fetch(
                "SELECT path, size, mtime_ns FROM kept WHERE source = ? AND path > ? ORDER BY path LIMIT ?",
                (source, last, _PAGE),
            )
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def forget_kept(self, source: str, files: Iterable[tuple[bytes, int, int]]) -> None:
        """Removes the marks of these (path, size, mtime_ns); a mark that was renewed meanwhile stays."""
        with self._transaction() as db:
            db.executemany(
                "DELETE FROM kept WHERE source = ? AND path = ? AND size = ? AND mtime_ns = ?",
                [(source, *file) for file in files],
            )

    def kept_sha256(self, source: str, path: bytes) -> str | None:
        """SHA-256 of what was last scored under this path and is kept there."""
        rows = self._fetch("SELECT sha256 FROM kept WHERE source = ? AND path = ?", (source, path))
        return rows[0][0] if rows else None

    def disposals(self, source: str) -> list[Disposal]:
        """What a source still has to move or delete, oldest first."""
        rows = self._fetch("SELECT * FROM disposals WHERE source = ? ORDER BY id", (source,))
        return [
            Disposal(id_, name, path, Stamps(inode, size, mtime_ns), action, sidecar)
            for id_, name, path, inode, size, mtime_ns, action, sidecar in rows
        ]

    def keep_instead(self, disposals: Iterable[Disposal]) -> None:
        """Turns disposals into marks that their files are kept, for a source that keeps its files from now on."""
        with self._transaction() as db:
            for disposal in disposals:
                stamps = disposal.stamps
                db.execute(
                    "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, (SELECT sha256 FROM results WHERE id = ?))",
                    (disposal.source, disposal.path, stamps.size, stamps.mtime_ns, disposal.id),
                )
                db.execute("DELETE FROM disposals WHERE id = ?", (disposal.id,))

    def disposed(self, ids: Iterable[str]) -> None:
        """Strikes disposals that are done."""
        with self._transaction() as db:
            db.executemany("DELETE FROM disposals WHERE id = ?", [(id_,) for id_ in ids])

    def add_sink(self, name: str) -> None:
        """Gives a sink its place: a new one starts after the rows that are there."""
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO sinks "
                "SELECT ?, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'results'), 0)",
                (name,),
            )

    def undelivered(self, sink: str, limit: int) -> list[tuple[int, Record]]:
        """The next rows that a sink has not been given, in order, each with its position."""
        query = f"{_SELECT} WHERE seq > (SELECT delivered_seq FROM sinks WHERE name = ?) ORDER BY seq LIMIT ?"
        rows = self._fetch(query, (sink, limit))
        try:
            return [(row[0], _record(row)) for row in rows]
        except _UNREADABLE as error:
            raise JournalError(f"{self.path} cannot be read: {error}") from error

    def delivered(self, sink: str, seq: int) -> None:
        """Moves a sink's position on: every row up to `seq` has reached it.

        The next commit makes it durable; a power cut before that gives the sink the same rows again.
        """
        with self._transaction(durable=False) as db:
            db.execute("UPDATE sinks SET delivered_seq = ? WHERE name = ?", (seq, sink))

    def backlog(self, sink: str) -> int:
        """How many rows a sink has not been given; 0 for one that has no place yet."""
        query = "SELECT coalesce((SELECT max(seq) FROM results), 0) - delivered_seq FROM sinks WHERE name = ?"
        rows = self._fetch(query, (sink,))
        return max(0, int(rows[0][0])) if rows else 0

    def prune(self, older_than: float, sinks: Sequence[str], *, limit: int = _PAGE) -> int:
        """Removes up to `limit` results that were scored before `older_than` (seconds) and reached all of `sinks`.

        The marks in `kept` stay: a kept file is not scored again because its result has become old.
        """
        marks = ", ".join("?" * len(sinks))
        with self._transaction() as db:
            db.execute(f"DELETE FROM sinks WHERE name NOT IN ({marks})", sinks)
            removed = db.execute(
                "DELETE FROM results WHERE seq IN (SELECT seq FROM results WHERE scored_at < ? "
                "AND seq <= coalesce((SELECT min(delivered_seq) FROM sinks), 9e18) LIMIT ?)",
                (older_than, limit),
            ).rowcount
            if removed:
                failpoints.reach("pruning")
            return removed

    def size_bytes(self) -> int:
        """Bytes that the journal takes on the disk, its write-ahead log included."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Checkpoints and lets go of the lock."""
        with self._reading:
            self._reader.close()
        with self._mutex:
            self._db.close()
        self._lock.close()

    def _transaction(self, *, durable: bool = True) -> "_Transaction":
        return _Transaction(self._db, self._mutex, self.path, durable=durable)

    def _fetch(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except _UNREADABLE as error:
                raise JournalError(f"{self.path} cannot be read: {error}") from error


def read_results(
    state_dir: Path, *, since: float | None = None, anomalies: bool = False, quarantined: bool = False
) -> Iterator[Record]:
    """Rows of a journal that a daemon may be writing, oldest first; nothing when there is no journal yet.

    Args:
        state_dir: `service.state_dir`.
        since: rows scored at or after it, seconds since 1970.
        anomalies: only rows that are anomalies.
        quarantined: only rows that are quarantined. With `anomalies`: both.

    Raises:
        JournalError: the journal cannot be read.
    """
    path = state_dir / FILE
    kinds = [
        kind for kind, asked in (("is_anomaly = 1", anomalies), (f"status = '{QUARANTINED}'", quarantined)) if asked
    ]
    which = f"AND ({' OR '.join(kinds)})" if kinds else ""
    query = f"{_SELECT} WHERE seq > ? AND scored_at >= ? {which} ORDER BY seq LIMIT ?"
    try:
        if not path.exists():
            return
        # Pages, so that no long read keeps the daemon's write-ahead log from being folded in.
        # Without a write-ahead log nobody is writing, and a reader need not be able to make one.
        mode = "mode=ro" if path.with_name(path.name + "-wal").exists() else "mode=ro&immutable=1"
        db = sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=10)
        try:
            last = 0
            while rows := db.execute(query, (last, -1e300 if since is None else since, _PAGE)).fetchall():
                yield from map(_record, rows)
                last = rows[-1][0]
        finally:
            db.close()
    except (*_UNREADABLE, OSError) as error:
        raise JournalError(f"{path} cannot be read: {error}") from error


class _Transaction:
    def __init__(self, db: sqlite3.Connection, mutex: threading.Lock, path: Path, *, durable: bool) -> None:
        self._db, self._mutex, self._path, self._durable = db, mutex, path, durable

    def __enter__(self) -> sqlite3.Connection:
        self._mutex.acquire()
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._mutex.release()
            raise JournalError(f"{self._path} cannot be written: {error}") from error
        return self._db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._db.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as failure:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._shrink()
            raise JournalError(f"{self._path} cannot be written: {failure}") from failure
        finally:
            self._mutex.release()
        if isinstance(error, sqlite3.Error):
            self._shrink()
            raise JournalError(f"{self._path} cannot be written: {error}") from error

    def _shrink(self) -> None:
        """Folds the write-ahead log into the journal, which on a full disk may be the room that is missing."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _take_lock(state_dir: Path) -> IO[str]:
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = (state_dir / LOCK).open("a+", encoding="ascii")
    except OSError as error:
        raise JournalError(f"{state_dir} cannot be written: {error.strerror}; check service.state_dir") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read(32).strip()
        lock.close()
        raise JournalError(
            f"{state_dir} belongs to a running edged (process {holder or 'unknown'}); stop it first, "
            "or give this one another service.state_dir"
        ) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def _result_row(record: Record) -> tuple[Any, ...]:
    values = {name: getattr(record, name) for name in _COLUMNS}
    values["path"] = os.fsencode(record.path)
    values["timings_ms"] = json.dumps(record.timings_ms)
    return tuple(values[name] for name in _COLUMNS)


def _record(row: Sequence[Any]) -> Record:
    values = dict(zip(_COLUMNS, row[1:], strict=True))
    values["path"] = os.fsdecode(values["path"])
    values["timings_ms"] = json.loads(values["timings_ms"])
    if values["is_anomaly"] is not None:
        values["is_anomaly"] = bool(values["is_anomaly"])
    return Record(**values)


def _disposal_row(disposal: Disposal) -> tuple[Any, ...]:
    stamps = disposal.stamps
    return (
        disposal.id,
        disposal.source,
        disposal.path,
        stamps.inode,
        stamps.size,
        stamps.mtime_ns,
        disposal.action,
        disposal.sidecar,
    )

"""The journal: one SQLite file that holds results, what is done, and what is still owed to files and sinks.

A result, what its source remembers of it and its place before every sink's cursor are one transaction: the rows of
`results` are the outbox, and a sink is a cursor in them.

    results        one row an arrival, in the order of commits; an event is one row, which moves to the end as it closes
    sinks          name -> the last row that it was given
    dead_letters   records that a sink refused for good
    labels         what people said of results; see `labels`

The other tables are the sources' own, such as `sources/folder/ledger.py`.

`schema` makes the tables, `rows` says what stands in a row, `damage` and `salvage` are for a journal that is damaged.
One process writes (it holds the `lock` beside the journal); any number read, with `reading`.
"""

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from edged import failpoints
from edged.errors import JournalError
from edged.journal import salvage, schema
from edged.journal.damage import UNREADABLE, check_order, find_damage, is_damage, note_damage, noted_damage
from edged.journal.lock import StateLock
from edged.journal.rows import INSERT, REPLACE, SELECT, UPDATE, of_record, to_record
from edged.journal.salvage import Salvage
from edged.journal.schema import FILE
from edged.results import Record

_PAGE: Final = 1000
_INCREMENTAL: Final = 2
_RESERVE_PAGES: Final = 256
_CHECK_PROBLEMS: Final = 10
_CHECK_STEPS: Final = 100_000

MAX_DEAD_LETTERS: Final = 10_000
"""Of a sink; the oldest beyond them go."""

Statement = tuple[str, Sequence[Any]]
"""SQL and its values: what a source remembers, in the transaction of a record."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes durable together: a record, if there is one, and what its source remembers of it."""

    record: Record | None
    statements: Sequence[Statement] = ()


def remember(source: str, key: str, value: bytes) -> Statement:
    """What a source without a table of its own makes durable; see `Journal.remembered`."""
    return "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?)", (source, key, value)


class Journal:
    """The one writer. Its methods may be called from any thread."""

    def __init__(self, state_dir: Path, on_damage: Callable[[], None] = lambda: None) -> None:
        """Opens or creates the journal in `state_dir`; salvages one that is damaged, and says so.

        Args:
            state_dir: `service.state_dir`.
            on_damage: called from any thread when damage is met while the journal is in use; see `damage`.

        Raises:
            JournalError: another daemon has it, or the disk refuses.
            SchemaError: it is of a newer edged.
        """
        self.path = state_dir / FILE
        self.damage: str | None = None
        """What was met while the journal was in use: it is not to be written any more. The next start salvages."""
        self.salvaged: Salvage | None = None
        self._on_damage = on_damage
        self._checking: sqlite3.Connection | None = None
        self._check_ended = False
        self._mutex, self._reading = threading.Lock(), threading.Lock()
        self._lock = StateLock(state_dir)
        try:
            self._db = self._open()
            # Who only reads does not wait for the disk behind one who commits.
            self._reader = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None, timeout=10)
            self._lock.note_open()
        except BaseException:
            self._lock.close()
            raise

    def _open(self) -> sqlite3.Connection:
        log = structlog.get_logger().bind(journal=str(self.path))
        wal = self.path.with_name(self.path.name + salvage.WAL)
        try:
            salvage.finish(self.path)
            if not self.path.exists():
                lost = salvage.set_stray_log_aside(self.path)
                schema.create(self.path)
                if lost or self._lock.was_there:
                    log.error("the journal is gone; a new one is begun, and files in the inboxes are scored again")
            elif self._lock.was_open and not wal.exists():
                log.error("the last run was cut off, and its write-ahead log is gone: its last results may be lost")
            found = noted_damage(self.path) or find_damage(self.path)
            if found is not None:
                log.error("the journal is damaged; what can be read of it is salvaged", damage=found)
                self.salvaged = salvage.salvage(self.path, found)
                log.error(
                    "the journal was salvaged; files whose results were lost are scored again where they still are",
                    results=self.salvaged.results,
                    results_lost=self.salvaged.lost,
                    kept_files_to_score_again=self.salvaged.forgotten,
                    all_marks_read=self.salvaged.whole,
                    set_aside=str(self.set_aside()[-1]),
                )
            db = sqlite3.connect(self.path, check_same_thread=False, isolation_level=None)
            db.execute("PRAGMA journal_mode = WAL")
            # FULL: a commit is on the disk when it returns, which is what lets a file be moved or deleted after it.
            db.execute("PRAGMA synchronous = FULL")
            db.execute("PRAGMA busy_timeout = 10000")
            # A short write-ahead log: a small disk holds it beside the journal.
            db.execute("PRAGMA wal_autocheckpoint = 256")
            db.execute("PRAGMA journal_size_limit = 1048576")
            backup = schema.migrate(db, self.path)
            if backup is not None:
                log.warning("the journal was migrated", schema=schema.VERSION, backup=str(backup))
            db.execute("SELECT 1 FROM results LIMIT 1").fetchall()  # makes the write-ahead log, if there is none
        except (*UNREADABLE, OSError) as error:
            raise JournalError(f"{self.path} cannot be opened: {error}") from error
        return db

    def set_aside(self) -> list[Path]:
        """Damaged journals that were set aside and are still there."""
        return salvage.set_aside(self.path)

    def check(self) -> list[str]:
        """Reads the whole journal for damage, which takes minutes for millions of rows, beside whatever else goes on.

        Returns:
            What is wrong, if anything; `damage` is then set.

        Raises:
            JournalError: it cannot be read for another reason.
        """
        try:
            uri = f"file:{quote(str(self.path))}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, check_same_thread=False)) as db:
                self._checking = db
                db.set_progress_handler(lambda: self._check_ended, _CHECK_STEPS)
                found = [str(row[0]) for row in db.execute(f"PRAGMA quick_check({_CHECK_PROBLEMS})")]
        except sqlite3.Error as error:
            if self._check_ended:
                return []
            if not is_damage(error):
                raise JournalError(f"{self.path} cannot be read: {error}") from error
            found = [str(error)]
        if found == ["ok"]:
            return []
        self._meet(f"quick_check: {'; '.join(found)}")
        return found

    def end_check(self) -> None:
        """Has `check` return soon."""
        self._check_ended = True
        if self._checking is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # it is done already
                self._checking.interrupt()

    def commit(self, entries: Sequence[Entry]) -> None:
        """Makes records durable together with what their sources remember of them: all of it or none.

        May be repeated with the same entries when it failed: an id that is there already is not added again. That of
        an event is updated; sinks are given the event as it opens, and again as it closes.

        Raises:
            JournalError: the disk refuses (it is full, say); nothing was added.
        """
        with self.transaction() as db:
            records = [entry.record for entry in entries if entry.record is not None]
            db.executemany(INSERT, [of_record(record) for record in records if record.event is None])
            for record in records:
                if record.event is not None:
                    db.execute(UPDATE if record.event.state == "open" else REPLACE, of_record(record))
            for entry in entries:
                for query, values in entry.statements:
                    db.execute(query, values)
            failpoints.reach("committing")

    def absent(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that no result has."""
        return {id_ for id_ in ids if not self.fetch("SELECT 1 FROM results WHERE id = ?", (id_,))}

    def add_sink(self, name: str) -> None:
        """Gives a sink its cursor: a new one starts after the rows that are there.

        Where damage took the cursors of sinks, one that seems new is given all rows again.
        """
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO sinks SELECT ?, iif(EXISTS (SELECT 1 FROM state WHERE name = 'resend'), 0, "
                "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'results'), 0))",
                (name,),
            )

    def undelivered(self, sink: str, limit: int) -> list[tuple[int, Record]]:
        """The next rows that a sink has not been given, in order, each with its number."""
        query = f"{SELECT} WHERE seq > (SELECT delivered_seq FROM sinks WHERE name = ?) ORDER BY seq LIMIT ?"
        found = self.fetch(query, (sink, limit))
        self.check_order([row[0] for row in found])
        try:
            return [(row[0], to_record(row)) for row in found]
        except UNREADABLE as error:
            raise JournalError(f"{self.path} cannot be read: {error}") from error

    def delivered(self, sink: str, seq: int) -> None:
        """Moves a sink's cursor on: every row up to `seq` has reached it.

        The next commit makes it durable; a power cut before that gives the sink the same rows again.
        """
        with self.transaction(durable=False) as db:
            db.execute("UPDATE sinks SET delivered_seq = ? WHERE name = ?", (seq, sink))

    def backlog(self, sink: str) -> int:
        """How many rows a sink has not been given; 0 for one that has no cursor yet."""
        query = (
            "SELECT coalesce((SELECT max(seq) FROM results), 0) - max(delivered_seq, coalesce((SELECT value FROM state "
            "WHERE name = 'pruned_seq'), 0)) FROM sinks WHERE name = ?"
        )
        rows = self.fetch(query, (sink,))
        return max(0, int(rows[0][0])) if rows else 0

    def drop_backlog(self, sink: str, most: int) -> int:
        """Moves a sink's cursor on where more than `most` rows wait for it; how many it will never be given."""
        dropped = self.backlog(sink) - most
        if dropped <= 0:
            return 0
        with self.transaction() as db:
            db.execute(
                "UPDATE sinks SET delivered_seq = (SELECT max(seq) FROM results) - ? WHERE name = ?", (most, sink)
            )
        return dropped

    def set_dead(self, sink: str, seq: int, record: Record, error: str) -> None:
        """Sets a row aside that a sink refused for good, and moves its cursor over it; the oldest beyond a bound go."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?, ?, ?)",
                (sink, seq, time.time(), error, record.to_json()),
            )
            db.execute(
                "DELETE FROM dead_letters WHERE sink = ? AND seq NOT IN "
                "(SELECT seq FROM dead_letters WHERE sink = ? ORDER BY seq DESC LIMIT ?)",
                (sink, sink, MAX_DEAD_LETTERS),
            )
            db.execute("UPDATE sinks SET delivered_seq = ? WHERE name = ?", (seq, sink))

    def dead_letters(self, sink: str) -> int:
        """How many records are set aside that a sink refused for good."""
        return int(self.fetch("SELECT count(*) FROM dead_letters WHERE sink = ?", (sink,))[0][0])

    def remembered(self, source: str, key: str) -> bytes | None:
        """What a source made durable under a key, with `remember`."""
        rows = self.fetch("SELECT value FROM remembered WHERE source = ? AND key = ?", (source, key))
        return rows[0][0] if rows else None

    def prune(self, older_than: float, sinks: Sequence[str], *, limit: int = _PAGE) -> int:
        """Removes up to `limit` results that were scored before `older_than` (seconds) and reached all of `sinks`.

        The cursors of other sinks stay, for one that is configured again, but hold nothing back. Marks of kept files
        stay: a kept file is not scored again because its result has become old.
        """
        marks = ", ".join("?" * len(sinks))
        reached = f"coalesce((SELECT min(delivered_seq) FROM sinks WHERE name IN ({marks})), 9e18)"
        return self._prune(f"scored_at < ? AND seq <= {reached}", (older_than, *sinks), limit)

    def prune_oldest(self, sinks: Sequence[str], *, limit: int = _PAGE) -> tuple[int, dict[str, int]]:
        """Removes up to `limit` of the oldest results, whether `sinks` were given them or not; marks stay.

        Returns:
            How many went, and how many of them each sink will never be given.
        """
        oldest = self.fetch("SELECT seq FROM results ORDER BY seq LIMIT ?", (limit,))
        if not oldest:
            return 0, {}
        lost = {}
        for sink in sinks:
            rows = self.fetch("SELECT delivered_seq FROM sinks WHERE name = ?", (sink,))
            if missed := sum(seq > rows[0][0] for (seq,) in oldest) if rows else 0:
                lost[sink] = missed
        return self._prune("seq <= ?", (oldest[-1][0],), limit), lost

    def _prune(self, which: str, values: Sequence[float | str], limit: int) -> int:
        with self.transaction() as db:
            db.execute("DELETE FROM state WHERE name = 'resend'")
            removed = db.execute(
                f"DELETE FROM results WHERE seq IN (SELECT seq FROM results WHERE {which} LIMIT ?) RETURNING seq",
                (*values, limit),
            ).fetchall()
            if removed:
                db.execute("DELETE FROM labels WHERE id NOT IN (SELECT id FROM results)")
                db.execute(
                    "INSERT INTO state VALUES ('pruned_seq', ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                    (max(row[0] for row in removed),),
                )
                failpoints.reach("pruning")
        if removed:
            failpoints.reach("pruned")
        return len(removed)

    def used_bytes(self) -> int:
        """Bytes of the journal that hold something; the rest of it is free, and used again."""
        pages, free, size = (
            self.fetch(f"PRAGMA {what}", ())[0][0] for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def give_back(self, *, limit: int = _PAGE) -> int:
        """Gives up to `limit` free pages back to the file system, but for a reserve; how many it gave.

        A journal that an edged before schema 2 made gives none: its free pages are used again.
        """
        free = int(self.fetch("PRAGMA freelist_count", ())[0][0])
        giving = min(free - _RESERVE_PAGES, limit)
        if giving <= 0 or self.fetch("PRAGMA auto_vacuum", ()) != [(_INCREMENTAL,)]:
            return 0
        with self.transaction() as db:
            db.execute(f"PRAGMA incremental_vacuum({giving})").fetchall()
        return free - int(self.fetch("PRAGMA freelist_count", ())[0][0])

    def size_bytes(self) -> int:
        """Bytes that the journal takes on the disk, its write-ahead log included."""
        files = (self.path, self.path.with_name(self.path.name + "-wal"))
        return sum(file.stat().st_size for file in files if file.exists())

    def close(self) -> None:
        """Checkpoints and lets go of the lock."""
        if not self._lock.held:
            return
        with self._reading:
            self._reader.close()
        with self._mutex:
            if self.damage is None:
                self._lock.note_closed()
            self._db.close()
        self._lock.close()

    def transaction(self, *, durable: bool = True) -> "_Transaction":
        """A transaction of the one writer: all of the block or none.

        Args:
            durable: whether it is on the disk when the block has ended.
        """
        return _Transaction(self._db, self._mutex, self.path, self._look_for_damage, durable=durable)

    def fetch(self, query: str, values: Sequence[Any]) -> list[Any]:
        """The rows of a query that only reads.

        Raises:
            JournalError: the journal cannot be read.
        """
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except UNREADABLE as error:
                self._look_for_damage(error)
                raise JournalError(f"{self.path} cannot be read: {error}") from error

    def check_order(self, keys: Sequence[Any]) -> None:
        """Notices damage that has put rows out of order: `keys` of rows that were asked for in ascending order.

        Raises:
            JournalError: they are not ascending.
        """
        try:
            check_order(keys)
        except sqlite3.DatabaseError as error:
            self._meet(str(error))
            raise JournalError(f"{self.path} cannot be read: {error}") from error

    def _look_for_damage(self, error: Exception) -> None:
        if is_damage(error):
            self._meet(str(error))

    def _meet(self, damage: str) -> None:
        if self.damage is None:
            self.damage = damage
            note_damage(self.path, damage)
            self._on_damage()


class _Transaction:
    def __init__(
        self,
        db: sqlite3.Connection,
        mutex: threading.Lock,
        path: Path,
        failed: Callable[[Exception], None],
        *,
        durable: bool,
    ) -> None:
        self._db, self._mutex, self._path, self._failed, self._durable = db, mutex, path, failed, durable

    def __enter__(self) -> sqlite3.Connection:
        self._mutex.acquire()
        try:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if self._durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            self._mutex.release()
            self._failed(error)
            raise JournalError(f"{self._path} cannot be written: {error}") from error
        return self._db

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            self._db.execute("COMMIT" if error is None else "ROLLBACK")
        except sqlite3.Error as failure:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            self._shrink()
            self._failed(failure)
            raise JournalError(f"{self._path} cannot be written: {failure}") from failure
        finally:
            self._mutex.release()
        if isinstance(error, sqlite3.Error):
            self._shrink()
            self._failed(error)
            raise JournalError(f"{self._path} cannot be written: {error}") from error

    def _shrink(self) -> None:
        """Folds the write-ahead log into the journal, which on a full disk may be the room that is missing."""
        with contextlib.suppress(sqlite3.Error):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

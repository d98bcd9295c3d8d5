"""The journal: one SQLite file that holds results, what is done, and what is still owed to files and sinks.

A result, the mark that its arrival is done, the disposal that its file is owed and its place in every sink's outbox
are one transaction: the rows of `results` are the outbox, and a sink is a position in them.

    results     one row an arrival, in the order of commits
    kept        (source, path) -> the stamps and SHA-256 that were scored last; for files that stay where they are
    disposals   files whose result is durable and that are still to be moved or deleted
    quarantine  where files went that could not be scored
    places      folders in which a source holds files on their way out
    sinks       name -> the last row that it was given

`schema` makes the tables, `rows` says what stands in a row, `damage` and `salvage` are for a journal that is damaged.
One process writes (it holds the `lock` beside the journal); any number read, with `reading`.
"""

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from edged import failpoints
from edged.errors import JournalError
from edged.journal import salvage, schema
from edged.journal.damage import UNREADABLE, check_order, find_damage, is_damage, note_damage, noted_damage
from edged.journal.lock import StateLock
from edged.journal.rows import (
    INSERT,
    SELECT,
    of_disposal,
    of_record,
    of_set_aside,
    to_disposal,
    to_record,
    to_set_aside,
)
from edged.journal.salvage import Salvage
from edged.journal.schema import FILE
from edged.results import Record
from edged.sources.folder.arrivals import Disposal, Entry, SetAside, Stamps

_PAGE: Final = 1000
_INCREMENTAL: Final = 2
_RESERVE_PAGES: Final = 256
_CHECK_PROBLEMS: Final = 10
_CHECK_STEPS: Final = 100_000
_KEEP: Final = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, (SELECT seq FROM results WHERE id = ?))"


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
                log.warning("the journal was brought up to date", schema=schema.VERSION, backup=str(backup))
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
        """Makes results durable together with the marks that their arrivals are done: all of them or none.

        May be repeated with the same entries when it failed: an id that is there already is not added again.

        Raises:
            JournalError: the disk refuses (it is full, say); nothing was added.
        """
        kept, owed = [], []
        for entry in entries:
            if entry.disposal is None:
                path, stamps = os.fsencode(entry.record.path), entry.stamps
                kept.append(
                    (entry.record.source, path, stamps.size, stamps.mtime_ns, entry.record.sha256, entry.record.id)
                )
            else:
                owed.append(of_disposal(entry.disposal))
        with self._transaction() as db:
            db.executemany(INSERT, [of_record(entry.record) for entry in entries])
            db.executemany(_KEEP, kept)
            db.executemany("INSERT OR REPLACE INTO disposals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", owed)
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
            self._check_order([last, *(row[0] for row in rows)])
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
        found = self._fetch("SELECT * FROM disposals WHERE source = ? ORDER BY id", (source,))
        return [to_disposal(row) for row in found]

    def keep_instead(self, disposals: Iterable[Disposal]) -> None:
        """Turns disposals into marks that their files are kept, for a source that keeps its files from now on."""
        with self._transaction() as db:
            for disposal in disposals:
                stamps = disposal.stamps
                sha256 = db.execute("SELECT sha256 FROM results WHERE id = ?", (disposal.id,)).fetchone()
                mark = (disposal.source, disposal.path, stamps.size, stamps.mtime_ns)
                db.execute(_KEEP, (*mark, sha256[0] if sha256 else None, disposal.id))
                db.execute("DELETE FROM disposals WHERE id = ?", (disposal.id,))

    def disposed(self, ids: Iterable[str], set_aside: Iterable[SetAside] = ()) -> None:
        """Strikes disposals that are done, and notes where files went that are in quarantine now."""
        with self._transaction() as db:
            db.executemany("DELETE FROM disposals WHERE id = ?", [(id_,) for id_ in ids])
            values = [of_set_aside(one) for one in set_aside]
            db.executemany("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def places(self, source: str) -> list[bytes]:
        """Folders in which a source may hold files on their way out of its inbox."""
        return [row[0] for row in self._fetch("SELECT path FROM places WHERE source = ? ORDER BY path", (source,))]

    def add_place(self, source: str, path: bytes) -> None:
        """Adds one of them."""
        with self._transaction() as db:
            db.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (source, path))

    def forget_places(self, source: str) -> None:
        """Forgets them all: nothing is held there."""
        with self._transaction() as db:
            db.execute("DELETE FROM places WHERE source = ?", (source,))

    def quarantine(
        self, limit: int, *, moved_before: float | None = None, beside: Collection[str] = ()
    ) -> list[SetAside]:
        """Files in quarantine but for those of the ids `beside`, the oldest results first."""
        marks = ", ".join("?" * len(beside))
        found = self._fetch(
            f"SELECT * FROM quarantine WHERE moved_at < ? AND id NOT IN ({marks}) ORDER BY id LIMIT ?",
            (1e300 if moved_before is None else moved_before, *beside, limit),
        )
        return [to_set_aside(row) for row in found]

    def quarantine_bytes(self) -> int:
        """Bytes of all files in quarantine."""
        return int(self._fetch("SELECT coalesce(sum(size), 0) FROM quarantine", ())[0][0])

    def left_quarantine(self, ids: Iterable[str]) -> None:
        """Strikes files that are in quarantine no longer."""
        with self._transaction() as db:
            db.executemany("DELETE FROM quarantine WHERE id = ?", [(id_,) for id_ in ids])

    def add_sink(self, name: str) -> None:
        """Gives a sink its place: a new one starts after the rows that are there.

        Where damage took the positions of sinks, one that seems new is given all rows again.
        """
        with self._transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO sinks SELECT ?, iif(EXISTS (SELECT 1 FROM state WHERE name = 'resend'), 0, "
                "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'results'), 0))",
                (name,),
            )

    def undelivered(self, sink: str, limit: int) -> list[tuple[int, Record]]:
        """The next rows that a sink has not been given, in order, each with its position."""
        query = f"{SELECT} WHERE seq > (SELECT delivered_seq FROM sinks WHERE name = ?) ORDER BY seq LIMIT ?"
        found = self._fetch(query, (sink, limit))
        self._check_order([row[0] for row in found])
        try:
            return [(row[0], to_record(row)) for row in found]
        except UNREADABLE as error:
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
        return self._prune("scored_at < ?", (older_than,), sinks, limit)

    def prune_oldest(self, sinks: Sequence[str], *, limit: int = _PAGE) -> int:
        """Removes up to `limit` of the oldest results, if they reached all of `sinks`; marks stay."""
        return self._prune("seq IN (SELECT seq FROM results ORDER BY seq LIMIT ?)", (limit,), sinks, limit)

    def _prune(self, which: str, values: tuple[float, ...], sinks: Sequence[str], limit: int) -> int:
        marks = ", ".join("?" * len(sinks))
        with self._transaction() as db:
            db.execute(f"DELETE FROM sinks WHERE name NOT IN ({marks})", sinks)
            db.execute("DELETE FROM state WHERE name = 'resend'")
            removed = db.execute(
                f"DELETE FROM results WHERE seq IN (SELECT seq FROM results WHERE {which} "
                "AND seq <= coalesce((SELECT min(delivered_seq) FROM sinks), 9e18) LIMIT ?) RETURNING seq",
                (*values, limit),
            ).fetchall()
            if removed:
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
            self._fetch(f"PRAGMA {what}", ())[0][0] for what in ("page_count", "freelist_count", "page_size")
        )
        return int((pages - free) * size)

    def give_back(self, *, limit: int = _PAGE) -> int:
        """Gives up to `limit` free pages back to the file system, but for a reserve; how many it gave.

        A journal that an edged before schema 2 made gives none: its free pages are used again.
        """
        free = int(self._fetch("PRAGMA freelist_count", ())[0][0])
        giving = min(free - _RESERVE_PAGES, limit)
        if giving <= 0 or self._fetch("PRAGMA auto_vacuum", ()) != [(_INCREMENTAL,)]:
            return 0
        with self._transaction() as db:
            db.execute(f"PRAGMA incremental_vacuum({giving})").fetchall()
        return free - int(self._fetch("PRAGMA freelist_count", ())[0][0])

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

    def _transaction(self, *, durable: bool = True) -> "_Transaction":
        return _Transaction(self._db, self._mutex, self.path, self._look_for_damage, durable=durable)

    def _fetch(self, query: str, values: Sequence[Any]) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(query, values).fetchall()
            except UNREADABLE as error:
                self._look_for_damage(error)
                raise JournalError(f"{self.path} cannot be read: {error}") from error

    def _check_order(self, keys: Sequence[Any]) -> None:
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

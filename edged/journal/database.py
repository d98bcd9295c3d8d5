"""The journal's file: opened or salvaged, one writer's transactions, what a reader is given, and damage that is met.

What stands in it, and what is done with that, is in `journal`.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import structlog

from edged.errors import JournalError
from edged.journal import salvage, schema
from edged.journal.damage import UNREADABLE, check_order, find_damage, is_damage, note_damage, noted_damage
from edged.journal.lock import StateLock
from edged.journal.salvage import Salvage
from edged.journal.schema import FILE

_PAGE: Final = 1000
_INCREMENTAL: Final = 2
_RESERVE_PAGES: Final = 256
_CHECK_PROBLEMS: Final = 10
_CHECK_STEPS: Final = 100_000


class Database:
    """The one writer's. Its methods may be called from any thread."""

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

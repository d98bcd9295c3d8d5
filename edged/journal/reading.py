"""Reading a journal that a daemon may be writing, from another process."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from edged.errors import JournalError
from edged.journal import salvage, schema
from edged.journal.damage import UNREADABLE, check_order
from edged.journal.rows import select, to_record
from edged.journal.schema import FILE
from edged.results import QUARANTINED, Record

_PAGE: Final = 1000


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
        SchemaError: it is of a newer edged.
    """
    kinds = [
        kind for kind, asked in (("is_anomaly = 1", anomalies), (f"status = '{QUARANTINED}'", quarantined)) if asked
    ]
    which = f"AND ({' OR '.join(kinds)})" if kinds else ""
    with opened(state_dir) as db:
        version = schema.VERSION if db is None else schema.read_version(db, state_dir / FILE)
        query = f"{select(version)} WHERE seq > ? AND scored_at >= ? {which} ORDER BY seq LIMIT ?"
        last = 0
        # Pages, so that no long read keeps the daemon's write-ahead log from being folded in.
        while db and (rows := db.execute(query, (last, -1e300 if since is None else since, _PAGE)).fetchall()):
            check_order([last, *(row[0] for row in rows)])
            yield from map(to_record, rows)
            last = rows[-1][0]


def find_record(db: sqlite3.Connection, state_dir: Path, id_: str) -> Record | None:
    """One result, from `opened`; None when there is none.

    Raises:
        JournalError: the journal was not migrated yet.
    """
    row = db.execute(f"{select(schema.read_version(db, state_dir / FILE))} WHERE id = ?", (id_,)).fetchone()
    if row is None:
        return None
    if schema.read_version(db, state_dir / FILE) != schema.VERSION:
        raise JournalError(f"{state_dir / FILE} is of an older edged; start the daemon once, which migrates it")
    return to_record(row)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that a sink refused for good.

    Attributes:
        sink: its name.
        refused_at: seconds since 1970.
        error: why, in words.
        record: one line of JSON.
    """

    sink: str
    refused_at: float
    error: str
    record: str


def read_dead_letters(state_dir: Path) -> Iterator[DeadLetter]:
    """Records that sinks refused for good, oldest first; nothing when there is no journal, or an older one.

    Raises:
        JournalError: the journal cannot be read.
        SchemaError: it is of a newer edged.
    """
    with opened(state_dir) as db:
        if db is None or schema.read_version(db, state_dir / FILE) < schema.VERSION:
            return
        for row in db.execute("SELECT sink, refused_at, error, record FROM dead_letters ORDER BY refused_at, seq"):
            yield DeadLetter(*row)


@contextlib.contextmanager
def opened(state_dir: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that only reads; None when there is no journal yet."""
    path = state_dir / FILE
    try:
        there = path.exists()
    except OSError as error:
        raise JournalError(f"{path} cannot be read: {error}") from error
    if not there:
        yield None
        return
    try:
        # Without a write-ahead log nobody is writing, and a reader need not be able to make one.
        mode = "mode=ro" if path.with_name(path.name + salvage.WAL).exists() else "mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=10)) as db:
            schema.read_version(db, path)
            yield db
    except UNREADABLE as error:  # what the output of who reads raises, such as BrokenPipeError, is not the journal's
        raise JournalError(f"{path} cannot be read: {error}") from error

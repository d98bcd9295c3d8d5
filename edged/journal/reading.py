"""Reading a journal that a daemon may be writing, from another process."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from edged.errors import JournalError
from edged.journal import salvage, schema
from edged.journal.damage import UNREADABLE, check_order
from edged.journal.rows import SELECT, to_record, to_set_aside
from edged.journal.schema import FILE
from edged.results import QUARANTINED, Record
from edged.sources.folder.arrivals import SetAside

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
    query = f"{SELECT} WHERE seq > ? AND scored_at >= ? {which} ORDER BY seq LIMIT ?"
    with _reader(state_dir) as db:
        last = 0
        # Pages, so that no long read keeps the daemon's write-ahead log from being folded in.
        while db and (rows := db.execute(query, (last, -1e300 if since is None else since, _PAGE)).fetchall()):
            check_order([last, *(row[0] for row in rows)])
            yield from map(to_record, rows)
            last = rows[-1][0]


@dataclass(frozen=True, slots=True)
class Standing:
    """What a journal knows of one result and its file.

    Attributes:
        record: the result.
        owed: whether its file is still to leave the inbox.
        mark: (size, mtime_ns) of the kept file that its path is known by; None without a mark.
        is_latest: whether that mark is of this result, and not of a later one.
        set_aside: where its file is in quarantine, if it is.
    """

    record: Record
    owed: bool
    mark: tuple[int, int] | None
    is_latest: bool
    set_aside: SetAside | None


def look_up(state_dir: Path, id_: str) -> Standing | None:
    """One result of a journal that a daemon may be writing; None when there is none.

    Raises:
        JournalError: the journal cannot be read, or was not yet brought up to date.
        SchemaError: it is of a newer edged.
    """
    with _reader(state_dir) as db:
        row = db.execute(f"{SELECT} WHERE id = ?", (id_,)).fetchone() if db else None
        if db is None or row is None:
            return None
        if schema.read_version(db, state_dir / FILE) != schema.VERSION:
            raise JournalError(f"{state_dir / FILE} is of an older edged; start the daemon once")
        record = to_record(row)
        owed = db.execute("SELECT 1 FROM disposals WHERE id = ?", (id_,)).fetchone() is not None
        mark = db.execute(
            "SELECT size, mtime_ns, coalesce(seq, ?) FROM kept WHERE source = ? AND path = ?",
            (row[0], record.source, os.fsencode(record.path)),
        ).fetchone()
        aside = db.execute("SELECT * FROM quarantine WHERE id = ?", (id_,)).fetchone()
        return Standing(
            record, owed, mark and mark[:2], mark is not None and mark[2] == row[0], aside and to_set_aside(aside)
        )


@contextlib.contextmanager
def _reader(state_dir: Path) -> Iterator[sqlite3.Connection | None]:
    """A connection that only reads; None when there is no journal yet."""
    path = state_dir / FILE
    try:
        if not path.exists():
            yield None
            return
        # Without a write-ahead log nobody is writing, and a reader need not be able to make one.
        mode = "mode=ro" if path.with_name(path.name + salvage.WAL).exists() else "mode=ro&immutable=1"
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?{mode}", uri=True, timeout=10)) as db:
            schema.read_version(db, path)
            yield db
    except (*UNREADABLE, OSError) as error:
        raise JournalError(f"{path} cannot be read: {error}") from error

"""Noticing that a journal is damaged, and remembering it until it is salvaged.

`journal.sqlite.damage` says that damage was met, and how: the next start salvages.
"""

import contextlib
import sqlite3
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from edged.files import sync
from edged.journal import schema

UNREADABLE: Final = (sqlite3.Error, ValueError, TypeError, OverflowError)
"""What reading a damaged file may raise: text that is not UTF-8 and values that are not what the schema says, too."""

_DAMAGE: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_NOT_TEXT: Final = "Could not decode to UTF-8"  # which Python says, and without a code
_PROBED_ROWS: Final = 200


class DamageError(Exception):
    """A journal is damaged; the text says how."""


def is_damage(error: BaseException) -> bool:
    """Whether an error of SQLite says that the file is damaged, rather than busy, full or out of reach."""
    if isinstance(error, sqlite3.OperationalError) and str(error).startswith(_NOT_TEXT):
        return True
    return (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _DAMAGE


def check_order(keys: Sequence[Any]) -> None:
    """Refuses rows whose keys do not rise: who reads on behind the last of them would go round for ever.

    Raises:
        sqlite3.DatabaseError: they do not, which damage that SQLite did not notice does.
    """
    try:
        rises = all(one < next_ for one, next_ in pairwise(keys))
    except TypeError:
        rises = False
    if not rises:
        raise sqlite3.DatabaseError("rows are out of order")


def find_damage(path: Path) -> str | None:
    """How a journal is damaged, as far as can be told in no time; None when it seems to be well.

    Raises:
        SchemaError: it is of a newer edged.
        sqlite3.Error: it cannot be opened for another reason than damage.
    """
    if path.stat().st_size == 0:
        return "it is empty"
    try:
        # Only to read: closing a connection that may write would write into a file that is perhaps damaged.
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as db:
            if db.execute("PRAGMA application_id").fetchone() != (schema.APPLICATION_ID,):
                return "its header is not that of a journal"
            version = schema.read_version(db, path)
            if version <= 0:
                return "it has no tables" if version == 0 else f"its version is {version}"
            if version == schema.VERSION:
                _probe(db)
            else:
                db.execute("SELECT * FROM results ORDER BY seq DESC LIMIT 1").fetchall()
    except DamageError as error:
        return str(error)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return str(error)
    return None


def note_damage(path: Path, damage: str) -> None:
    """Has the next start salvage the journal, though it may not meet the damage by itself."""
    with contextlib.suppress(OSError):
        _mark(path).write_text(damage + "\n", encoding="utf-8")
        sync(path.parent)


def noted_damage(path: Path) -> str | None:
    """What `note_damage` said, if it did and nothing was salvaged since."""
    try:
        return _mark(path).read_text(encoding="utf-8").strip() or "unknown damage"
    except FileNotFoundError:
        return None


def forget_damage(path: Path) -> None:
    """Forgets what `note_damage` said, for it was salvaged."""
    _mark(path).unlink(missing_ok=True)


def _probe(db: sqlite3.Connection) -> None:
    """Looks whether a journal that is up to date can be used, in a time that does not grow with its rows.

    Raises:
        DamageError: a table is missing.
        sqlite3.Error: it cannot be read; see `is_damage`.
    """
    missing = schema.TABLES - {row[0] for row in db.execute("SELECT name FROM sqlite_schema")}
    if missing:
        raise DamageError(f"tables are missing: {', '.join(sorted(missing))}")
    for order in ("ASC", "DESC"):
        db.execute(f"SELECT * FROM results ORDER BY seq {order} LIMIT {_PROBED_ROWS}").fetchall()
        db.execute(f"SELECT * FROM results ORDER BY scored_at {order} LIMIT 1").fetchall()
        db.execute(f"SELECT * FROM results ORDER BY id {order} LIMIT 1").fetchall()
        for table, key in schema.KEYS.items():
            columns = ", ".join(f"{column} {order}" for column in key)
            db.execute(f"SELECT * FROM {table} ORDER BY {columns} LIMIT 1").fetchall()
    last, given = db.execute(
        "SELECT (SELECT max(seq) FROM results), (SELECT seq FROM sqlite_sequence WHERE name = 'results')"
    ).fetchone()
    if (last or 0) > (given or 0):
        raise DamageError(f"row {last} is beyond the last that was given out, {given}")


def _mark(path: Path) -> Path:
    return path.with_name(path.name + ".damage")

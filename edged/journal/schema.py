"""The tables of the journal, step by step: making a new one, and migrating one of an older edged.

`user_version` says how many steps a journal has behind it. Steps are never changed, only added: a step that was
released has made journals out there.
"""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Final

from edged.errors import SchemaError
from edged.files import sync

FILE: Final = "journal.sqlite"
"""In `service.state_dir`."""

APPLICATION_ID: Final = 0x65646764  # "edgd"

STEPS: Final = (
    """
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
    """,
    # Which result a mark is of tells a result that retention removed from one that damage took. Where quarantined
    # files went lets retention remove them. `state` holds numbers: pruned_seq, the highest row that retention removed;
    # resend, set where damage took the positions of sinks.
    """
    ALTER TABLE kept ADD COLUMN seq INTEGER;
    CREATE TABLE quarantine (
        id TEXT PRIMARY KEY,
        source TEXT NOT NULL,
        path BLOB NOT NULL,
        inode INTEGER NOT NULL,
        size INTEGER NOT NULL,
        mtime_ns INTEGER NOT NULL,
        moved_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE state (
        name TEXT PRIMARY KEY,
        value INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
    # Of which inbox a file is owed: with another folder in its place, as where its disk is unmounted, it is not gone.
    "ALTER TABLE disposals ADD COLUMN root INTEGER;",
    # Where files are held on their way out of an inbox: other settings mean another folder, and they are still there.
    """
    CREATE TABLE places (
        source TEXT NOT NULL,
        path BLOB NOT NULL,
        PRIMARY KEY (source, path)
    ) STRICT, WITHOUT ROWID;
    """,
    # Which calibration gave a threshold. Records that a sink refused for good, for people to look at. What a source
    # that needs no table of its own remembers.
    """
    ALTER TABLE results ADD COLUMN calibration_sha256 TEXT;
    CREATE TABLE dead_letters (
        sink TEXT NOT NULL,
        seq INTEGER NOT NULL,
        refused_at REAL NOT NULL,
        error TEXT NOT NULL,
        record TEXT NOT NULL,
        PRIMARY KEY (sink, seq)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE remembered (
        source TEXT NOT NULL,
        key TEXT NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (source, key)
    ) STRICT, WITHOUT ROWID;
    """,
    # What the record of an event says beside what every record says, as JSON.
    "ALTER TABLE results ADD COLUMN event TEXT;",
    # What people said of results.
    """
    CREATE TABLE labels (
        id TEXT PRIMARY KEY,
        label TEXT NOT NULL CHECK (label IN ('false_alarm', 'real', 'unsure')),
        note TEXT NOT NULL,
        labelled_at REAL NOT NULL
    ) STRICT, WITHOUT ROWID;
    """,
)
VERSION: Final = len(STEPS)
ADDED: Final = {"results": {"calibration_sha256": 5, "event": 6}}
"""Columns that came after their table, and the version that brought them: who only reads may meet an older journal."""
KEYS: Final = {
    "kept": ("source", "path"),
    "disposals": ("id",),
    "sinks": ("name",),
    "quarantine": ("id",),
    "state": ("name",),
    "places": ("source", "path"),
    "dead_letters": ("sink", "seq"),
    "remembered": ("source", "key"),
    "labels": ("id",),
}
"""The tables but `results`, whose key is seq, and what tells their rows apart."""
TABLES: Final = frozenset({"results", *KEYS})


def create(
    path: Path,
    fill: Callable[[sqlite3.Connection], None] = lambda _: None,
    *,
    steps: int = VERSION,
    vacuum: bool = True,
) -> None:
    """Makes a journal: whole and durable under its name, or not at all.

    Args:
        path: must not exist.
        fill: puts rows in before the journal gets its name.
        steps: how many steps to take.
        vacuum: whether freed pages can be given back to the file system step by step.

    Raises:
        sqlite3.Error: or OSError; the disk refuses.
    """
    partial = path.with_name(path.name + ".part")
    partial.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(partial, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode = OFF")  # a crash leaves a partial file, which is begun anew
        db.execute("PRAGMA synchronous = OFF")
        if vacuum:
            db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        for number in range(steps):
            _take(db, number)
        fill(db)
    sync(partial)
    partial.rename(path)
    sync(path.parent)


def migrate(db: sqlite3.Connection, path: Path) -> Path | None:
    """Migrates an open journal, with a backup beside it; a crash leaves it at the end of one step or another.

    Returns:
        The backup; None when there was nothing to do.

    Raises:
        SchemaError: the journal is of a newer edged.
        sqlite3.Error: or OSError; the disk refuses (no room for the backup, say), and the journal is as it was.
    """
    version = read_version(db, path)
    if version == VERSION:
        return None
    backup = path.with_name(f"{path.name}.v{version}")
    partial = backup.with_name(backup.name + ".part")
    partial.unlink(missing_ok=True)
    with contextlib.closing(sqlite3.connect(partial)) as copy:
        db.backup(copy)
    sync(partial)
    partial.replace(backup)
    sync(backup.parent)
    for number in range(version, VERSION):
        _take(db, number)
    return backup


def read_version(db: sqlite3.Connection, path: Path) -> int:
    """How many steps a journal has behind it.

    Raises:
        SchemaError: more than this edged knows.
    """
    version = int(db.execute("PRAGMA user_version").fetchone()[0])
    if version > VERSION:
        raise SchemaError(
            f"{path} has schema {version}, this edged knows {VERSION}: it was written by a newer edged; install that "
            "one again, or stop and restore the backup that it made beside the journal"
        )
    return version


def _take(db: sqlite3.Connection, number: int) -> None:
    try:
        db.executescript(f"BEGIN IMMEDIATE; {STEPS[number]} PRAGMA user_version = {number + 1}; COMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise

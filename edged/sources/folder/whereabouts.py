"""Where the file of a result is now: in quarantine, where the done ones go, or still under its name."""

import os
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.results import Record
from edged.sources.folder.renames import with_id
from edged.sources.folder.table import FolderTable

_MOST_APART_S = 0.002  # a record keeps the time of its file in seconds, as a float


def find(db: sqlite3.Connection, table: FolderTable, record: Record) -> Path | None:
    """The path of a result's file; None where it was deleted, changed or taken away.

    Its contents are not read: a file is known by its place and by when it was last written.

    Args:
        db: a journal, open for reading.
        table: of the source that the result is of.
        record: the result.
    """
    return next((Path(os.fsdecode(path)) for path in _candidates(db, table, record) if _is_of(record, path)), None)


def done_paths(table: FolderTable, path: bytes, id_: str) -> Iterator[bytes]:
    """Where a scored file may be in `done_dir`, the likelier place first; none without one."""
    if table.done_dir is not None:
        relative = os.path.relpath(path, os.fsencode(os.path.realpath(table.path)))
        if not relative.startswith(b".."):  # else the source was of another folder then
            done = os.path.join(os.fsencode(table.done_dir), relative)
            yield from (with_id(done, id_), done)


def _candidates(db: sqlite3.Connection, table: FolderTable, record: Record) -> Iterator[bytes]:
    path = os.fsencode(record.path)
    if record.reason is None:
        yield from done_paths(table, path, record.id)
    else:
        for (aside,) in db.execute("SELECT path FROM quarantine WHERE id = ?", (record.id,)):
            yield aside
    yield path


def _is_of(record: Record, path: bytes) -> bool:
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISREG(found.st_mode) and abs(found.st_mtime - record.captured_at) < _MOST_APART_S

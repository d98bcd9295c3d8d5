"""What folders remember in the journal's database: which files are known, and what is still to happen to which.

    kept        (source, path) -> the size, mtime and SHA-256 that were scored last; for files that stay where they are
    disposals   file actions: files whose result is durable and that are still to be moved or deleted
    quarantine  where files went that could not be scored
    places      folders in which a source holds files on their way out

A mark or an action is made in the transaction that makes its result durable (`keep`, `owe`).
"""

import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any, Final

from edged.journal.journal import Journal, Statement
from edged.results import Record
from edged.sources.folder.files import FileAction, Fingerprint, SetAside

_PAGE: Final = 1000
_KEEP: Final = "INSERT OR REPLACE INTO kept VALUES (?, ?, ?, ?, ?, (SELECT seq FROM results WHERE id = ?))"
_OWE: Final = "INSERT OR REPLACE INTO disposals VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"


def keep(record: Record, path: bytes, fingerprint: Fingerprint) -> Statement:
    """The mark that a file of this result stays, and is known."""
    return _KEEP, (record.source, path, fingerprint.size, fingerprint.mtime_ns, record.sha256, record.id)


def owe(action: FileAction) -> Statement:
    """The note that a file is to leave its inbox."""
    found = action.fingerprint
    values = (action.id, action.source, action.path, found.inode, found.size, found.mtime_ns)
    return _OWE, (*values, action.action, action.sidecar, action.root)


class Ledger:
    """What one source remembers. Its methods may be called from any thread."""

    def __init__(self, journal: Journal, source: str) -> None:
        self._journal, self._source = journal, source

    def kept(self) -> Iterator[tuple[bytes, int, int]]:
        """(path, size, mtime_ns) of every kept file."""
        last = b""
        while True:
            rows = self._journal.fetch(
                "SELECT path, size, mtime_ns FROM kept WHERE source = ? AND path > ? ORDER BY path LIMIT ?",
                (self._source, last, _PAGE),
            )
            self._journal.check_order([last, *(row[0] for row in rows)])
            yield from rows
            if len(rows) < _PAGE:
                return
            last = rows[-1][0]

    def kept_sha256(self, path: bytes) -> str | None:
        """SHA-256 of what was last scored under this path and is kept there."""
        rows = self._journal.fetch("SELECT sha256 FROM kept WHERE source = ? AND path = ?", (self._source, path))
        return rows[0][0] if rows else None

    def refresh(self, path: bytes, fingerprint: Fingerprint) -> Statement:
        """The new fingerprint of a kept file whose content is what was scored: no new arrival."""
        values = (fingerprint.size, fingerprint.mtime_ns, self._source, path)
        return "UPDATE kept SET size = ?, mtime_ns = ? WHERE source = ? AND path = ?", values

    def forget_kept(self, files: Iterable[tuple[bytes, int, int]]) -> None:
        """Removes the marks of these (path, size, mtime_ns); a mark that was renewed meanwhile stays."""
        with self._journal.transaction() as db:
            db.executemany(
                "DELETE FROM kept WHERE source = ? AND path = ? AND size = ? AND mtime_ns = ?",
                [(self._source, *file) for file in files],
            )

    def actions(self) -> list[FileAction]:
        """What is still to be moved or deleted, oldest first."""
        rows = self._journal.fetch("SELECT * FROM disposals WHERE source = ? ORDER BY id", (self._source,))
        return [_to_action(row) for row in rows]

    def keep_instead(self, actions: Iterable[FileAction]) -> None:
        """Turns actions into marks that their files are kept, for a source that keeps its files from now on."""
        with self._journal.transaction() as db:
            for action in actions:
                found = action.fingerprint
                sha256 = db.execute("SELECT sha256 FROM results WHERE id = ?", (action.id,)).fetchone()
                mark = (self._source, action.path, found.size, found.mtime_ns)
                db.execute(_KEEP, (*mark, sha256[0] if sha256 else None, action.id))
                db.execute("DELETE FROM disposals WHERE id = ?", (action.id,))

    def done(self, ids: Iterable[str], set_aside: Iterable[SetAside] = ()) -> None:
        """Strikes actions that are done, and notes where files went that are in quarantine now."""
        with self._journal.transaction() as db:
            db.executemany("DELETE FROM disposals WHERE id = ?", [(id_,) for id_ in ids])
            values = [_of_set_aside(one) for one in set_aside]
            db.executemany("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)", values)

    def places(self) -> list[bytes]:
        """Folders in which files may be held on their way out of the inbox."""
        rows = self._journal.fetch("SELECT path FROM places WHERE source = ? ORDER BY path", (self._source,))
        return [row[0] for row in rows]

    def add_place(self, path: bytes) -> None:
        """Adds one of them."""
        with self._journal.transaction() as db:
            db.execute("INSERT OR IGNORE INTO places VALUES (?, ?)", (self._source, path))

    def forget_places(self) -> None:
        """Forgets them all: nothing is held there."""
        with self._journal.transaction() as db:
            db.execute("DELETE FROM places WHERE source = ?", (self._source,))


def quarantined(
    journal: Journal, limit: int, *, moved_before: float | None = None, beside: Collection[str] = ()
) -> list[SetAside]:
    """Files in quarantine, of all sources, but for those of the ids `beside`; the oldest results first."""
    marks = ", ".join("?" * len(beside))
    found = journal.fetch(
        f"SELECT * FROM quarantine WHERE moved_at < ? AND id NOT IN ({marks}) ORDER BY id LIMIT ?",
        (1e300 if moved_before is None else moved_before, *beside, limit),
    )
    return [_to_set_aside(row) for row in found]


def quarantined_bytes(journal: Journal) -> int:
    """Bytes of all files in quarantine."""
    return int(journal.fetch("SELECT coalesce(sum(size), 0) FROM quarantine", ())[0][0])


def left_quarantine(journal: Journal, ids: Iterable[str]) -> None:
    """Strikes files that are in quarantine no longer."""
    with journal.transaction() as db:
        db.executemany("DELETE FROM quarantine WHERE id = ?", [(id_,) for id_ in ids])


def look_up(db: sqlite3.Connection, record: Record) -> tuple[bool, tuple[int, int] | None, bool, SetAside | None]:
    """What is known of the file of a result, for `requeue.Standing`: owed, mark, is_latest, set_aside."""
    owed = db.execute("SELECT 1 FROM disposals WHERE id = ?", (record.id,)).fetchone() is not None
    (seq,) = db.execute("SELECT seq FROM results WHERE id = ?", (record.id,)).fetchone()
    mark = db.execute(
        "SELECT size, mtime_ns, coalesce(seq, ?) FROM kept WHERE source = ? AND path = ?",
        (seq, record.source, os.fsencode(record.path)),
    ).fetchone()
    aside = db.execute("SELECT * FROM quarantine WHERE id = ?", (record.id,)).fetchone()
    return owed, mark and mark[:2], mark is not None and mark[2] == seq, aside and _to_set_aside(aside)


def _to_action(row: Sequence[Any]) -> FileAction:
    id_, source, path, inode, size, mtime_ns, action, sidecar, root = row
    return FileAction(id_, source, path, Fingerprint(inode, size, mtime_ns), action, sidecar, root)


def _of_set_aside(one: SetAside) -> tuple[Any, ...]:
    found = one.fingerprint
    return one.id, one.source, one.path, found.inode, found.size, found.mtime_ns, one.moved_at


def _to_set_aside(row: Sequence[Any]) -> SetAside:
    id_, source, path, inode, size, mtime_ns, moved_at = row
    return SetAside(id_, source, path, Fingerprint(inode, size, mtime_ns), moved_at)

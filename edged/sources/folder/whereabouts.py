"""Where the file of a result is now: in its inbox, where it was moved, or in quarantine."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from edged.journal.reading import opened
from edged.results import Record
from edged.sources.folder import ledger
from edged.sources.folder.renames import with_id
from edged.sources.folder.table import FolderTable


def find(state_dir: Path, table: FolderTable, record: Record) -> Path | None:
    """The file of a result, known by its SHA-256; None when it is gone, or has changed.

    Raises:
        JournalError: the journal cannot be read.
    """
    if record.sha256 is None:
        return None
    for candidate in _candidates(state_dir, table, record):
        with contextlib.suppress(OSError):
            descriptor = os.open(candidate, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with open(descriptor, "rb") as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    continue
                if hashlib.file_digest(file, "sha256").hexdigest() == record.sha256:
                    return Path(os.fsdecode(candidate))
    return None


def _candidates(state_dir: Path, table: FolderTable, record: Record) -> Iterator[bytes]:
    path = os.fsencode(record.path)
    yield path
    if table.done_dir is not None:
        relative = os.path.relpath(path, os.fsencode(os.path.realpath(table.path)))
        done = os.path.join(os.fsencode(table.done_dir), relative)
        if not relative.startswith(b".."):  # else the source was of another folder then
            yield from (with_id(done, record.id), done)
    with opened(state_dir) as db:
        aside = None if db is None else ledger.look_up(db, record)[3]
    if aside is not None:
        yield aside.path

"""`edged results --requeue`: a person asks that the file of a result be scored again.

A kept file's mark is forgotten; a file that was moved, to quarantine or as done, goes back into its inbox. Either way
it is a new arrival with a result of its own, and the old result stays. The source does it at its next scan.
"""

import contextlib
import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from edged.errors import RefusedError
from edged.journal.reading import find_record, opened
from edged.results import Record, display_path
from edged.sources.folder import ledger, requests
from edged.sources.folder.files import Fingerprint, SetAside
from edged.sources.folder.requests import Request
from edged.sources.folder.table import FolderTable
from edged.sources.folder.whereabouts import done_paths


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


def requeue(state_dir: Path, table: FolderTable, id_: str) -> str:
    """Asks for one file to be scored again.

    Args:
        state_dir: `service.state_dir`.
        table: of the source that the result is of.
        id_: of the result.

    Returns:
        The path that it arrives under.

    Raises:
        RefusedError: there is no such result, or its file is gone, has changed or is not where it was put.
        JournalError: the journal cannot be read.
        OSError: the request cannot be written.
    """
    with opened(state_dir) as db:
        record = find_record(db, state_dir, id_) if db else None
        if db is None or record is None:
            raise RefusedError("there is no such result; `edged results` shows those that there are")
        standing = Standing(record, *ledger.look_up(db, record))
    if standing.owed:
        raise RefusedError("its file has not left the inbox yet; ask again in a minute")
    path = os.fsencode(record.path)
    now_at, fingerprint = _kept(standing, path) if table.after == "keep" else _moved(standing, table, path)
    requests.ask(state_dir, Request(record.id, record.source, path, now_at, fingerprint))
    return record.path


def _kept(standing: Standing, path: bytes) -> tuple[bytes, Fingerprint]:
    if standing.set_aside is not None:
        raise RefusedError(
            f"its file was moved to {display_path(standing.set_aside.path)} and its source keeps files now: put it "
            "into the inbox under a new name"
        )
    fingerprint = _stamps(path)
    if standing.mark is None:
        raise RefusedError("its file waits to be scored again already")
    if not standing.is_latest:
        raise RefusedError("its file was scored again since; ask for the latest result of that path")
    if (fingerprint.size, fingerprint.mtime_ns) != standing.mark:
        raise RefusedError("its file has changed since, and is scored again as it is")
    return path, fingerprint


def _moved(standing: Standing, table: FolderTable, path: bytes) -> tuple[bytes, Fingerprint]:
    """Where a file is that left its inbox, and the file that stands there."""
    record, aside = standing.record, standing.set_aside
    if aside is not None:
        if _stamps(aside.path) != aside.fingerprint:
            raise RefusedError(f"another file stands at {display_path(aside.path)}, where its file was put")
        return aside.path, aside.fingerprint
    if record.reason is None and table.after == "move" and table.done_dir is not None and record.sha256 is not None:
        for candidate in done_paths(table, path, record.id):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(candidate).st_mode):
                    with open(candidate, "rb") as file:
                        if hashlib.file_digest(file, "sha256").hexdigest() == record.sha256:
                            return candidate, Fingerprint.of(os.fstat(file.fileno()))
        raise RefusedError(f"its file is not in {table.done_dir} any more, or was changed")
    raise RefusedError("its file was deleted, or taken away")


def _stamps(path: bytes) -> Fingerprint:
    try:
        return Fingerprint.of(os.lstat(path))
    except OSError as error:
        raise RefusedError(f"its file {display_path(path)} cannot be found: {error.strerror}") from error

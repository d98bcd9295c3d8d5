"""`edged results --requeue`: a person asks that the file of a result be scored again.

A kept file's mark is forgotten; a file that was moved, to quarantine or as done, goes back into its inbox. Either way
it is a new arrival with a result of its own, and the old result stays. The source does it at its next scan.
"""

import contextlib
import hashlib
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edged.journal.reading import Standing, look_up
from edged.results import display_path
from edged.sources.folder import requests
from edged.sources.folder.arrivals import Stamps
from edged.sources.folder.file_actions import with_id
from edged.sources.folder.requests import Request


@dataclass(frozen=True, slots=True)
class Place:
    """What is needed of a source: a `[[sources]]` table."""

    path: Path
    after: Literal["keep", "move", "delete"]
    done_dir: Path | None


class RefusedError(Exception):
    """The file of a result cannot be scored again; the text says why."""


def requeue(state_dir: Path, places: Mapping[str, Place], id_: str) -> str:
    """Asks for one file to be scored again.

    Args:
        state_dir: `service.state_dir`.
        places: the sources, by name.
        id_: of the result.

    Returns:
        The path that it arrives under.

    Raises:
        RefusedError: there is no such result, or its file is gone, has changed or is not where it was put.
        JournalError: the journal cannot be read.
        OSError: the request cannot be written.
    """
    standing = look_up(state_dir, id_)
    if standing is None:
        raise RefusedError("there is no such result; `edged results` shows those that there are")
    record = standing.record
    place = places.get(record.source)
    if place is None:
        raise RefusedError(f"its source {record.source} is not in the configuration")
    if standing.owed:
        raise RefusedError("its file has not left the inbox yet; ask again in a minute")
    path = os.fsencode(record.path)
    if place.after == "keep":
        now_at, stamps = path, _kept(standing, path)
    else:
        now_at, stamps = _moved(standing, place, path)
    requests.ask(state_dir, Request(record.id, record.source, path, now_at, stamps))
    return record.path


def _kept(standing: Standing, path: bytes) -> Stamps:
    if standing.set_aside is not None:
        raise RefusedError(
            f"its file was moved to {display_path(standing.set_aside.path)} and its source keeps files now: put it "
            "into the inbox under a new name"
        )
    stamps = _stamps(path)
    if standing.mark is None:
        raise RefusedError("its file waits to be scored again already")
    if not standing.is_latest:
        raise RefusedError("its file was scored again since; ask for the latest result of that path")
    if (stamps.size, stamps.mtime_ns) != standing.mark:
        raise RefusedError("its file has changed since, and is scored again as it is")
    return stamps


def _moved(standing: Standing, place: Place, path: bytes) -> tuple[bytes, Stamps]:
    """Where a file is that left its inbox, and the file that stands there."""
    record, aside = standing.record, standing.set_aside
    if aside is not None:
        if _stamps(aside.path) != aside.stamps:
            raise RefusedError(f"another file stands at {display_path(aside.path)}, where its file was put")
        return aside.path, aside.stamps
    if record.reason is None and place.after == "move" and place.done_dir is not None and record.sha256 is not None:
        relative = os.path.relpath(path, os.fsencode(os.path.realpath(place.path)))
        done = os.path.join(os.fsencode(place.done_dir), relative)
        for candidate in (with_id(done, record.id), done):
            with contextlib.suppress(OSError):
                if stat.S_ISREG(os.lstat(candidate).st_mode):
                    with open(candidate, "rb") as file:
                        if hashlib.file_digest(file, "sha256").hexdigest() == record.sha256:
                            return candidate, Stamps.of(os.fstat(file.fileno()))
        raise RefusedError(f"its file is not in {place.done_dir} any more, or was changed")
    raise RefusedError("its file was deleted, or taken away")


def _stamps(path: bytes) -> Stamps:
    try:
        return Stamps.of(os.lstat(path))
    except OSError as error:
        raise RefusedError(f"its file {display_path(path)} cannot be found: {error.strerror}") from error

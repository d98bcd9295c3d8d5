"""Requests of people that a file be scored again: one small file each, in a folder of ours, until its source has it.

`edged results --requeue` writes them, whether the daemon runs or not; the source takes them at its next scan. A request
is carried out and struck before that scan admits a file, so that one that a crash leaves there finds nothing to do: a
mark that is forgotten already, a file that is back in its inbox.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged.files import sync, write_durably
from edged.sources.folder.files import Fingerprint

FOLDER: Final = "requeue"


@dataclass(frozen=True, slots=True)
class Request:
    """One result whose file is to be scored again.

    Attributes:
        id: of the result.
        source: of the result.
        path: where the file arrived, absolute.
        now_at: where it is now; `path` itself for a kept file.
        fingerprint: of the file that is meant; no other is touched.
    """

    id: str
    source: str
    path: bytes
    now_at: bytes
    fingerprint: Fingerprint


def ask(state_dir: Path, request: Request) -> None:
    """Writes a request, whole or not at all; asking again changes nothing.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = state_dir / FOLDER
    folder.mkdir(exist_ok=True)
    text = json.dumps(
        {
            "id": request.id,
            "source": request.source,
            "path": os.fsdecode(request.path),
            "now_at": os.fsdecode(request.now_at),
            "stamps": [request.fingerprint.inode, request.fingerprint.size, request.fingerprint.mtime_ns],
        }
    )
    write_durably(folder / f"{request.id}.json", text.encode("ascii"))


def asked(state_dir: Path, source: str) -> Iterator[Request]:
    """What is asked of a source; nothing where a request could not be struck afterwards."""
    folder = state_dir / FOLDER
    try:
        files = sorted(folder.glob("*.json"))
    except OSError:
        return
    for file in files:
        if not os.access(folder, os.W_OK):
            return  # it would be carried out at every scan
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            about = json.loads(file.read_text(encoding="ascii"))
            if about["source"] == source and file.stem == about["id"]:
                path, now_at = os.fsencode(about["path"]), os.fsencode(about["now_at"])
                inode, size, mtime_ns = about["stamps"]
                yield Request(about["id"], source, path, now_at, Fingerprint(inode, size, mtime_ns))


def strike(state_dir: Path, request: Request) -> None:
    """Removes a request, durably: afterwards its file may be scored, and asked for once more.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = state_dir / FOLDER
    (folder / f"{request.id}.json").unlink(missing_ok=True)
    sync(folder)

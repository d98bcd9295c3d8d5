"""A place for private names: files on their way out of an inbox are held there, where nobody replaces them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edged.errors import SourceError


@dataclass(frozen=True, slots=True)
class PrivateFolder:
    """Where private names are given, and where they were given under other settings.

    Attributes:
        path: a folder of ours outside the inbox, on its file system; made when it is needed.
        earlier: folders that had this use before, in which files may still be held.
    """

    path: bytes
    earlier: tuple[bytes, ...] = ()

    @property
    def all(self) -> tuple[bytes, ...]:
        """Every folder in which files may be held."""
        return (self.path, *self.earlier)

    def name_of(self, name: bytes, *others: bytes) -> bytes:
        """The whole path of a private name: in the folder where it, or one of `others`, is taken; else in ours."""
        taken = (
            folder for folder in self.all if any(os.path.lexists(os.path.join(folder, one)) for one in (name, *others))
        )
        return os.path.join(next(taken, self.path), name)

    def make(self) -> None:
        """Makes the folder, for nobody else to look into."""
        os.makedirs(self.path, mode=0o700, exist_ok=True)


def private_folder(root: Path, candidates: Sequence[Path]) -> Path:
    """A place for private names: outside `root`, on its file system.

    Args:
        root: the inbox; it exists.
        candidates: folders that are ours, tried in this order; at last a hidden folder beside the inbox.

    Raises:
        SourceError: none of them is on the file system of `root`.
    """
    mount = _mount(root)
    for candidate in (*candidates, root.parent):
        existing = next(path for path in (candidate, *candidate.parents) if os.path.exists(path))
        if _mount(existing) == mount and os.access(existing, os.W_OK):
            return candidate / (f".{root.name}.edged" if candidate == root.parent else ".edged")
    raise SourceError(
        f"{root}: files can be moved or deleted safely only through a folder outside the inbox on the same file "
        f"system, and neither {', '.join(map(str, candidates))} nor {root.parent} is one that can be written; make the "
        "inbox a subfolder of that file system, or put done_dir or quarantine_dir on it"
    )


def _mount(path: Path) -> tuple[int, bytes]:
    """What a rename cannot cross: the device, and the mount, for one device may be mounted at several places."""
    descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", "rb") as info:
            mount = next((line for line in info if line.startswith(b"mnt_id:")), b"")
        return os.fstat(descriptor).st_dev, mount
    finally:
        os.close(descriptor)

"""The state of a file, what is to happen to it once its result is durable, and where it is in quarantine."""

import os
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What tells one state of a file from another without reading it."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Fingerprint":
        """Those of an lstat or fstat. The inode is cut to 63 bits, which is what SQLite's integers hold."""
        return cls(stat.st_ino & ((1 << 63) - 1), stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class FileAction:
    """A file whose result is durable and that is still to leave its inbox.

    Attributes:
        id: of its result.
        path: absolute.
        fingerprint: of the file that was scored; no other file of that name may be touched.
        sidecar: JSON for people, written beside a quarantined file; "" for the other actions.
        root: inode of the inbox that the file was in; None when it is not known.
    """

    id: str
    source: str
    path: bytes
    fingerprint: Fingerprint
    action: Literal["move", "delete", "quarantine"]
    sidecar: str = ""
    root: int | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file that was moved to quarantine.

    Attributes:
        id: of its result.
        path: where it is now, absolute; its sidecar is beside it.
        fingerprint: of the file there; no other file of that name may be touched.
        moved_at: seconds since 1970.
    """

    id: str
    source: str
    path: bytes
    fingerprint: Fingerprint
    moved_at: float

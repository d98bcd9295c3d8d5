"""What a source finds: an arrival, the state of its file, and what that file is owed once its result is durable."""

import os
from dataclasses import dataclass
from typing import Literal

from edged.results import Record


@dataclass(frozen=True, slots=True)
class Stamps:
    """What tells one state of a file from another without reading it."""

    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Stamps":
        """Those of an lstat or fstat. The inode is cut to 63 bits, which is what SQLite's integers hold."""
        return cls(stat.st_ino & ((1 << 63) - 1), stat.st_size, stat.st_mtime_ns)


@dataclass(frozen=True, slots=True)
class Arrival:
    """One file that is complete and waits for its result.

    Attributes:
        id: of the result to be.
        source: name of the source.
        path: absolute.
        stamps: of the file that was found.
        found_at: `time.monotonic()` when it was first seen.
        root: inode of the inbox that it is in; None where that means nothing.
    """

    id: str
    source: str
    path: bytes
    stamps: Stamps
    found_at: float
    root: int | None = None

    @property
    def captured_at(self) -> float:
        """When the picture was taken, as well as a file tells: its modification time, seconds since 1970."""
        return self.stamps.mtime_ns / 1e9


@dataclass(frozen=True, slots=True)
class Disposal:
    """A file whose result is durable and that is still to leave its inbox.

    Attributes:
        id: of its result.
        path: absolute.
        stamps: of the file that was scored; no other file of that name may be touched.
        sidecar: JSON for people, written beside a quarantined file; "" for the other actions.
        root: inode of the inbox that the file was in; None when it is not known.
    """

    id: str
    source: str
    path: bytes
    stamps: Stamps
    action: Literal["move", "delete", "quarantine"]
    sidecar: str = ""
    root: int | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What one arrival adds to the journal: its record, and a mark that it is kept unless it has a `disposal`."""

    record: Record
    stamps: Stamps
    disposal: Disposal | None = None


@dataclass(frozen=True, slots=True)
class SetAside:
    """A file that was moved to quarantine.

    Attributes:
        id: of its result.
        path: where it is now, absolute; its sidecar is beside it.
        stamps: of the file there; no other file of that name may be touched.
        moved_at: seconds since 1970.
    """

    id: str
    source: str
    path: bytes
    stamps: Stamps
    moved_at: float

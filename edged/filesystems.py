"""What kind of file system a path is on: network ones raise no events for remote writes, and lock in their own way."""

import os
import re
from pathlib import Path
from typing import Final

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "gfs2", "ocfs2"}
)
_NETWORK_FUSE: Final = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "fuse.davfs")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


def is_network(path: Path) -> bool:
    """Whether `path`, or the nearest of its parents that exists, is on a network file system; False off Linux."""
    try:
        mounts = Path("/proc/self/mountinfo").read_bytes()
    except OSError:
        return False
    kind = kind_of(os.fsencode(os.path.realpath(path)), mounts)
    return kind in _NETWORK or kind.startswith(_NETWORK_FUSE)


def kind_of(path: bytes, mounts: bytes) -> str:
    """The type of the file system that holds `path`, by the text of /proc/self/mountinfo (proc(5)); "" for none."""
    best, kind = b"", ""
    for line in mounts.splitlines():
        before, _, after = line.partition(b" - ")
        fields, types = before.split(), after.split()
        if len(fields) < 5 or not types:
            continue
        point = _ESCAPE.sub(lambda match: bytes([int(match[1], 8)]), fields[4])
        inside = path == point or path.startswith(point.rstrip(b"/") + b"/")
        # Of two mounts at one point the later hides the earlier.
        if inside and len(point) >= len(best):
            best, kind = point, types[0].decode("ascii", "replace")
    return kind

"""Files and file systems: opening what somebody else put there, writing whole or not at all, making it durable."""

import contextlib
import errno
import os
import re
import stat
import tempfile
from io import BufferedReader
from pathlib import Path
from typing import Final

_NETWORK: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "afs", "ceph", "glusterfs", "lustre", "ncpfs", "gfs2", "ocfs2"}
)
_NETWORK_FUSE: Final = ("fuse.sshfs", "fuse.glusterfs", "fuse.s3fs", "fuse.rclone", "fuse.ceph", "fuse.davfs")
_ESCAPE: Final = re.compile(rb"\\([0-7]{3})")


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file for reading; an ordinary open of a FIFO would wait for a writer, for ever.

    Raises:
        OSError: it cannot be opened, or is a folder, a FIFO, a socket or a device.
    """
    file = open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)), "rb")  # noqa: SIM115
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return file


def read_regular(path: Path, most: int) -> bytes:
    """The bytes of a regular file; of one with more than `most` the first `most` + 1, which tell that it is too large.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    with open_regular(path) as file:
        return file.read(most + 1)


def sync(path: Path | bytes | str) -> None:
    """Makes a file, or the names in a folder, durable.

    Raises:
        OSError: the disk refuses, or there is no such file.
    """
    if os.name != "posix" and os.path.isdir(path):  # folders cannot be opened elsewhere; the rename alone must do
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_durably(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Writes a file in place of what stands there: whole and durable under its name, or as it was.

    Raises:
        OSError: the disk refuses.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if hasattr(os, "fchmod"):
                os.fchmod(file.fileno(), mode)
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
    sync(path.parent)


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

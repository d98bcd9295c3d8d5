"""Names and bytes of files on their way out of an inbox: renames that overwrite nothing, whole copies, sidecars."""

import contextlib
import ctypes
import errno
import functools
import os
import shutil
from collections.abc import Callable
from typing import Final

from edged import failpoints
from edged.files import sync

_AT_FDCWD: Final = -100
_RENAME_NOREPLACE: Final = 1
_MAX_NAME: Final = 255


def rename_new(old: bytes, new: bytes) -> None:
    """Renames without overwriting.

    Raises:
        OSError: FileExistsError when `new` exists; OSError with EXDEV across file systems.
    """
    renameat2, code = _renameat2(), errno.ENOSYS
    if renameat2 is not None:
        if renameat2(_AT_FDCWD, ctypes.c_char_p(old), _AT_FDCWD, ctypes.c_char_p(new), _RENAME_NOREPLACE) == 0:
            return
        code = ctypes.get_errno()
    if code not in {errno.ENOSYS, errno.EINVAL}:
        raise OSError(code, os.strerror(code), os.fsdecode(old), None, os.fsdecode(new))
    # File systems that do not know the flag: a link does not overwrite either.
    os.link(old, new, follow_symlinks=False)
    failpoints.reach("linked")
    os.unlink(old)


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    """The function of the C library, where it has it. Looked up once: a look-up leaves memory behind that stays."""
    return getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


def copy(old: bytes, partial: bytes) -> None:
    """Copies a file whole and durably, or not at all."""
    try:
        _copy_whole(old, partial)
        sync_folder(os.path.dirname(partial))
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise


def _copy_whole(old: bytes, new: bytes) -> None:
    with open(old, "rb") as source, open(new, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
        target.flush()
        shutil.copystat(old, new)
        os.fsync(target.fileno())


def same_file(one: bytes, other: bytes) -> bool:
    """Whether two names are links of one file, which a rename between them would leave as they are."""
    try:
        return os.path.samestat(os.lstat(one), os.lstat(other))
    except OSError:
        return False


def sync_folder(folder: bytes) -> None:
    """Makes renames in a folder durable; nothing when it has gone."""
    with contextlib.suppress(FileNotFoundError):
        sync(folder)


def with_id(path: bytes, id_: str) -> bytes:
    """A name with the id of a result in it, for where the plain one is taken."""
    folder, name = os.path.split(path)
    stem, extension = os.path.splitext(name)
    mark = b"." + id_.encode("ascii")
    return os.path.join(folder, stem[: _MAX_NAME - len(mark) - len(extension) - len(b".json")] + mark + extension)


def sidecar_of(target: bytes) -> bytes:
    """Where the sidecar of a quarantined file is."""
    folder, name = os.path.split(target)
    return os.path.join(folder, name + b".json")


def claim_sidecar(sidecar: bytes, text: str) -> bool:
    """Writes a sidecar unless one of another file is there; a part of ours, left by a crash, is written again."""
    try:
        with open(sidecar, "xb") as file:
            file.write(text.encode("ascii"))
            file.flush()
            os.fsync(file.fileno())
    except FileExistsError:
        with open(sidecar, "rb") as file:
            found = file.read(len(text) + 1)
        if found == text.encode("ascii"):
            return True
        if found and not text.encode("ascii").startswith(found):
            return False
        os.unlink(sidecar)
        return claim_sidecar(sidecar, text)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
    return True

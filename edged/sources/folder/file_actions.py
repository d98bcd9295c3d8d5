"""Moving and deleting scored files: never one that was not scored, never over another, whatever stops us in between.

A name alone is not trusted, for another file may stand under it by now. So a file is first renamed to a private name
outside the inbox on the same file system, where nobody replaces it; there it is compared with the one that was
scored, and only then does it go on. Another file is put back under its name without overwriting.
"""

import contextlib
import errno
import json
import os
from collections.abc import Sequence
from typing import Final

from edged import failpoints
from edged.sources.folder.files import FileAction, Fingerprint, SetAside
from edged.sources.folder.private import PrivateFolder
from edged.sources.folder.renames import claim_sidecar, copy, rename_new, same_file, sidecar_of, sync_folder, with_id
from edged.sources.folder.requests import Request

_COARSEST_MTIME_NS: Final = 2_000_000_000
"""FAT keeps times to two seconds."""
_MAX_SIDECAR: Final = 1 << 20


class FileMover:
    """Does the file actions of one source."""

    def __init__(self, root: bytes, private: PrivateFolder, *, done: bytes | None, quarantine: bytes) -> None:
        """Prepares the folders.

        Args:
            root: the inbox.
            private: where files of it have private names.
            done: for "move".
            quarantine: for "quarantine".
        """
        self._root, self._private = root, private
        self._targets = {"move": done, "quarantine": quarantine}

    def carry_out(self, action: FileAction) -> bytes | None:
        """Moves or deletes one file; does nothing when it has gone, or when another stands under its name.

        May be repeated after a crash at any instruction.

        Returns:
            Where the file is now; None when it was deleted, has gone, or was another one. A file that a crash left in
            quarantine is found there by its sidecar.

        Raises:
            OSError: the system refuses; the file is in the inbox, or under its private name for the next try.
        """
        held = self._held(action)
        if os.path.lexists(_copied(held)):
            return self._deliver(held, action)
        if same_file(held, action.path):  # a crash came between link and unlink
            os.unlink(held)
        if not os.path.lexists(held):
            if not stands(action):
                return self._quarantined_before(action)
            self._private.make()
            failpoints.reach("disposing")
            try:
                rename_new(action.path, held)
            except FileNotFoundError:
                if os.path.lexists(action.path):
                    raise  # it is the private folder that has gone
                return None
        failpoints.reach("held")
        if Fingerprint.of(os.lstat(held)) != action.fingerprint:
            self._put_back(held, action.path)
            return None
        if action.action == "delete":
            os.unlink(held)
            return None
        return self._deliver(held, action)

    def holds(self, action: FileAction) -> bool:
        """Whether the file has its private name, on its way out of the inbox."""
        held = self._held(action)
        return os.path.lexists(held) or os.path.lexists(_copied(held))

    def _held(self, action: FileAction) -> bytes:
        name = os.fsencode(action.id)
        return self._private.name_of(name, _copied(name))

    def sync(self, folders: Sequence[bytes]) -> None:
        """Makes renames durable in the folders that files went to."""
        for folder in {*folders, *self._private.all}:
            sync_folder(folder)

    def _deliver(self, held: bytes, action: FileAction) -> bytes:
        directory = self._targets[action.action]
        if directory is None:
            raise OSError(errno.ENOENT, "there is no folder to move to any more; configure done_dir again")
        wanted = os.path.join(directory, self._name_of(action))
        folder = os.path.dirname(wanted)
        os.makedirs(folder, exist_ok=True)
        copied, partial = _copied(held), os.path.join(folder, b"." + os.path.basename(held) + b".part")
        if not os.path.lexists(copied):
            try:
                return self._place(held, wanted, action)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
            copy(held, partial)
            failpoints.reach("copied")
            # From here on the copy is whole. Without this mark, one that has its name already could not be told, after
            # a crash, from a file that was there before, and would be made a second time.
            os.rename(held, copied)
            sync_folder(os.path.dirname(held))
            failpoints.reach("marked")
        if os.path.lexists(partial):
            target = self._place(partial, wanted, action)
            sync_folder(folder)
            failpoints.reach("placed")
        else:
            target = next((name for name in (with_id(wanted, action.id), wanted) if _is_copy(name, action)), b"")
            if not target:  # the targets are others by now
                os.rename(copied, held)
                return self._deliver(held, action)
        os.unlink(copied)
        return target

    def _name_of(self, action: FileAction) -> bytes:
        """Where a file belongs below its target: as below the inbox, or by its name if that was another inbox."""
        below = os.path.relpath(action.path, self._root)
        return os.path.basename(below) if below.startswith(b"..") else below

    def _place(self, file: bytes, wanted: bytes, action: FileAction) -> bytes:
        """Renames a file to the name that it wants, or to one with its id; over nothing."""
        for target in (wanted, with_id(wanted, action.id)):
            if same_file(file, target):  # a crash came between link and unlink
                os.unlink(file)
                return target
            sidecar = sidecar_of(target) if action.sidecar else None
            if sidecar is not None:
                if not claim_sidecar(sidecar, action.sidecar):
                    continue
                failpoints.reach("explained")
            try:
                rename_new(file, target)
            except FileExistsError:
                if sidecar is not None:
                    os.unlink(sidecar)
                continue
            return target
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fsdecode(wanted))

    def _quarantined_before(self, action: FileAction) -> bytes | None:
        if not action.sidecar:
            return None
        wanted = os.path.join(self._targets[action.action] or b"", self._name_of(action))
        for target in (wanted, with_id(wanted, action.id)):
            with contextlib.suppress(OSError):
                fingerprint = Fingerprint.of(os.lstat(target))
                if (fingerprint.size, fingerprint.mtime_ns) != (
                    action.fingerprint.size,
                    action.fingerprint.mtime_ns,
                ):
                    continue
                with open(sidecar_of(target), "rb") as file:
                    if file.read(len(action.sidecar) + 1) == action.sidecar.encode("ascii"):
                        return target
        return None

    def _put_back(self, held: bytes, path: bytes) -> None:
        try:
            rename_new(held, path)
        except FileExistsError:
            rename_new(held, with_id(path, os.path.basename(held).decode("ascii")))


def stands(action: FileAction) -> bool:
    """Whether the file that was scored is still under its name."""
    return _is(action.path, action.fingerprint)


def remove_set_aside(one: SetAside) -> None:
    """Deletes a file in quarantine and its sidecar; another file under its name stays, and so does its sidecar.

    May be repeated after a crash at any instruction.

    Raises:
        OSError: the system refuses.
    """
    folder, held = os.path.dirname(one.path), b"." + one.id.encode("ascii") + b".gone"
    held = os.path.join(folder, held)
    try:
        if not os.path.lexists(held):
            if Fingerprint.of(os.lstat(one.path)) != one.fingerprint:
                return
            rename_new(one.path, held)
        if Fingerprint.of(os.lstat(held)) != one.fingerprint:
            rename_new(held, one.path)
            return
        os.unlink(held)
    except FileNotFoundError:  # somebody took it away
        pass
    _remove_sidecar(one.path, one.id)


def bring_back(request: Request, private: PrivateFolder) -> bytes | None:
    """Moves a file back into its inbox, beside whatever stands under its name there.

    May be repeated after a crash at any instruction: it is never in the inbox twice.

    Args:
        request: says where it is, and which file is meant.
        private: as of `FileMover`.

    Returns:
        Where it is now; None when another file stands where it was, or none.

    Raises:
        OSError: the system refuses; the file is where it was, or under a private name for the next try.
    """
    held = private.name_of(request.id.encode("ascii") + b".back")
    if not os.path.lexists(held):
        if not _is(request.now_at, request.fingerprint):
            return None
        private.make()
        try:
            rename_new(request.now_at, held)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            copy(request.now_at, held + b".part")
            os.rename(held + b".part", held)
            sync_folder(os.path.dirname(held))
        else:
            if Fingerprint.of(os.lstat(held)) != request.fingerprint:
                rename_new(held, request.now_at)
                return None
    if _is(request.now_at, request.fingerprint):  # it was copied
        os.unlink(request.now_at)
    os.makedirs(os.path.dirname(request.path), exist_ok=True)
    target = request.path
    try:
        rename_new(held, target)
    except FileExistsError:
        target = with_id(target, request.id)
        rename_new(held, target)
    for folder in {os.path.dirname(target), os.path.dirname(request.now_at), os.path.dirname(held)}:
        sync_folder(folder)
    _remove_sidecar(request.now_at, request.id)
    return target


def _is(path: bytes, fingerprint: Fingerprint) -> bool:
    try:
        return Fingerprint.of(os.lstat(path)) == fingerprint
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remove_sidecar(path: bytes, id_: str) -> None:
    """Removes the sidecar of a result; one of another result stays."""
    sidecar = sidecar_of(path)
    with contextlib.suppress(FileNotFoundError, ValueError):
        with open(sidecar, "rb") as file:
            about = json.loads(file.read(_MAX_SIDECAR))
        if isinstance(about, dict) and about.get("id") == id_:
            os.unlink(sidecar)


def _copied(held: bytes) -> bytes:
    """The private name of a file whose copy is whole."""
    return held + b".copied"


def _is_copy(path: bytes, action: FileAction) -> bool:
    """Whether this is, by its fingerprint, a copy of the file that was scored."""
    try:
        there = Fingerprint.of(os.lstat(path))
    except OSError:
        return False
    fingerprint = action.fingerprint
    return there.size == fingerprint.size and abs(there.mtime_ns - fingerprint.mtime_ns) < _COARSEST_MTIME_NS

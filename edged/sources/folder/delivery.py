"""One file of a folder on its way through the pipeline."""

import errno
import io
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from edged import __version__, failpoints
from edged.errors import PictureError
from edged.journal.journal import Statement
from edged.results import QUARANTINED, Record, new_id
from edged.sources.contract import Settlement
from edged.sources.folder import ledger
from edged.sources.folder.files import FileAction, Fingerprint

if TYPE_CHECKING:
    from edged.sources.folder.source import FolderSource

_RETRIED: Final = frozenset({"empty", "undecodable", "unreadable"})


class FileDelivery:
    """A file that is complete and waits for its result (`sources.contract.Delivery`).

    Attributes:
        file_path: absolute, as the system has it.
        fingerprint: of the file that was found.
        root: inode of the inbox that it is in; None where that means nothing.
    """

    def __init__(
        self,
        folder: "FolderSource",
        file_path: bytes,
        fingerprint: Fingerprint,
        *,
        found_at: float,
        root: int | None,
    ) -> None:
        """The source names a file that it found."""
        self.id, self.source, self.found_at = new_id(), folder.name, found_at
        self.file_path, self.fingerprint, self.root = file_path, fingerprint, root
        self._folder = folder
        self._file: io.FileIO | None = None
        self._action: FileAction | None = None
        self._retries = False

    @property
    def path(self) -> str:
        """As `os.fsdecode` gives it."""
        return os.fsdecode(self.file_path)

    @property
    def captured_at(self) -> float:
        """When the picture was taken, as well as a file tells: its modification time, seconds since 1970."""
        return self.fingerprint.mtime_ns / 1e9

    def open(self) -> BinaryIO | None:
        """Opens the file; None when another one, or none, stands under its name now.

        Raises:
            PictureError: the system refuses to open it.
        """
        try:
            descriptor = os.open(self.file_path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                return None
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise
            raise PictureError("unreadable", f"cannot be opened: {error.strerror}") from error
        self._file = io.FileIO(descriptor)
        # A folder on the way may have been replaced by a link out of the inbox.
        same_place = os.readlink(b"/proc/self/fd/%d" % descriptor) == self.file_path
        if same_place and self._is_unchanged(self._file):
            return self._file
        self._file.close()
        return None

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:
        """A file that changed, or one that is young and cannot be read, comes again; a known one was only touched."""
        if self._file is not None and not self._is_unchanged(self._file):
            return Settlement.AGAIN
        if sha256 is not None and self._folder.knows(self.file_path, sha256):
            return Settlement.SEEN
        self._retries = error is not None and error.reason in _RETRIED and self._folder.is_young(self.file_path)
        return Settlement.AGAIN if self._retries else Settlement.RECORD

    def statements(self, record: Record | None) -> Sequence[Statement]:
        """A mark that the file is known, or what is to happen to it."""
        if record is None:
            return [self._folder.ledger.refresh(self.file_path, self.fingerprint)]
        action = _action_for(record, self._folder.after)
        if action is None:
            return [ledger.keep(record, self.file_path, self.fingerprint)]
        sidecar = _sidecar(record) if action == "quarantine" else ""
        self._action = FileAction(self.id, self.source, self.file_path, self.fingerprint, action, sidecar, self.root)
        return [ledger.owe(self._action)]

    def acknowledge(self, record: Record | None) -> None:
        """The file may leave its inbox, or is known."""
        if record is None:
            failpoints.reach("refreshed")
        self._folder.post(lambda: self._folder.finish(self, self._action))

    def give_back(self) -> None:
        """The file is looked at again: at once, or after a pause when it could not be read."""
        again = self._folder.retry if self._retries else self._folder.release
        self._folder.post(lambda: again(self))

    def _is_unchanged(self, file: io.FileIO) -> bool:
        """Whether an open file is still what was found, and so was read whole."""
        return Fingerprint.of(os.fstat(file.fileno())) == self.fingerprint


def _action_for(
    record: Record, after: Literal["keep", "move", "delete"]
) -> Literal["move", "delete", "quarantine"] | None:
    """What is to happen to the file of a record; None where it stays."""
    if after == "keep":
        return None
    return "quarantine" if record.status == QUARANTINED else after


def _sidecar(record: Record) -> str:
    keys = ("id", "source", "path", "sha256", "captured_at", "scored_at", "reason", "error")
    about = record.to_dict()
    return json.dumps({**{key: about[key] for key in keys}, "edged": __version__}, indent=2) + "\n"

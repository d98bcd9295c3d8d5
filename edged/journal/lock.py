"""The lock of a `state_dir`: one daemon at a time, and a note of whether its journal was closed."""

import fcntl
import os
from pathlib import Path
from typing import Final

from edged.errors import JournalError

FILE: Final = "edged.journal.lock"
_OPEN, _CLOSED = "open", "closed"
_NOTE_BYTES: Final = 64


class StateLock:
    """Held from when it is made until `close`, or until the process dies."""

    def __init__(self, state_dir: Path) -> None:
        """Takes the lock; makes the folder where it is missing.

        Raises:
            JournalError: another daemon has it, or the folder cannot be written.
        """
        self._path = state_dir / FILE
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise JournalError(f"{state_dir} cannot be written: {error.strerror}; check service.state_dir") from error
        try:
            note = os.pread(self._descriptor, _NOTE_BYTES, 0).decode("ascii", "replace")
            holder, left = (*note.split(), "", "")[:2]
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise JournalError(
                    f"{state_dir} belongs to a running edged (process {holder or 'unknown'}); stop it first, "
                    "or give this one another service.state_dir"
                ) from error
            self.was_open = left == _OPEN
            """Whether whoever had it last left the journal open: what was left open has a write-ahead log."""
            self.was_there = left in {_OPEN, _CLOSED}
            """Whether there has been a journal."""
            self._note(left)
        except BaseException:
            self.close()
            raise

    @property
    def held(self) -> bool:
        """Whether it was not let go of."""
        return self._descriptor >= 0

    def note_open(self) -> None:
        """Notes that the journal is open.

        Raises:
            JournalError: the disk refuses.
        """
        self._note(_OPEN)

    def note_closed(self) -> None:
        """Notes that the journal was closed, and is whole.

        Raises:
            JournalError: the disk refuses.
        """
        self._note(_CLOSED)

    def close(self) -> None:
        """Lets go of it."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _note(self, state: str) -> None:
        # In one piece and never shorter than before: a crash leaves one note or the other.
        note = f"{os.getpid()}\n{state}\n".ljust(_NOTE_BYTES - 1) + "\n"
        try:
            os.pwrite(self._descriptor, note.encode("ascii"), 0)
        except OSError as error:
            raise JournalError(f"{self._path} cannot be written: {error.strerror}") from error

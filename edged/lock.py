"""The lock of a `state_dir`: one daemon at a time, and a note of whether its journal was closed."""

import fcntl
import os
from pathlib import Path
from typing import Final

from edged.errors import JournalError

_FILE: Final = "edged.lock"
_OPEN, _CLOSED = "open", "closed"


class StateLock:
    """Held from when it is made until `close`, or until the process dies."""

    def __init__(self, state_dir: Path) -> None:
        """Takes the lock; makes the folder where it is missing.

        Raises:
            JournalError: another daemon has it, or the folder cannot be written.
        """
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            self._file = (state_dir / _FILE).open("a+", encoding="ascii")
        except OSError as error:
            raise JournalError(f"{state_dir} cannot be written: {error.strerror}; check service.state_dir") from error
        self._file.seek(0)
        holder, left = (*self._file.read(64).splitlines(), "", "")[:2]
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise JournalError(
                f"{state_dir} belongs to a running edged (process {holder or 'unknown'}); stop it first, "
                "or give this one another service.state_dir"
            ) from error
        self.was_open = left == _OPEN
        """Whether whoever had it last left the journal open: what was left open has a write-ahead log."""
        self.was_there = left in {_OPEN, _CLOSED}
        """Whether there has been a journal."""
        self._note(left)

    @property
    def held(self) -> bool:
        """Whether it was not let go of."""
        return not self._file.closed

    def note_open(self) -> None:
        """Notes that the journal is open."""
        self._note(_OPEN)

    def note_closed(self) -> None:
        """Notes that the journal was closed, and is whole."""
        self._note(_CLOSED)

    def close(self) -> None:
        """Lets go of it."""
        self._file.close()

    def _note(self, state: str) -> None:
        self._file.seek(0)
        self._file.truncate(0)
        self._file.write(f"{os.getpid()}\n{state}\n")
        self._file.flush()

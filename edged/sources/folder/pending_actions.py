"""Scored files that are still to leave the inbox: tried again until they have, and struck from the journal then."""

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from typing import Final

import structlog

from edged import failpoints
from edged.results import display_path
from edged.sources.folder.file_actions import FileMover, stands
from edged.sources.folder.files import FileAction, Fingerprint, SetAside
from edged.sources.folder.ledger import Ledger

RETRY_SECONDS: Final = 30.0
_AWAY_SECONDS: Final = 2.0


class PendingActions:
    """Of one source; used by the scanner's thread."""

    def __init__(self, source: str, ledger: Ledger, *, retry_seconds: float = RETRY_SECONDS) -> None:
        """There are none yet; see `load`. What fails is tried again after `retry_seconds`."""
        self._source, self._ledger, self._retry_seconds = source, ledger, retry_seconds
        self._log = structlog.get_logger().bind(source=source)
        self._owed: dict[bytes, list[FileAction]] = {}
        self._due = 0.0
        self._fresh: list[FileAction] = []
        self._stuck: dict[str, str] = {}
        self._out_of_sight: set[str] = set()

    def load(self, owed: Iterable[FileAction]) -> None:
        """Takes what the journal says is owed, in place of what it said before."""
        self._owed, self._fresh, self._out_of_sight = {}, [], set()
        for action in owed:
            self._owed.setdefault(action.path, []).append(action)

    def add(self, action: FileAction) -> None:
        """A file's result has become durable."""
        self._owed.setdefault(action.path, []).append(action)
        self._fresh.append(action)

    def holds(self, path: bytes, fingerprint: Fingerprint) -> bool:
        """Whether a file is one that is to leave."""
        return any(action.fingerprint == fingerprint for action in self._owed.get(path, ()))

    def in_sight(self) -> int:
        """How many there are about, without those that are out of sight."""
        return len(self._owed) - len(self._out_of_sight)

    def take_standing(self) -> list[FileAction]:
        """Those whose file stands in the inbox, for a source that keeps its files from now on; again after a while."""
        if time.monotonic() < self._due:
            return []
        self._due = time.monotonic() + self._retry_seconds
        standing = [action for owed in self._owed.values() for action in owed if stands(action)]
        for action in standing:
            self._remove(action)
        return standing

    def next_due(self) -> float | None:
        """When all of them are tried again (monotonic seconds); None without any."""
        return self._due if self._owed else None

    def try_all(self) -> None:
        """Has the next `carry_out` try all of them: what was out of sight may be there again."""
        self._due = 0.0

    def carry_out(self, mover: FileMover, root_inode: int | None, root_stands: Callable[[], bool]) -> list[bytes]:
        """Moves and deletes what is due.

        Args:
            mover: for the folder that stands at the root.
            root_inode: of that folder.
            root_stands: whether it still does.

        Returns:
            The paths that were left: whatever stands there now is new.

        Raises:
            JournalError: the journal cannot be written.
            OSError: a folder cannot be synced.
        """
        retry = time.monotonic() >= self._due
        if not self._owed or not (self._fresh or retry):
            return []
        if not root_stands():
            self._due = time.monotonic() + _AWAY_SECONDS
            return []
        todo, self._fresh = self._fresh, []
        if retry:  # what failed before has its own time, lest every picture tries all of it again
            todo = [action for owed in self._owed.values() for action in owed]
            self._due = time.monotonic() + self._retry_seconds
        done, folders, quarantined = [], [], []
        for action in todo:
            try:
                if self._is_out_of_sight(action, mover, root_inode):
                    continue
                target = mover.carry_out(action)
            except OSError as error:
                self._note_stuck(action, error)
                continue
            done.append(action)
            folders.append(os.path.dirname(action.path))
            if target is not None:
                folders.append(os.path.dirname(target))
                if action.action == "quarantine":
                    with contextlib.suppress(OSError):  # somebody took it away already
                        fingerprint = Fingerprint.of(os.lstat(target))
                        quarantined.append(SetAside(action.id, self._source, target, fingerprint, time.time()))
        if not done or not root_stands():
            return []  # with the folder unmounted, every file seems to have left it
        failpoints.reach("moved")
        mover.sync(folders)
        failpoints.reach("synced")
        self._ledger.done([action.id for action in done], quarantined)
        failpoints.reach("struck")
        for action in done:
            if self._stuck.pop(action.id, None) is not None and not self._stuck:
                self._log.info("scored files leave the inbox again")
            self._remove(action)
        return [action.path for action in done]

    def _remove(self, action: FileAction) -> None:
        self._owed[action.path].remove(action)
        if not self._owed[action.path]:
            del self._owed[action.path]

    def _note_stuck(self, action: FileAction, error: OSError) -> None:
        fault = f"{action.action}: {error.strerror}"
        if fault not in self._stuck.values():  # one fault is named once, not once a file
            self._log.error(
                "a scored file cannot leave the inbox; it is tried again",
                path=display_path(action.path),
                action=action.action,
                error=str(error),
            )
        self._stuck[action.id] = fault

    def _is_out_of_sight(self, action: FileAction, mover: FileMover, root_inode: int | None) -> bool:
        """Whether a file is not found because another folder stands where its inbox was: a disk is not mounted, say."""
        elsewhere = action.root is not None and action.root != root_inode
        if not elsewhere or stands(action) or mover.holds(action):
            self._out_of_sight.discard(action.id)
            return False
        if not self._out_of_sight:
            self._log.warning(
                "scored files are out of sight, for another folder stands where their inbox was; they leave it when it "
                "is back",
                path=display_path(action.path),
            )
        self._out_of_sight.add(action.id)
        return True

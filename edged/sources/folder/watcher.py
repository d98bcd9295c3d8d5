"""inotify for one tree of folders: it says where to look, and when nothing it said can be relied upon."""

import errno
import os
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from watchdog.observers.inotify_c import CallbackId as WatchId
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask, WatchDescriptor

_MAX_EVENTS: Final = 65_536
_MASK: Final = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_MOVED_FROM
    | InotifyConstants.IN_CLOSE_WRITE
    | InotifyConstants.IN_DELETE_SELF
    | InotifyConstants.IN_MOVE_SELF
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
    | InotifyConstants.IN_EXCL_UNLINK
)


class Watcher:
    """Watches folders one by one, as a scan goes through them.

    watchdog's observer queues without bound and hides an overflow from its handlers; its inotify thread below does
    neither, so that is what we use. A folder that moves or vanishes makes the watcher `stale`: it is then replaced by
    a new one and the tree is scanned.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        """Starts the thread.

        Args:
            wake: called from the thread after every event; it must not block or raise.

        Raises:
            OSError: the system gives no inotify instance (EMFILE).
        """
        self._wake = wake
        self._mutex = threading.Lock()
        self._folders: dict[WatchDescriptor, bytes] = {}
        self._watched: set[bytes] = set()
        self._found: deque[tuple[bytes, bool]] = deque()
        self._overflows = 0
        self._folder_came = False
        self._stale = False
        self._inotify = InotifyFD()
        self._inotify.start()

    def watch(self, folder: bytes) -> None:
        """Watches one folder; nothing happens when it is watched already.

        Raises:
            OSError: the system refuses (ENOSPC: no more watches), or the folder has gone.
        """
        with self._mutex:
            if folder in self._watched:
                return
            descriptor = self._inotify.add_callback(folder, _MASK, self, WatchId(id(self)))
            if descriptor < 0:  # what watchdog makes of EACCES
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder)
            self._folders[descriptor] = folder
            self._watched.add(folder)

    def events(self) -> list[tuple[bytes, bool]]:
        """Takes what was seen since the last call: paths, and whether they were renamed into place."""
        with self._mutex:
            found, self._found = list(self._found), deque()
        return found

    def overflows(self) -> int:
        """Takes the number of times that events were lost since the last call; the tree is then to be scanned."""
        with self._mutex:
            overflows, self._overflows = self._overflows, 0
        return overflows

    def folder_came(self) -> bool:
        """Whether a folder appeared since the last call; the tree is then to be scanned."""
        with self._mutex:
            came, self._folder_came = self._folder_came, False
        return came

    @property
    def stale(self) -> bool:
        """Whether the thread died, or a watched folder moved or vanished, so that paths are no longer right."""
        return self._stale or not self._inotify.is_alive()

    def close(self) -> None:
        """Ends the thread."""
        self._inotify.stop()
        self._inotify.join()

    # What watchdog's thread calls.

    def on_event(self, event: InotifyEvent) -> None:
        """Notes one event."""
        with self._mutex:
            folder = self._folders.get(event.wd)
            if folder is None:
                return
            if event.is_delete_self or event.is_move_self or (event.is_moved_from and event.is_directory):
                self._stale = True
            elif event.is_directory:
                self._folder_came = True
            elif not event.is_moved_from:
                self._found.append((os.path.join(folder, event.name), bool(event.is_moved_to)))
                if len(self._found) > _MAX_EVENTS:
                    self._found.clear()
                    self._overflows += 1
        self._wake()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        """Forgets a folder that has gone."""
        with self._mutex:
            folder = self._folders.pop(wd, None)
            self._watched.discard(folder or b"")
            self._stale = self._stale or folder is not None
        self._wake()

    def on_queue_overflow(self) -> None:
        """Notes that the kernel dropped events."""
        with self._mutex:
            self._overflows += 1
        self._wake()

"""The folder source: the folder is the queue, a scan of it is the truth, and inotify only wakes the scanner.

    tree              which files of the folder are meant
    pending           files that are not done: the settle rule, the order
    delivery          one file on its way through the pipeline
    known             kept files that are done
    ledger            what of all this is in the journal's database
    pending_actions   scored files that are to be moved or deleted; file_actions does it, under private names
    watcher           inotify

All state belongs to the thread that runs `run`; other threads leave it messages, and read what
`pending` and `PendingFiles.stable_since` give.
"""

import errno
import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog

from edged.errors import SourceError
from edged.files import is_network
from edged.results import display_path
from edged.sources.contract import Delivery, SourceContext, WhenFull
from edged.sources.folder import requests
from edged.sources.folder.delivery import FileDelivery
from edged.sources.folder.file_actions import FileMover, bring_back
from edged.sources.folder.files import FileAction, Fingerprint
from edged.sources.folder.known import KnownFiles
from edged.sources.folder.ledger import Ledger, left_quarantine
from edged.sources.folder.pending import PendingFiles
from edged.sources.folder.pending_actions import RETRY_SECONDS, PendingActions
from edged.sources.folder.private import PrivateFolder, private_folder
from edged.sources.folder.table import FolderTable
from edged.sources.folder.tree import Tree
from edged.sources.folder.watcher import Watcher

MAX_CANDIDATES: Final = 10_000
"""Files that are known to wait, at most; the rest stays in the folder, which is the queue."""

_DOWN_SECONDS: Final = 2.0
_FORGET_SECONDS: Final = 3600.0
_FORGET_PAGE: Final = 1000
_POLL_SECONDS: Final = 2.0
_POLL_SHARE: Final = 20.0


class FolderSource:
    """One watched folder."""

    def __init__(
        self, table: FolderTable, context: SourceContext, *, action_retry_seconds: float = RETRY_SECONDS
    ) -> None:
        """Prepares the source; nothing is read before `run`. File actions that fail are tried again after a while."""
        self.name, self.after = table.name, table.after
        self.wake = threading.Event()
        self.when_full: WhenFull = "wait"
        self.ledger = Ledger(context.journal, table.name)
        self._table, self._journal, self._observer = table, context.journal, context.observer
        self._root = os.fsencode(os.path.realpath(table.path))
        self._quarantine = table.quarantine_dir or context.state_dir / "quarantine" / table.name
        self._state_dir = context.state_dir
        self._tree = Tree(
            self._root, table.patterns, recursive=table.recursive, source=self.name, observer=self._observer
        )
        self._pending = PendingFiles(table.settle_seconds, table.retry_seconds)
        self._actions = PendingActions(self.name, self.ledger, retry_seconds=action_retry_seconds)
        self._log = structlog.get_logger().bind(source=self.name)
        self._messages: deque[Callable[[], None]] = deque()
        self._claimed: set[bytes] = set()
        self._known = KnownFiles()
        self._watcher: Watcher | None = None
        self._unwatched: set[str] = set()
        self._root_id: tuple[int, int] | None = None
        self._root_inode: int | None = None
        self._mover: FileMover | None = None
        self._more = False
        self._down = ""
        self._scan_due = 0.0
        self._forget_due = time.monotonic() + _FORGET_SECONDS

    # The scanner's thread.

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        """Finds files and hands them over until `stop`; see `sources.contract.Source`.

        Raises:
            JournalError: what was scored before cannot be read.
        """
        owed = self.ledger.actions()
        self._actions.load(owed)
        is_nothing_held = not owed and not any(requests.asked(self._state_dir, self.name))
        if is_nothing_held and len(self.ledger.places()) > 1:
            self.ledger.forget_places()
        if self._table.after == "keep":
            self._actions.try_all()
            self._keep_instead()
            if (left := self._actions.in_sight()) > 0:
                self._log.warning(
                    "scored files were on their way out of the inbox when after became keep, and are not there; they "
                    "are known when they come back, and go on their way with after as it was",
                    files=left,
                )
        self._known = KnownFiles.of(self.ledger.kept())
        first = True
        try:
            while not stop.is_set():
                self._work(hand_over, first=first)
                first = False
                healthy()
                self.wake.wait(self._sleep_seconds())
                self.wake.clear()
            self._handle_messages()
            self._carry_out_actions()
        finally:
            self._unwatch()

    def pending(self) -> tuple[int, float | None]:
        """How many files are known to wait or are in flight, and when the oldest was found (monotonic seconds)."""
        return self._pending.count()

    def _work(self, hand_over: Callable[[Delivery], bool], *, first: bool) -> None:
        self._handle_messages()
        self._carry_out_actions()
        now = time.monotonic()
        reason = "start" if first else self._scan_reason(now)
        if reason:
            self._scan(reason)
        elif self._watcher is not None:
            for path, whole in self._watcher.events():
                self._look(path, whole=whole)
        self._pending.settle(time.monotonic())
        self._hand_over(hand_over)
        if now >= self._forget_due:
            self.forget_gone()
            self._forget_due = time.monotonic() + _FORGET_SECONDS

    def forget_gone(self) -> None:
        """Removes the marks of kept files that are no longer there, so that the marks do not grow without end.

        Where not one of them is there, all stay: the folder may be unmounted, and another stand in its place.
        """
        if not any(os.path.lexists(path) for path, _, _ in self.ledger.kept()):
            return
        gone: list[tuple[bytes, int, int]] = []

        def still_there() -> Iterator[tuple[bytes, int, int]]:
            for state in self.ledger.kept():
                try:
                    os.lstat(state[0])
                except (FileNotFoundError, NotADirectoryError):
                    gone.append(state)
                    if len(gone) >= _FORGET_PAGE:
                        self._forget(gone)
                    continue
                except OSError:
                    pass
                yield state

        known = KnownFiles.of(still_there())
        self._forget(gone)
        if self._root_stands():
            self._known = known

    def _forget(self, gone: list[tuple[bytes, int, int]]) -> None:
        if self._root_stands():  # else the folder has gone, not its files
            self.ledger.forget_kept(gone)
        gone.clear()

    def _scan_reason(self, now: float) -> str:
        watcher = self._watcher
        if watcher is not None:
            if overflows := watcher.overflows():
                for _ in range(overflows):
                    self._observer.overflowed(self.name)
                self._log.warning("inotify lost events; the folder is scanned", times=overflows)
                return "overflow"
            if watcher.stale:
                self._unwatch()
                return "watch"
            if watcher.folder_came():
                return "folder"
        if now >= self._scan_due:
            return "timer"
        return "more" if self._more and len(self._pending) < MAX_CANDIDATES // 2 else ""

    def _scan(self, reason: str) -> None:
        began = time.monotonic()
        try:
            status = os.stat(self._root)
            if self._root_id != (status.st_dev, status.st_ino):
                self._unwatch()  # another folder stands here now: a remount, or a replacement
                self._prepare()
                self._root_id = (status.st_dev, status.st_ino)
                inode = Fingerprint.of(status).inode
                if inode != self._root_inode:  # what was out of sight may be there again
                    self._root_inode = inode
                    self._actions.try_all()
            self._requeue()
            events = dict(self._watcher.events()) if self._watcher else {}
            self._admit(self._unclaimed(), events, reason)
        except (OSError, SourceError) as error:
            self._go_down(error)
            self._scan_due = time.monotonic() + _DOWN_SECONDS
            return
        if self._down:
            self._down = ""
            self._log.info("the folder can be read again")
        self._observer.up(self.name, True)
        took = time.monotonic() - began
        pause = self._table.rescan_seconds
        if self._unwatched:  # without inotify the scan is all there is: poll, at a share of the time it takes
            pause = min(pause, max(_POLL_SECONDS, _POLL_SHARE * took))
        self._scan_due = time.monotonic() + pause

    def _requeue(self) -> None:
        """Does what people ask (`edged results --requeue`), before a scan admits anything."""
        for request in requests.asked(self._state_dir, self.name):
            try:
                if request.now_at == request.path:
                    state = (request.path, request.fingerprint.size, request.fingerprint.mtime_ns)
                    self.ledger.forget_kept([state])
                    self._known.discard(*state)
                    is_back = True
                else:
                    is_back = bring_back(request, self._private()) is not None
                    if not os.path.lexists(request.now_at):  # it may have gone back before a crash
                        left_quarantine(self._journal, [request.id])
                requests.strike(self._state_dir, request)
            except (OSError, SourceError) as error:
                self._log.error("a file cannot be scored again as asked", id=request.id, error=str(error))
            else:
                said = "scored again as asked" if is_back else "not scored again as asked: its file is there no more"
                self._log.info(said, id=request.id, path=display_path(request.path))

    def _admit(self, found: Iterator[tuple[bytes, Fingerprint]], events: dict[bytes, bool], reason: str) -> None:
        """Notes what a scan found: the oldest first, and no more than `MAX_CANDIDATES` in all."""
        room = MAX_CANDIDATES - len(self._pending)
        newest_first: list[tuple[int, bytes, Fingerprint]] = []
        self._more = False
        for path, fingerprint in found:
            if path in self._pending or path in events:
                self._pending.note(path, fingerprint, whole=events.get(path, False))
            elif len(newest_first) < room:
                heapq.heappush(newest_first, (-fingerprint.mtime_ns, path, fingerprint))
            else:
                self._more = True
                if newest_first:
                    heapq.heappushpop(newest_first, (-fingerprint.mtime_ns, path, fingerprint))
        for _, path, fingerprint in newest_first:
            self._pending.note(path, fingerprint, whole=False)
        if newest_first and reason in {"timer", "overflow", "watch"} and not self._unwatched:
            self._observer.recovered(self.name, len(newest_first))

    def _unclaimed(self) -> Iterator[tuple[bytes, Fingerprint]]:
        """Every file of the tree that is neither scored, claimed nor to leave."""
        for path, status in self._tree.files(self._watch):
            fingerprint = self._eligible(path, status)
            if fingerprint is not None:
                yield path, fingerprint

    def _eligible(self, path: bytes, status: os.stat_result) -> Fingerprint | None:
        """The fingerprint of a file that is to be scored."""
        if path in self._claimed or (path, status.st_size, status.st_mtime_ns) in self._known:
            return None
        fingerprint = Fingerprint.of(status)
        return None if self._actions.holds(path, fingerprint) else fingerprint

    def _look(self, path: bytes, *, whole: bool) -> None:
        """Looks at one path that an event or a worker named."""
        if path in self._claimed or not self._tree.matches(os.path.basename(path)):
            return  # a claimed path is looked at again when its result is durable
        status = self._tree.look(path)
        fingerprint = None if status is None else self._eligible(path, status)
        if fingerprint is None:
            self._pending.drop(path)
        elif path in self._pending or len(self._pending) < MAX_CANDIDATES:
            self._pending.note(path, fingerprint, whole=whole)
        else:
            self._more = True

    def _hand_over(self, hand_over: Callable[[Delivery], bool]) -> None:
        is_full = self._table.after != "keep" and self._actions.in_sight() >= MAX_CANDIDATES
        while not is_full and (ready := self._pending.first_ready()) is not None:
            path, fingerprint, found_at = ready
            if path not in self._claimed:
                delivery = FileDelivery(self, path, fingerprint, found_at=found_at, root=self._root_inode)
                if not hand_over(delivery):
                    return
                self._claimed.add(path)
            self._pending.took_ready()

    def _sleep_seconds(self) -> float:
        times = [self._scan_due, self._pending.next_due()]
        if self._root_id is not None:  # else they wait for a scan that finds the folder
            times.append(self._actions.next_due())
        return max(0.0, min(due for due in times if due is not None) - time.monotonic())

    # Watching.

    def _prepare(self) -> None:
        options = self._table
        self._mover = None
        if options.after != "keep":
            done = None if options.done_dir is None else os.fsencode(options.done_dir)
            self._mover = FileMover(self._root, self._private(), done=done, quarantine=os.fsencode(self._quarantine))
        self._unwatched.clear()
        if is_network(self._table.path):
            self._unwatched.add("network")  # other machines' writes raise no events here
            self._log.info("the folder is on a network file system and is scanned often instead of watched")
            return
        try:
            self._watcher = Watcher(self.wake.set)
        except OSError as error:
            self._poll_instead(error)

    def _private(self) -> PrivateFolder:
        """Where files are held; in the journal before one is, for other settings mean another folder."""
        ours = [path for path in (self._table.done_dir, self._quarantine, self._state_dir) if path is not None]
        path = os.fsencode(private_folder(Path(os.fsdecode(self._root)), ours))
        places = self.ledger.places()
        if path not in places:
            self.ledger.add_place(path)
        return PrivateFolder(path, tuple(place for place in places if place != path))

    def _watch(self, folder: bytes) -> None:
        if self._watcher is None:
            return
        try:
            self._watcher.watch(folder)
        except OSError as error:
            if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EACCES}:
                self._poll_instead(error)

    def _poll_instead(self, error: OSError) -> None:
        reason = errno.errorcode.get(error.errno or 0, "unknown")
        if reason not in self._unwatched:
            self._unwatched.add(reason)
            self._log.warning("inotify cannot watch the folder, which is scanned more often instead", error=str(error))

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.close()
            self._watcher = None
        self._root_id = None

    def _go_down(self, error: OSError | SourceError) -> None:
        text = str(error) if isinstance(error, SourceError) else error.strerror or str(error)
        if text != self._down:
            self._down = text
            self._log.error("the folder cannot be read", path=str(self._table.path), error=text)
        self._observer.up(self.name, False)
        self._unwatch()

    # What deliveries call from the workers' threads: their messages are handled by the scanner's.

    def knows(self, path: bytes, sha256: str) -> bool:
        """Whether a kept file is what was last scored under its path, only with another fingerprint."""
        return self.after == "keep" and self.ledger.kept_sha256(path) == sha256

    def is_young(self, path: bytes) -> bool:
        """Whether a file that cannot be read changed so lately that it is tried again."""
        since = self._pending.stable_since(path)
        return since is not None and time.monotonic() - since < self._table.retry_seconds

    def post(self, message: Callable[[], None]) -> None:
        """Has the scanner's thread call `message`."""
        self._messages.append(message)
        self.wake.set()

    def _handle_messages(self) -> None:
        while self._messages:
            self._messages.popleft()()

    def finish(self, delivery: FileDelivery, action: FileAction | None) -> None:
        """The result of a file is durable, and it stays, or is to leave."""
        path, fingerprint = delivery.file_path, delivery.fingerprint
        self._claimed.discard(path)
        self._pending.drop(path)
        if action is None:
            self._known.add(path, fingerprint.size, fingerprint.mtime_ns)
            self._look(path, whole=False)  # it may have changed since it was read
        else:
            self._actions.add(action)

    def release(self, delivery: FileDelivery) -> None:
        """A file has gone or changed."""
        self._claimed.discard(delivery.file_path)
        self._pending.drop(delivery.file_path)
        self._look(delivery.file_path, whole=False)

    def retry(self, delivery: FileDelivery) -> None:
        """A young file could not be read."""
        self._claimed.discard(delivery.file_path)
        self._pending.retry(delivery.file_path)

    # Files whose results are durable.

    def _carry_out_actions(self) -> None:
        if self._table.after == "keep":
            self._keep_instead()
        elif self._mover is not None:
            for path in self._actions.carry_out(self._mover, self._root_inode, self._root_stands):
                self._look(path, whole=False)

    def _keep_instead(self) -> None:
        """Files that were to leave when `after` was another stay, and are known."""
        if standing := self._actions.take_standing():
            self.ledger.keep_instead(standing)
            for action in standing:
                self._known.add(action.path, action.fingerprint.size, action.fingerprint.mtime_ns)

    def _root_stands(self) -> bool:
        """Whether the folder that was scanned is still the one under its path."""
        try:
            status = os.stat(self._root)
        except OSError:
            return False
        return self._root_id == (status.st_dev, status.st_ino)

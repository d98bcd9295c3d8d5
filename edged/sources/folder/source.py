"""The folder source: the folder is the queue, a scan of it is the truth, and inotify only wakes the scanner.

    tree        which files of the folder are meant
    waiting     files that are not done: the settle rule, the order
    known       kept files that are done
    leaving     scored files that are to be moved or deleted; disposal does it, under names in a private folder
    watcher     inotify

All state belongs to the thread that runs `run`; other threads leave it messages, and read `waiting` alone.
"""

import errno
import heapq
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

import structlog

from edged import __version__, failpoints
from edged.errors import PictureError, SourceError
from edged.files import is_network
from edged.journal.journal import Journal
from edged.media.imaging import PATTERNS
from edged.results import QUARANTINED, Record, display_path, new_id
from edged.sources.contract import Events
from edged.sources.folder import requests
from edged.sources.folder.arrivals import Arrival, Disposal, Entry, Stamps
from edged.sources.folder.file_actions import Disposer, bring_back
from edged.sources.folder.known import KnownFiles
from edged.sources.folder.pending import WaitingFiles
from edged.sources.folder.pending_actions import RETRY_SECONDS, LeavingFiles
from edged.sources.folder.private import PrivateFolder, private_folder
from edged.sources.folder.tree import Tree
from edged.sources.folder.watcher import Watcher

MAX_CANDIDATES: Final = 10_000
"""Files that are known to wait, at most; the rest stays in the folder, which is the queue."""

_RETRIED: Final = frozenset({"empty", "undecodable", "unreadable"})
_DOWN_SECONDS: Final = 2.0
_FORGET_SECONDS: Final = 3600.0
_FORGET_PAGE: Final = 1000
_POLL_SECONDS: Final = 2.0
_POLL_SHARE: Final = 20.0


@dataclass(frozen=True, slots=True)
class FolderOptions:
    """A `[[sources]]` table of type "folder"; the manual says what each key means."""

    name: str
    path: Path
    patterns: tuple[str, ...] = PATTERNS
    recursive: bool = True
    settle_seconds: float = 2.0
    retry_seconds: float = 30.0
    rescan_seconds: float = 60.0
    after: Literal["keep", "move", "delete"] = "keep"
    done_dir: Path | None = None
    quarantine_dir: Path | None = None


class FolderSource:
    """One watched folder."""

    def __init__(
        self,
        options: FolderOptions,
        journal: Journal,
        events: Events,
        state_dir: Path,
        *,
        leaving_retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        """Prepares the source; nothing is read before `run`. What cannot leave is tried again after a while."""
        self.name = options.name
        self.wake = threading.Event()
        self._options, self._journal, self._events = options, journal, events
        self._root = os.fsencode(os.path.realpath(options.path))
        self._quarantine = options.quarantine_dir or state_dir / "quarantine" / options.name
        self._state_dir = state_dir
        self._tree = Tree(self._root, options.patterns, recursive=options.recursive, source=self.name, events=events)
        self._waiting = WaitingFiles(options.settle_seconds, options.retry_seconds)
        self._leaving = LeavingFiles(self.name, journal, retry_seconds=leaving_retry_seconds)
        self._log = structlog.get_logger().bind(source=self.name)
        self._messages: deque[Callable[[], None]] = deque()
        self._claimed: set[bytes] = set()
        self._known = KnownFiles()
        self._watcher: Watcher | None = None
        self._unwatched: set[str] = set()
        self._root_id: tuple[int, int] | None = None
        self._root_inode: int | None = None
        self._disposer: Disposer | None = None
        self._more = False
        self._down = ""
        self._scan_due = 0.0
        self._forget_due = time.monotonic() + _FORGET_SECONDS

    # The scanner's thread.

    def run(
        self, offer: Callable[[Arrival], bool], stop: threading.Event, well: Callable[[], None] = lambda: None
    ) -> None:
        """Finds arrivals and offers them until `stop`; set `wake` after it.

        Args:
            offer: claims an arrival; False when there is no room, and `wake` is set when there is.
            stop: ends the loop.
            well: called after every round that went well.

        Raises:
            JournalError: what was scored before cannot be read.
        """
        owed = self._journal.disposals(self.name)
        self._leaving.load(owed)
        is_nothing_held = not owed and not any(requests.asked(self._state_dir, self.name))
        if is_nothing_held and len(self._journal.places(self.name)) > 1:
            self._journal.forget_places(self.name)
        if self._options.after == "keep":
            self._leaving.try_all()
            self._keep_instead()
            if (left := self._leaving.in_sight()) > 0:
                self._log.warning(
                    "scored files were on their way out of the inbox when after became keep, and are not there; they "
                    "are known when they come back, and go on their way with after as it was",
                    files=left,
                )
        self._known = KnownFiles.of(self._journal.kept(self.name))
        first = True
        try:
            while not stop.is_set():
                self._work(offer, first=first)
                first = False
                well()
                self.wake.wait(self._sleep_seconds())
                self.wake.clear()
            self._handle_messages()
            self._dispose()
        finally:
            self._unwatch()

    def waiting(self) -> tuple[int, float | None]:
        """How many files are known to wait or are in work, and when the oldest was found (monotonic seconds)."""
        return self._waiting.waiting()

    def _work(self, offer: Callable[[Arrival], bool], *, first: bool) -> None:
        self._handle_messages()
        self._dispose()
        now = time.monotonic()
        reason = "start" if first else self._scan_reason(now)
        if reason:
            self._scan(reason)
        elif self._watcher is not None:
            for path, whole in self._watcher.events():
                self._look(path, whole=whole)
        self._waiting.settle(time.monotonic())
        self._offer(offer)
        if now >= self._forget_due:
            self.forget_gone()
            self._forget_due = time.monotonic() + _FORGET_SECONDS

    def forget_gone(self) -> None:
        """Removes the marks of kept files that are no longer there, so that the marks do not grow without end.

        Where not one of them is there, all stay: the folder may be unmounted, and another stand in its place.
        """
        if not any(os.path.lexists(path) for path, _, _ in self._journal.kept(self.name)):
            return
        gone: list[tuple[bytes, int, int]] = []

        def still_there() -> Iterator[tuple[bytes, int, int]]:
            for state in self._journal.kept(self.name):
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
            self._journal.forget_kept(self.name, gone)
        gone.clear()

    def _scan_reason(self, now: float) -> str:
        watcher = self._watcher
        if watcher is not None:
            if overflows := watcher.overflows():
                for _ in range(overflows):
                    self._events.overflowed(self.name)
                self._log.warning("inotify lost events; the folder is scanned", times=overflows)
                return "overflow"
            if watcher.stale:
                self._unwatch()
                return "watch"
            if watcher.folder_came():
                return "folder"
        if now >= self._scan_due:
            return "timer"
        return "more" if self._more and len(self._waiting) < MAX_CANDIDATES // 2 else ""

    def _scan(self, reason: str) -> None:
        began = time.monotonic()
        try:
            status = os.stat(self._root)
            if self._root_id != (status.st_dev, status.st_ino):
                self._unwatch()  # another folder stands here now: a remount, or a replacement
                self._prepare()
                self._root_id = (status.st_dev, status.st_ino)
                inode = Stamps.of(status).inode
                if inode != self._root_inode:  # what was out of sight may be there again
                    self._root_inode = inode
                    self._leaving.try_all()
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
        self._events.up(self.name, True)
        took = time.monotonic() - began
        pause = self._options.rescan_seconds
        if self._unwatched:  # without inotify the scan is all there is: poll, at a share of the time it takes
            pause = min(pause, max(_POLL_SECONDS, _POLL_SHARE * took))
        self._scan_due = time.monotonic() + pause

    def _requeue(self) -> None:
        """Does what people ask (`edged results --requeue`), before a scan admits anything."""
        for request in requests.asked(self._state_dir, self.name):
            try:
                if request.now_at == request.path:
                    state = (request.path, request.stamps.size, request.stamps.mtime_ns)
                    self._journal.forget_kept(self.name, [state])
                    self._known.discard(*state)
                    is_back = True
                else:
                    is_back = bring_back(request, self._private()) is not None
                    if not os.path.lexists(request.now_at):  # it may have gone back before a crash
                        self._journal.left_quarantine([request.id])
                requests.strike(self._state_dir, request)
            except (OSError, SourceError) as error:
                self._log.error("a file cannot be scored again as asked", id=request.id, error=str(error))
            else:
                said = "scored again as asked" if is_back else "not scored again as asked: its file is there no more"
                self._log.info(said, id=request.id, path=display_path(request.path))

    def _admit(self, found: Iterator[tuple[bytes, Stamps]], events: dict[bytes, bool], reason: str) -> None:
        """Notes what a scan found: the oldest first, and no more than `MAX_CANDIDATES` in all."""
        room = MAX_CANDIDATES - len(self._waiting)
        newest_first: list[tuple[int, bytes, Stamps]] = []
        self._more = False
        for path, stamps in found:
            if path in self._waiting or path in events:
                self._waiting.note(path, stamps, whole=events.get(path, False))
            elif len(newest_first) < room:
                heapq.heappush(newest_first, (-stamps.mtime_ns, path, stamps))
            else:
                self._more = True
                if newest_first:
                    heapq.heappushpop(newest_first, (-stamps.mtime_ns, path, stamps))
        for _, path, stamps in newest_first:
            self._waiting.note(path, stamps, whole=False)
        if newest_first and reason in {"timer", "overflow", "watch"} and not self._unwatched:
            self._events.recovered(self.name, len(newest_first))

    def _unclaimed(self) -> Iterator[tuple[bytes, Stamps]]:
        """Every file of the tree that is neither scored, claimed nor to leave."""
        for path, status in self._tree.files(self._watch):
            stamps = self._eligible(path, status)
            if stamps is not None:
                yield path, stamps

    def _eligible(self, path: bytes, status: os.stat_result) -> Stamps | None:
        """The stamps of a file that is to be scored."""
        if path in self._claimed or (path, status.st_size, status.st_mtime_ns) in self._known:
            return None
        stamps = Stamps.of(status)
        return None if self._leaving.holds(path, stamps) else stamps

    def _look(self, path: bytes, *, whole: bool) -> None:
        """Looks at one path that an event or a worker named."""
        if path in self._claimed or not self._tree.matches(os.path.basename(path)):
            return  # a claimed path is looked at again when its result is durable
        status = self._tree.look(path)
        stamps = None if status is None else self._eligible(path, status)
        if stamps is None:
            self._waiting.drop(path)
        elif path in self._waiting or len(self._waiting) < MAX_CANDIDATES:
            self._waiting.note(path, stamps, whole=whole)
        else:
            self._more = True

    def _offer(self, offer: Callable[[Arrival], bool]) -> None:
        is_full = self._options.after != "keep" and self._leaving.in_sight() >= MAX_CANDIDATES
        while not is_full and (ready := self._waiting.first_ready()) is not None:
            path, stamps, found_at = ready
            if path not in self._claimed:
                if not offer(Arrival(new_id(), self.name, path, stamps, found_at, self._root_inode)):
                    return
                self._claimed.add(path)
            self._waiting.took_ready()

    def _sleep_seconds(self) -> float:
        times = [self._scan_due, self._waiting.next_due()]
        if self._root_id is not None:  # else they wait for a scan that finds the folder
            times.append(self._leaving.next_due())
        return max(0.0, min(due for due in times if due is not None) - time.monotonic())

    # Watching.

    def _prepare(self) -> None:
        options = self._options
        self._disposer = None
        if options.after != "keep":
            done = None if options.done_dir is None else os.fsencode(options.done_dir)
            self._disposer = Disposer(self._root, self._private(), done=done, quarantine=os.fsencode(self._quarantine))
        self._unwatched.clear()
        if is_network(self._options.path):
            self._unwatched.add("network")  # other machines' writes raise no events here
            self._log.info("the folder is on a network file system and is scanned often instead of watched")
            return
        try:
            self._watcher = Watcher(self.wake.set)
        except OSError as error:
            self._poll_instead(error)

    def _private(self) -> PrivateFolder:
        """Where files are held; in the journal before one is, for other settings mean another folder."""
        ours = [path for path in (self._options.done_dir, self._quarantine, self._state_dir) if path is not None]
        path = os.fsencode(private_folder(Path(os.fsdecode(self._root)), ours))
        places = self._journal.places(self.name)
        if path not in places:
            self._journal.add_place(self.name, path)
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
            self._log.error("the folder cannot be read", path=str(self._options.path), error=text)
        self._events.up(self.name, False)
        self._unwatch()

    # What workers call: their messages are handled by the scanner's thread.

    def open(self, arrival: Arrival) -> BinaryIO | None:
        """Opens the file of an arrival; None when another one, or none, stands under its name now.

        Raises:
            PictureError: the system refuses to open it.
        """
        try:
            descriptor = os.open(arrival.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno in {errno.ELOOP, errno.ENOTDIR}:
                return None
            if error.errno in {errno.EMFILE, errno.ENFILE, errno.ENOMEM}:
                raise
            raise PictureError("unreadable", f"cannot be opened: {error.strerror}") from error
        file = os.fdopen(descriptor, "rb", buffering=0)
        # A folder on the way may have been replaced by a link out of the inbox.
        same_place = os.readlink(b"/proc/self/fd/%d" % descriptor) == arrival.path
        if same_place and self.unchanged(arrival, file):
            return file
        file.close()
        return None

    def unchanged(self, arrival: Arrival, file: BinaryIO) -> bool:
        """Whether an open file is still what was found, and so was read whole."""
        return Stamps.of(os.fstat(file.fileno())) == arrival.stamps

    def is_repetition(self, arrival: Arrival, sha256: str | None) -> bool:
        """Whether a kept file is what was last scored under its path, only with other stamps; notes these if so."""
        if self._options.after != "keep" or sha256 is None:
            return False
        if self._journal.kept_sha256(self.name, arrival.path) != sha256:
            return False
        self._journal.refresh_kept(self.name, arrival.path, arrival.stamps)
        failpoints.reach("refreshed")
        self._post(lambda: self._finish(arrival, None))
        return True

    def entry(self, arrival: Arrival, record: Record) -> Entry:
        """What is to become durable for an arrival: the record, and what its file is owed."""
        if self._options.after == "keep":
            return Entry(record, arrival.stamps)
        sidecar = ""
        action: Literal["move", "delete", "quarantine"] = self._options.after
        if record.status == QUARANTINED:
            action, sidecar = "quarantine", _sidecar(record)
        disposal = Disposal(arrival.id, self.name, arrival.path, arrival.stamps, action, sidecar, arrival.root)
        return Entry(record, arrival.stamps, disposal)

    def committed(self, arrival: Arrival, entry: Entry) -> None:
        """Takes note that an entry is durable."""
        self._post(lambda: self._finish(arrival, entry.disposal))

    def release(self, arrival: Arrival) -> None:
        """Gives an arrival back that is not to be recorded: its file has gone or changed."""
        self._post(lambda: self._release(arrival))

    def defer(self, arrival: Arrival, error: PictureError) -> bool:
        """Whether an arrival that failed is young enough to be tried again; it is given back if so."""
        if error.reason not in _RETRIED:
            return False
        still_since = self._waiting.still_since(arrival.path)
        if still_since is None or time.monotonic() - still_since >= self._options.retry_seconds:
            return False
        self._post(lambda: self._retry(arrival))
        return True

    def _post(self, message: Callable[[], None]) -> None:
        self._messages.append(message)
        self.wake.set()

    def _handle_messages(self) -> None:
        while self._messages:
            self._messages.popleft()()

    def _finish(self, arrival: Arrival, disposal: Disposal | None) -> None:
        self._claimed.discard(arrival.path)
        self._waiting.drop(arrival.path)
        if disposal is None:
            self._known.add(arrival.path, arrival.stamps.size, arrival.stamps.mtime_ns)
            self._look(arrival.path, whole=False)  # it may have changed since it was read
        else:
            self._leaving.add(disposal)

    def _release(self, arrival: Arrival) -> None:
        self._claimed.discard(arrival.path)
        self._waiting.drop(arrival.path)
        self._look(arrival.path, whole=False)

    def _retry(self, arrival: Arrival) -> None:
        self._claimed.discard(arrival.path)
        self._waiting.retry(arrival.path)

    # Files whose results are durable.

    def _dispose(self) -> None:
        if self._options.after == "keep":
            self._keep_instead()
        elif self._disposer is not None:
            for path in self._leaving.dispose(self._disposer, self._root_inode, self._root_stands):
                self._look(path, whole=False)

    def _keep_instead(self) -> None:
        """Files that were to leave when `after` was another stay, and are known."""
        if standing := self._leaving.take_standing():
            self._journal.keep_instead(standing)
            for disposal in standing:
                self._known.add(disposal.path, disposal.stamps.size, disposal.stamps.mtime_ns)

    def _root_stands(self) -> bool:
        """Whether the folder that was scanned is still the one under its path."""
        try:
            status = os.stat(self._root)
        except OSError:
            return False
        return self._root_id == (status.st_dev, status.st_ino)


def _sidecar(record: Record) -> str:
    import json

    keys = ("id", "source", "path", "sha256", "captured_at", "scored_at", "reason", "error")
    about = record.to_dict()
    return json.dumps({**{key: about[key] for key in keys}, "edged": __version__}, indent=2) + "\n"

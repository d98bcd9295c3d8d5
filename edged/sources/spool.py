"""Pictures that come over a connection, as files of ours until they have their result: they outlive a crash.

A file is called by the id of the record to be, so that one that a crash leaves behind has its row, or comes again.
"""

import contextlib
import os
import re
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote, unquote

import structlog

from edged.errors import PictureError, SourceError
from edged.files import open_regular, sync
from edged.journal.journal import Journal, Statement
from edged.results import Record, new_id, time_of
from edged.sources.contract import Delivery, Settlement

FOLDER: Final = "received"
"""Of `state_dir`; below it a folder a source."""
LONGEST_NAME: Final = 200
"""Of a picture, in bytes, percent-encoded."""

UNOWNED: Final = "received pictures wait for a source that is not there; name it again, or post them to another"

_MOST: Final = 1000
_PARTIAL: Final = ".part"
_PICTURE: Final = re.compile(r"[0-9a-f]{26}(\..+)?")


class SpooledPicture:
    """One picture that was received (`sources.contract.Delivery`).

    Attributes:
        file: where it is until it has its result.
        size: bytes of the file.
        result: its record once that is durable; None where the file was taken away.
    """

    def __init__(self, spool: "Spool", file: Path, size: int) -> None:
        self.id, _, name = file.name.partition(".")
        self.source, self.path = spool.name, unquote(name) or self.id
        self.captured_at, self.found_at = time_of(self.id), time.monotonic()
        self.file, self.size = file, size
        self.result: Future[Record | None] = Future()
        self._spool = spool

    def open(self) -> BinaryIO | None:
        """Opens the file; None when it is gone."""
        try:
            return open_regular(self.file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PictureError("unreadable", f"cannot be opened: {error.strerror}") from error

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:  # noqa: ARG002
        """It gets a record, whatever it is: nobody is still writing it."""
        return Settlement.RECORD

    def statements(self, record: Record | None) -> Sequence[Statement]:  # noqa: ARG002
        """None: the row itself says that it is done."""
        return ()

    def acknowledge(self, record: Record | None) -> None:
        """Removes the file, and tells who waits."""
        self._spool.done(self, record)

    def give_back(self) -> None:
        """It comes again, if it is still there."""
        self._spool.again(self)

    def make_durable(self) -> None:
        """Has the file outlive a power cut; nothing where it has its result already.

        Raises:
            OSError: the disk refuses.
        """
        with contextlib.suppress(FileNotFoundError):
            sync(self.file)
            sync(self.file.parent)


class Draft:
    """A picture that is being received, under a partial name; it is finished or discarded."""

    def __init__(self, spool: "Spool", name: str) -> None:
        self._spool, self._name = spool, f"{new_id()}.{quote(name, safe='')}".rstrip(".")
        self._partial = spool.folder / f".{self._name}{_PARTIAL}"
        self._file = self._partial.open("xb", buffering=0)
        self.size = 0

    def write(self, data: bytes) -> None:
        """Appends.

        Raises:
            SourceError: too much waits beside it.
            OSError: the disk refuses; it is as it was.
        """
        self._spool.check_room(self)
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) :]
        except OSError:
            self._file.truncate(self._file.seek(self.size))
            raise
        self.size += len(data)

    def finish(self) -> SpooledPicture:
        """Hands it in; it gets a result from now on.

        Raises:
            OSError: the disk refuses.
        """
        self._file.close()
        file = self._partial.rename(self._spool.folder / self._name)
        picture = SpooledPicture(self._spool, file, self.size)
        self._spool.add(picture)
        self._spool.forget(self)
        return picture

    def discard(self) -> None:
        """Forgets it; nothing after `finish`."""
        self._spool.forget(self)
        self._file.close()
        self._partial.unlink(missing_ok=True)


class Spool:
    """What one source has received and has no result yet. Any thread may receive; the source's own hands over."""

    def __init__(self, name: str, state_dir: Path, journal: Journal, wake: threading.Event, *, max_bytes: int) -> None:
        """Prepares it.

        Args:
            name: of the source.
            state_dir: `service.state_dir`.
            journal: tells what has its result.
            wake: of the source; set when there is something to hand over, or room.
            max_bytes: of all that waits or is being received; beyond it nothing is received.
        """
        self.name, self.folder = name, state_dir / FOLDER / name
        self._journal, self._wake, self._max_bytes = journal, wake, max_bytes
        self._waiting: deque[SpooledPicture] = deque()
        self._known: dict[str, SpooledPicture] = {}
        self._drafts: set[Draft] = set()
        self._ready = False
        self._mutex = threading.Lock()

    def recover(self) -> None:
        """Finds what an earlier daemon has received; only afterwards anything is received.

        Raises:
            SourceError: the folder cannot be used.
        """
        if self._ready:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            files, drafts, others = _contents(self.folder)
            for draft in drafts:
                draft.unlink(missing_ok=True)
            without = self._journal.absent([file.name.partition(".")[0] for file in files])
            for file in files:
                if file.name.partition(".")[0] in without:
                    self.add(SpooledPicture(self, file, file.stat().st_size))
                else:
                    file.unlink(missing_ok=True)
        except OSError as error:
            raise SourceError(f"{self.folder} cannot be used: {error.strerror}") from error
        if others:
            log = structlog.get_logger()
            log.warning("these are no received pictures; put them elsewhere", folder=str(self.folder), names=others)
        self._ready = True

    def close(self) -> None:
        """Receives nothing more; what waits comes after the next start."""
        self._ready = False

    def has_room(self, draft: Draft | None = None) -> bool:
        """Whether another picture may be received, or more of `draft`."""
        with self._mutex:
            sizes = [picture.size for picture in self._known.values()]
            sizes += [other.size for other in self._drafts if other is not draft]
            return self._ready and sum(sizes) < self._max_bytes and len(sizes) < _MOST

    def begin(self, name: str = "") -> Draft:
        """Begins to receive a picture; `name` is what records call it, the id by default.

        Raises:
            SourceError: too much waits already.
            OSError: the disk refuses.
        """
        self.check_room()
        draft = Draft(self, name)
        with self._mutex:
            self._drafts.add(draft)
        return draft

    def check_room(self, draft: Draft | None = None) -> None:
        """Raises SourceError where `has_room` says no."""
        if not self.has_room(draft):
            raise SourceError(f"the source {self.name} takes no more pictures just now; send it again later")

    def forget(self, draft: Draft) -> None:
        """A draft is none any more."""
        with self._mutex:
            self._drafts.discard(draft)

    def add(self, picture: SpooledPicture) -> None:
        """Takes a whole picture in."""
        with self._mutex:
            self._known[picture.id] = picture
            self._waiting.append(picture)
        self._wake.set()

    def hand_over(self, take: Callable[[Delivery], bool]) -> bool:
        """Hands over what waits, in order; False when there was no room for all of it."""
        while True:
            with self._mutex:
                if not self._waiting:
                    return True
                picture = self._waiting.popleft()
            if not take(picture):
                with self._mutex:
                    self._waiting.appendleft(picture)
                return False

    def pending(self) -> tuple[int, float | None]:
        """As `sources.contract.Source.pending`."""
        with self._mutex:
            oldest = next(iter(self._known.values()), None)
            return len(self._known), None if oldest is None else oldest.found_at

    def done(self, picture: SpooledPicture, record: Record | None) -> None:
        """A picture has its result."""
        with contextlib.suppress(OSError):  # the next start removes it: its row is there
            picture.file.unlink()
        with self._mutex:
            self._known.pop(picture.id, None)
        picture.result.set_result(record)
        self._wake.set()

    def again(self, picture: SpooledPicture) -> None:
        """A picture was given back."""
        if not picture.file.exists():
            self.done(picture, None)
            return
        with self._mutex:
            self._waiting.appendleft(picture)
        self._wake.set()


def unowned(state_dir: Path, owners: Collection[str]) -> dict[Path, int]:
    """Folders of received pictures that none of the sources `owners` will hand over, and how many are in each."""
    found = {}
    with contextlib.suppress(OSError):
        for folder in sorted((state_dir / FOLDER).iterdir()):
            with contextlib.suppress(OSError):  # no folder, or not ours to read
                if folder.name not in owners and (pictures := _contents(folder)[0]):
                    found[folder] = len(pictures)
    return found


def _contents(folder: Path) -> tuple[list[Path], list[Path], list[str]]:
    """Pictures in their order, drafts that a crash left behind, and the names of all else."""
    pictures, drafts, others = [], [], []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            is_file = entry.is_file(follow_symlinks=False)
            if is_file and _PICTURE.fullmatch(entry.name):
                pictures.append(folder / entry.name)
            elif is_file and entry.name.startswith(".") and entry.name.endswith(_PARTIAL):
                drafts.append(folder / entry.name)
            else:
                others.append(entry.name)
    return pictures, drafts, others

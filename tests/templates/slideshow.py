"""A source: the pictures of a folder in the order of their names, each once; new ones are looked for every second."""

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Literal

from pydantic import Field

from edged.errors import PictureError, SourceError
from edged.files import open_regular
from edged.journal.journal import Statement, remember
from edged.results import Record, new_id
from edged.settings import AbsolutePath, Place, SourceTable
from edged.sources.contract import Delivery, Settlement, SourceContext, SourceType, WhenFull

_CURSOR: Final = "last name"


class SlideshowTable(SourceTable):
    """The keys of its `[[sources]]` table, beside those that every source has."""

    type: Literal["slideshow"]
    path: AbsolutePath
    every_seconds: float = Field(default=1.0, gt=0, le=3600)

    def places(self) -> list[Place]:
        return [Place("path", self.path, "inbox")]


class Slide:
    """One picture on its way through the pipeline."""

    def __init__(self, show: "Slideshow", file: Path) -> None:
        self.id, self.source, self.path = new_id(), show.name, str(file)
        self.captured_at, self.found_at = time.time(), time.monotonic()
        self._show, self._file = show, file

    def open(self) -> BinaryIO | None:
        try:
            return open_regular(self._file)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise PictureError("unreadable", f"cannot be opened: {error.strerror}") from error

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:
        return Settlement.RECORD

    def statements(self, record: Record | None) -> Sequence[Statement]:
        # In the transaction of the record: after a crash both are there, or neither.
        return [remember(self.source, _CURSOR, os.fsencode(self._file.name))]

    def acknowledge(self, record: Record | None) -> None:
        self._show.done(self)

    def give_back(self) -> None:
        self._show.done(self, again=self._file)


class Slideshow:
    """Hands over one picture at a time, so that the cursor is all that it has to remember."""

    when_full: WhenFull = "wait"

    def __init__(self, table: SlideshowTable, context: SourceContext) -> None:
        self.name, self.wake = table.name, threading.Event()
        self._table, self._context = table, context
        self._shown: Slide | None = None
        self._again: Path | None = None

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        last = os.fsdecode(self._context.journal.remembered(self.name, _CURSOR) or b"")
        while not stop.is_set():
            if self._shown is None:
                file = self._again or self._next_after(last)
                self._context.observer.up(self.name, True)
                if file is not None:
                    slide = Slide(self, file)
                    self._shown, self._again, last = slide, None, file.name
                    if not hand_over(slide):
                        self._shown, self._again = None, file
                healthy()
            self.wake.wait(self._table.every_seconds)
            self.wake.clear()

    def pending(self) -> tuple[int, float | None]:
        shown = self._shown
        return (0, None) if shown is None else (1, shown.found_at)

    def done(self, slide: Slide, again: Path | None = None) -> None:
        """A slide ended; called by the pipeline's threads."""
        if self._shown is slide:
            self._again, self._shown = again, None
        self.wake.set()

    def _next_after(self, last: str) -> Path | None:
        try:
            names = (entry.name for entry in os.scandir(self._table.path) if entry.name.endswith(".png"))
            found = min((name for name in names if name > last), default=None)
        except OSError as error:
            self._context.observer.up(self.name, False)
            raise SourceError(f"{self._table.path} cannot be read: {error.strerror}") from error
        return None if found is None else self._table.path / found


TYPE: Final = SourceType(SlideshowTable, Slideshow)

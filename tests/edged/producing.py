"""A producer that puts pictures into inboxes by every way in, and remembers what it has put where."""

import contextlib
import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from tests.edged.making import bad, drop, encode, good, png_header

WAYS = ("rename", "copy", "slow", "pause", "link", "again", "folder")
NAMES = ("plain", "spaces", "not-utf-8", "long", "nested")
_MOST_UNFINISHED = 4


@dataclass(frozen=True)
class Inbox:
    """A watched folder, what becomes of its files, and where they go."""

    source: str
    after: Literal["keep", "move", "delete"]
    folder: Path
    done: Path
    quarantine: Path

    def table(self, *, settle_seconds: float, retry_seconds: float, rescan_seconds: float) -> str:
        """Its table of the configuration."""
        return f"""
[[sources]]
name = "{self.source}"
type = "folder"
path = "{self.folder}"
model = "tiny"
after = "{self.after}"
done_dir = "{self.done}"
quarantine_dir = "{self.quarantine}"
settle_seconds = {settle_seconds}
retry_seconds = {retry_seconds}
rescan_seconds = {rescan_seconds}
"""


@dataclass
class Drop:
    """One picture that was put into an inbox whole. `replaced`: its producer put another one over it, once scored."""

    inbox: Inbox
    path: bytes
    sha256: str
    is_good: bool
    replaced: bool = False


class Producer:
    """Drops one picture, or one folder of them, at a time; no two pictures have the same bytes."""

    def __init__(
        self, inboxes: list[Inbox], scratch: Path, *, seed: int, pause_s: float, scored: Callable[[str], bool]
    ) -> None:
        """Prepares a producer.

        Args:
            inboxes: where to drop.
            scratch: a folder on the same file system as all of them.
            seed: of all choices.
            pause_s: how long a writer pauses in the middle of a file; longer than the sources' `settle_seconds`.
            scored: whether a picture of this SHA-256 has its result.
        """
        self.dropped: list[Drop] = []
        self._inboxes, self._scratch, self._pause_s, self._scored = inboxes, scratch, pause_s, scored
        self._random, self._number = random.Random(seed), 0
        self.ways: tuple[str, ...] = WAYS
        self._latest: dict[bytes, Drop] = {}
        self._one_at_a_time, self._mutex, self._stopping = threading.Lock(), threading.Lock(), threading.Event()
        self._writers: list[threading.Thread] = []
        self._thread: threading.Thread | None = None
        scratch.mkdir(exist_ok=True)

    def start(self, most_between_s: float = 0.03) -> None:
        """Drops in a thread of its own, with random pauses, until `stop`."""
        self._stopping.clear()

        def work() -> None:
            while not self._stopping.wait(self._random.random() * most_between_s):
                self.drop()

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread, and lets those finish who pause in the middle of a file."""
        self._stopping.set()
        for thread in (*self._writers, *([] if self._thread is None else [self._thread])):
            thread.join()

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """While it lasts, nothing is dropped, and nobody is in the middle of a file."""
        with self._one_at_a_time:
            for writer in self._writers:
                writer.join()
            yield

    def drop(self) -> None:
        """Drops by one way, chosen by chance."""
        with self._one_at_a_time:
            self._drop()

    def _drop(self) -> None:
        inbox, way = self._random.choice(self._inboxes), self._random.choice(self.ways)
        if way == "folder":
            self._move_folder_in(inbox)
            return
        data, is_good = self._picture()
        if way == "again" and self._put_again(inbox, data, is_good):
            return
        path = self._new_path(inbox)
        if way == "pause" and self._write_with_pause(inbox, path, data, is_good):
            return
        if way == "copy":
            with open(path, "wb") as file:
                file.write(data)
        elif way == "slow":
            with open(path, "wb", buffering=0) as file:
                for start in range(0, len(data), len(data) // 3 + 1):
                    file.write(data[start : start + len(data) // 3 + 1])
                    self._stopping.wait(0.005)
        elif way == "link":
            os.link(self._elsewhere(data), path)
        else:
            drop(path, data)
        self.note(inbox, path, data, is_good=is_good)

    def put(self, inbox: Inbox, name: bytes, *, is_good: bool = True) -> bytes:
        """Drops one picture under this name, as a producer should; where it is."""
        self._number += 1
        data = good(self._number) if is_good else png_header(20_000, 20_000 + self._number)
        path = os.path.join(os.fsencode(inbox.folder), name)
        drop(path, data)
        self.note(inbox, path, data, is_good=is_good)
        return path

    def note(self, inbox: Inbox, path: bytes, data: bytes, *, is_good: bool) -> None:
        """Remembers a picture that is in its inbox whole."""
        with self._mutex:
            one = Drop(inbox, path, hashlib.sha256(data).hexdigest(), is_good)
            self.dropped.append(one)
            self._latest[path] = one

    def _picture(self) -> tuple[bytes, bool]:
        self._number += 1
        kind = self._random.random()
        if kind < 0.06:
            return png_header(20_000, 20_000 + self._number), False  # refused at once
        if kind < 0.08:
            return good(self._number)[:-40], False  # tried again for as long as it is young
        if kind < 0.2:
            return bad(self._number), True
        if kind < 0.3:
            pixels = np.random.default_rng(self._number).integers(118, 139, (400, 400), dtype=np.uint8)
            return encode(Image.fromarray(pixels), compress_level=1), True
        return good(self._number), True

    def _new_path(self, inbox: Inbox) -> bytes:
        number, folder = b"%d" % self._number, os.fsencode(inbox.folder)
        style = self._random.choice(NAMES)
        if style == "nested":
            folder = os.path.join(folder, b"a", b"b%d" % self._random.randrange(3))
            os.makedirs(folder, exist_ok=True)
        name = {"spaces": b"part  %s (1).PNG", "not-utf-8": b"p\xff\n'%s.png"}.get(style, b"%s.png") % number
        return os.path.join(folder, name.rjust(255, b"x") if style == "long" else name)

    def _elsewhere(self, data: bytes) -> bytes:
        path = os.path.join(os.fsencode(self._scratch), b"%d.png" % self._number)
        with open(path, "wb") as file:
            file.write(data)
        return path

    def _move_folder_in(self, inbox: Inbox) -> None:
        new = []
        self._number += 1
        name = b"folder-%d" % self._number
        made = os.path.join(os.fsencode(self._scratch), name)
        for _ in range(self._random.randint(1, 4)):
            data, is_good = self._picture()
            inside = os.path.join(b"deep" if self._random.random() < 0.5 else b"", b"%d.png" % self._number)
            os.makedirs(os.path.dirname(os.path.join(made, inside)), exist_ok=True)
            with open(os.path.join(made, inside), "wb") as file:
                file.write(data)
            new.append((os.path.join(os.fsencode(inbox.folder), name, inside), data, is_good))
        os.rename(made, os.path.join(os.fsencode(inbox.folder), name))
        for path, data, is_good in new:
            self.note(inbox, path, data, is_good=is_good)

    def _put_again(self, inbox: Inbox, data: bytes, is_good: bool) -> bool:
        """Under a name that was used before; what is not scored yet is never replaced."""
        with self._mutex:
            paths = [path for path, one in list(self._latest.items())[-200:] if one.inbox == inbox]
        if not paths:
            return False
        path = self._random.choice(paths)
        former = self._latest[path]
        made = self._elsewhere(data)
        if inbox.after == "keep":
            if not self._scored(former.sha256):
                return False
            former.replaced = True
            os.rename(made, path)
        else:
            try:
                os.link(made, path)
            except FileExistsError:  # the former one waits there still
                return False
        self.note(inbox, path, data, is_good=is_good)
        return True

    def _write_with_pause(self, inbox: Inbox, path: bytes, data: bytes, is_good: bool) -> bool:
        self._writers = [writer for writer in self._writers if writer.is_alive()]
        if len(self._writers) >= _MOST_UNFINISHED:
            return False

        def write() -> None:
            with open(path, "wb", buffering=0) as file:
                file.write(data[: len(data) // 2])
                threading.Event().wait(self._pause_s)
                file.write(data[len(data) // 2 :])
            self.note(inbox, path, data, is_good=is_good)

        writer = threading.Thread(target=write)
        self._writers.append(writer)
        writer.start()
        return True

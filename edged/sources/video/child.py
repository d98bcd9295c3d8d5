"""The parent's side of a capture process (`media/capture`): its notes, as they come, and its end."""

import contextlib
import os
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING

from edged.media.capture import ALIVE, END, FAILED, FRAME, LONGEST_TEXT, NOTE, SLOTS, Job, command
from edged.media.decoding import share_memory, start_child

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Note:
    """What a capture says.

    Attributes:
        what: FRAME, ALIVE, END or FAILED of `media.capture`.
        number: of a frame.
        seconds: when it was taken, on the clock of its stream.
        at: the same, seconds since 1970.
        dropped: frames passed over since the last note.
        text: why it failed.
        size: width and height of a frame in the video, px.
        pixels: of a frame: uint8 (H, W, C).
        slot: that the frame came by; to be freed.
    """

    what: int
    number: int = 0
    seconds: float = 0.0
    at: float = 0.0
    dropped: int = 0
    text: str = ""
    size: tuple[int, int] = (0, 0)
    pixels: "NDArray[np.uint8] | None" = None
    slot: int = 0


class Capture:
    """One capture process. A thread takes its notes in, so that who waits for them waits for other things too."""

    def __init__(self, job: Job, wake: Callable[[], None]) -> None:
        """Starts it; `wake` is called whenever there is something in `notes`."""
        self.notes: SimpleQueue[Note] = SimpleQueue()
        self._shape, self._wake = job.spec.shape, wake
        height, width, channels = job.spec.shape
        self._size = height * width * channels
        self._memory, descriptor = share_memory(SLOTS * self._size)
        try:
            self._process, self._link = start_child(command())
            with contextlib.suppress(ConnectionError):  # it has died, which is seen as its notes are read
                socket.send_fds(self._link, [job.to_json()], [descriptor])
        finally:
            os.close(descriptor)
        self._reader = threading.Thread(target=self._read, name="capture", daemon=True)
        self._reader.start()

    def free(self, slot: int) -> None:
        """Gives a slot back, from any thread."""
        try:
            self._link.send(bytes([slot]))
        except OSError:
            return  # it has ended

    def close(self) -> None:
        """Kills it, whatever it does."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        self._link.close()
        self._memory.close()

    def _read(self) -> None:
        """Passes notes on; the last one is END or FAILED. None is trusted: what is malformed counts as a crash."""
        while True:
            try:
                packet = self._link.recv(NOTE.size + LONGEST_TEXT + 1)
            except OSError:
                packet = b""
            note = self._understand(packet)
            self.notes.put(note)
            self._wake()
            if note.what in {END, FAILED}:
                return

    def _understand(self, packet: bytes) -> Note:
        import numpy as np

        if not packet:
            return Note(FAILED, text="its process died")
        if not NOTE.size <= len(packet) <= NOTE.size + LONGEST_TEXT:
            return Note(FAILED, text="its process gave a malformed note")
        what, slot, number, seconds, at, dropped, width, height = NOTE.unpack_from(packet)
        if what not in {FRAME, ALIVE, END, FAILED} or slot >= SLOTS:
            return Note(FAILED, text="its process gave a malformed note")
        pixels = None
        if what == FRAME:
            values = np.frombuffer(self._memory, np.uint8, self._size, slot * self._size)
            pixels = values.reshape(self._shape).copy()
            del values  # the memory can only be closed when nobody looks at it
        text = packet[NOTE.size :].decode("utf-8", "replace")
        return Note(what, number, seconds, at, dropped, text, (width, height), pixels, slot)

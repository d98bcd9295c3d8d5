"""Capture: a process that reads a video for its parent (`sources/video`), and may be killed at any time.

It has a socket of packets as its standard input, which it takes for itself before anything else. The parent's first
packet is the JSON of a `Job`, with the descriptor of the memory that they share: `SLOTS` pictures at the model's size,
uint8 (H, W, C) each. Then:

    to the parent    `NOTE`: what it is, the slot and the number of a frame, when it was taken (on the clock of the
                     stream, and in seconds since 1970), how many frames were passed over since the last note for want
                     of a free slot, and the width and height of the frame in the video. Then text: an error in words
    from the parent  one byte: the slot that is free again

A file is read whole, and waits for free slots. Of a live stream the newest frame is what a free slot gets. Times of a
file count from its beginning; those of a live stream are monotonic.
"""

import contextlib
import json
import mmap
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

from edged.errors import PictureError
from edged.media import imaging
from edged.media.decoder import be_first_to_go, limit_memory, socket_of_parent
from edged.media.frames import Rate
from edged.media.imaging import ImageInput, Limits

SLOTS: Final = 2
NOTE: Final = struct.Struct("<BBQddQII")
FRAME, ALIVE, END, FAILED = range(4)
LONGEST_TEXT: Final = 1000

_ALIVE_S: Final = 0.5
_THREADS: Final = 4
_LONGEST_JOB: Final = 1 << 16


@dataclass(frozen=True, slots=True)
class Job:
    """What to read, and how.

    Attributes:
        url: of a stream, or the path of a file or a device.
        live: whether it is what happens now, and not a file.
        device: whether it is a V4L2 device.
        fps: frames a second to take; None for every one.
        skip: frames to pass over that were taken before; of a file.
        timeout_s: for connecting; twice that for each packet.
        limits: of a frame, and of the memory that it may take.
        spec: what becomes of it.
    """

    url: str
    live: bool
    device: bool
    fps: float | None
    skip: int
    timeout_s: float
    limits: Limits
    spec: ImageInput

    def to_json(self) -> bytes:
        """What `serve` reads."""
        return json.dumps(asdict(self)).encode()


def command() -> list[str]:
    """What starts a capture, with a socket of packets as its standard input."""
    # -P: nothing is imported from the working directory, which may be anybody's.
    return [sys.executable, "-P", "-c", "from edged.media.capture import serve; serve()"]


def serve() -> None:
    """Reads one video, until its end or until the parent is gone."""
    parent = socket_of_parent()
    be_first_to_go()
    request, descriptors, _, _ = socket.recv_fds(parent, _LONGEST_JOB, 1)
    if not request:
        return
    about = json.loads(request)
    job = Job(**{**about, "spec": ImageInput(**about["spec"]), "limits": Limits(**about["limits"])})
    limit_memory(job.limits)
    with contextlib.suppress(ConnectionError, _ParentGoneError):
        _Capture(job, parent, mmap.mmap(descriptors[0], 0)).run()
        # Were we to go with anything unread, the parent would not get our last note.
        while parent.recv(1):
            pass


class _ParentGoneError(Exception):
    pass


class _Capture:
    def __init__(self, job: Job, parent: socket.socket, memory: mmap.mmap) -> None:
        self._job, self._parent, self._memory = job, parent, memory
        self._free = list(range(SLOTS))
        self._size = job.spec.height * job.spec.width * job.spec.channels
        self._number, self._dropped = 0, 0
        self._origin = 0.0
        self._said = time.monotonic()

    def run(self) -> None:
        """Hands over what there is, and says how it ended."""
        import av

        try:
            for frame, seconds in self._frames():
                self._take(frame, seconds)
        except MemoryError:
            self._say(FAILED, text="its frames need more memory than limits.max_pixels lets them take")
        except (av.error.FFmpegError, OSError, ValueError, PictureError) as error:
            if isinstance(error, ConnectionError) and not isinstance(error, av.error.FFmpegError):
                raise
            # Without the address, which FFmpeg's own text repeats with the password in it.
            text = getattr(error, "strerror", None) or str(error)
            self._say(FAILED, text=text)
        else:
            self._say(END)

    def _frames(self) -> Iterator[tuple[Any, float]]:
        """The frames that are wanted, each with its time on the clock of the stream."""
        rate = Rate(self._job.fps)
        for frame, seconds in self._decoded():
            if not rate.takes(seconds):
                self._stay_alive()
                continue
            yield frame, seconds

    def _decoded(self) -> Iterator[tuple[Any, float]]:
        import av

        job = self._job
        options = {"rtsp_transport": "tcp", "protocol_whitelist": "rtsp,rtp,tcp,tls,http,https,httpproxy,crypto"}
        if job.device or not job.live:
            options = {} if job.device else {"protocol_whitelist": "file"}
        with av.open(
            job.url,
            format="v4l2" if job.device else None,
            options=options,
            # Silence is for the parent to notice, and to call stalled; this is for when that hangs as well.
            timeout=(job.timeout_s, 2 * job.timeout_s) if job.live and not job.device else None,
        ) as container:
            if not container.streams.video:
                raise ValueError("there is no video in it")
            stream = container.streams.video[0]
            self._check_size(stream.codec_context.width, stream.codec_context.height)
            stream.codec_context.options = {"max_pixels": str(job.limits.max_pixels)}  # of those that come later
            stream.thread_count = min(_THREADS, os.cpu_count() or 1)  # each has memory of its own
            stream.thread_type = "SLICE" if job.live else "AUTO"  # threads by frame hold back as many frames
            if not job.live:  # it was last written as its last frame was taken, which is as much as a file tells
                self._origin = os.stat(job.url).st_mtime - (container.duration or 0) / av.time_base
            first: float | None = None
            for packet in container.demux(stream):
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError:  # damage, or a stream that was joined in its middle
                    if not job.live:  # else a stream of nothing but garbage would seem alive
                        self._stay_alive()
                    continue
                for frame in frames:
                    if job.live:
                        yield frame, time.monotonic()
                    elif frame.time is not None:
                        first = frame.time if first is None else first
                        yield frame, frame.time - first

    def _take(self, frame: Any, seconds: float) -> None:
        number, self._number = self._number, self._number + 1
        if number < self._job.skip:
            self._stay_alive()
            return
        self._collect(wait=not self._job.live and not self._free)
        if not self._free:
            self._dropped += 1
            self._stay_alive()
            return
        self._check_size(frame.width, frame.height)
        slot = self._free.pop()
        image = imaging.fit(frame.to_image(), self._job.spec, (frame.width, frame.height))
        self._memory[slot * self._size : (slot + 1) * self._size] = image.tobytes()
        self._say(FRAME, slot, number, seconds, size=(frame.width, frame.height))

    def _check_size(self, width: int, height: int) -> None:
        most = self._job.limits.max_pixels
        if width * height > most:
            raise ValueError(f"its frames are {width}x{height} px, more than limits.max_pixels = {most}")

    def _collect(self, *, wait: bool) -> None:
        """Slots that are free again."""
        while select.select([self._parent], [], [], None if wait else 0)[0]:
            freed = self._parent.recv(1)
            if not freed:
                raise _ParentGoneError
            self._free.append(freed[0])
            wait = False

    def _stay_alive(self) -> None:
        if time.monotonic() - self._said >= _ALIVE_S:
            self._say(ALIVE)

    def _say(
        self,
        what: int,
        slot: int = 0,
        number: int = 0,
        seconds: float = 0.0,
        *,
        size: tuple[int, int] = (0, 0),
        text: str = "",
    ) -> None:
        at = time.time() if self._job.live else self._origin + seconds
        note = NOTE.pack(what, slot, number, seconds, at, self._dropped, *size)
        self._parent.send(note + text.encode("utf-8", "backslashreplace")[:LONGEST_TEXT])
        self._dropped, self._said = 0, time.monotonic()

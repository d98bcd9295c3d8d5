"""`inputs` in child processes that can be killed: a crash or a hang belongs to one picture, not to the daemon.

What a child is given and answers stands in `decoder`. No answer is trusted: what is malformed counts as a crash.
"""

import contextlib
import hashlib
import json
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO, Final

from edged.errors import REASONS, PictureError
from edged.media.decoder import ANSWER, LENGTH, LONGEST_TEXT, command
from edged.media.imaging import Decoded, Limits
from edged.media.inputs import Input
from edged.media.watchdog import Watchdog

if TYPE_CHECKING:
    from types import TracebackType

MAX_ATTEMPTS: Final = 3
"""How often a picture may cost a decoder its life before it is given up."""

_DEATHS: Final = ("decoder_crashed", "decoder_timeout")
_CHUNK: Final = 1 << 18
_PIPE: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file.

    Attributes:
        sha256: of the bytes that were read; None when they were not all read.
        decoded: the picture, or None with an `error`.
        error: why there is no picture.
        seconds: that it took.
    """

    sha256: str | None
    decoded: Decoded | None
    error: PictureError | None
    seconds: float


class DecodingAborted(Exception):  # noqa: N818 -- nothing went wrong
    """Decoding was stopped before it had an answer."""


class DecoderPool:
    """A few decoder processes, shared by threads; each is started when it is first needed."""

    def __init__(self, size: int, limits: Limits) -> None:
        self._aborted = threading.Event()
        self._watchdog = Watchdog(limits.decode_seconds)
        self._decoders = [_Decoder(limits, self._watchdog, self._aborted) for _ in range(size)]
        # The one that was last at work is the next one: few pictures need few processes.
        self._free: queue.LifoQueue[_Decoder] = queue.LifoQueue()
        for decoder in self._decoders:
            self._free.put(decoder)

    def decode(self, file: BinaryIO, spec: Input) -> Outcome:
        """Reads `file` from its start and decodes it; a dead or late decoder is replaced, at most `MAX_ATTEMPTS` times.

        Raises:
            OSError: no process can be started, which is no fault of the picture.
            DecodingAborted: the pool was told to stop.
        """
        began = time.perf_counter()
        with self._borrowed() as decoder:
            for attempt in range(1, MAX_ATTEMPTS + 1):
                file.seek(0)
                sha256, answer = decoder.decode(file, spec)
                if self._aborted.is_set():
                    raise DecodingAborted
                died = isinstance(answer, PictureError) and answer.reason in _DEATHS
                if not died or attempt == MAX_ATTEMPTS:
                    break
        seconds = time.perf_counter() - began
        if isinstance(answer, PictureError):
            return Outcome(sha256, None, answer, seconds)
        return Outcome(sha256, answer, None, seconds)

    def abort(self) -> None:
        """Kills every process at once, also from another thread; what is being decoded raises `DecodingAborted`."""
        self._aborted.set()
        for decoder in self._decoders:
            decoder.kill()

    def close(self) -> None:
        """Ends every process. No thread may be decoding."""
        for decoder in self._decoders:
            decoder.close()
        self._watchdog.close()

    def __enter__(self) -> "DecoderPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: "TracebackType | None"
    ) -> None:
        self.close()

    @contextmanager
    def _borrowed(self) -> Iterator["_Decoder"]:
        decoder = self._free.get()
        try:
            yield decoder
        finally:
            self._free.put(decoder)


class _Decoder:
    """One child process; used by one thread at a time."""

    def __init__(self, limits: Limits, watchdog: Watchdog, aborted: threading.Event) -> None:
        self._limits, self._watchdog, self._aborted = limits, watchdog, aborted
        self._child: subprocess.Popen[bytes] | None = None
        self._spec: Input | None = None

    def decode(self, file: BinaryIO, spec: Input) -> tuple[str | None, Decoded | PictureError]:
        """One attempt at one file: its SHA-256, and the picture or why there is none."""
        child = self._ready()
        head = LENGTH.pack(0)
        if spec is not self._spec:  # two that are equal may be of pictures of another size, and so take another part
            keys = json.dumps(asdict(spec)).encode()
            head, self._spec = LENGTH.pack(len(keys)) + keys, spec
        self._watchdog.begin(child)
        try:
            try:
                sha256, size = _send(child, head, file, self._limits)
                answer = _receive(child, spec)
            finally:
                late = self._watchdog.end(child)
        except PictureError as error:  # of the file, and the rest of it was not sent
            self.close()
            return None, error
        except BaseException:
            self.close()
            raise
        if late or answer is None or (isinstance(answer, PictureError) and answer.reason in _DEATHS):
            self.close()
        if answer is None:
            return sha256, self._explain(child, late=late, size=size)
        return sha256, answer

    def kill(self) -> None:
        """Kills the process, from any thread; the one that waits for its answer finds it dead."""
        if (child := self._child) is not None:
            child.kill()

    def close(self) -> None:
        """Ends the process, if there is one."""
        child, self._child, self._spec = self._child, None, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        child.wait()

    def _ready(self) -> "subprocess.Popen[bytes]":
        """The process, which lives; a new one where it does not."""
        child = self._child
        if child is None or child.poll() is not None:
            self.close()
            child = self._child = _start(self._limits)
            if self._aborted.is_set():  # perhaps just before there was anything to kill
                child.kill()
        return child

    def _explain(self, child: "subprocess.Popen[bytes]", *, late: bool, size: int) -> PictureError:
        """Why a process that has ended gave no answer."""
        if late or child.returncode == -_alarm():
            return PictureError(
                "decoder_timeout", f"decoding took longer than limits.decode_seconds = {self._limits.decode_seconds:g}"
            )
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        return PictureError("decoder_crashed", f"the decoder process died ({how}) on these {size} bytes")


def _start(limits: Limits) -> "subprocess.Popen[bytes]":
    child = subprocess.Popen(
        command(limits),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # image libraries print there, on every damaged file
    )
    with contextlib.suppress(ImportError, AttributeError, OSError):  # Linux, as far as the user's share reaches
        import fcntl

        for pipe in (child.stdin, child.stdout):  # room for one picture, so that neither side waits for the other
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE)  # type: ignore[arg-type]
    return child


def _send(child: "subprocess.Popen[bytes]", head: bytes, file: BinaryIO, limits: Limits) -> tuple[str, int]:
    """Sends and hashes in one read, and goes on hashing when the child has died; the SHA-256, and how many bytes.

    Raises:
        PictureError: the file cannot be read, or is too large.
    """
    assert child.stdin is not None
    digest, size, alive = hashlib.sha256(), 0, True
    chunk = _read(file)
    while True:
        size += len(chunk)
        if size > limits.max_bytes:
            raise PictureError("file_too_large", f"more than limits.max_bytes = {limits.max_bytes} bytes")
        digest.update(chunk)
        following = _read(file) if chunk else b""
        if alive:
            parts = (head, LENGTH.pack(len(chunk)), chunk, b"" if following or not chunk else LENGTH.pack(0))
            try:
                child.stdin.write(b"".join(parts))
                if not following:
                    child.stdin.flush()
            except BrokenPipeError:
                alive = False
        if not following:
            return digest.hexdigest(), size
        head, chunk = b"", following


def _read(file: BinaryIO) -> bytes:
    try:
        return file.read(_CHUNK)
    except OSError as error:
        raise PictureError("unreadable", f"cannot be read: {error.strerror or error}") from error


def _receive(child: "subprocess.Popen[bytes]", spec: Input) -> Decoded | PictureError | None:
    """The child's answer; None when it died before it had given all of it."""
    import numpy as np

    assert child.stdout is not None
    head = child.stdout.read(ANSWER.size)
    if len(head) != ANSWER.size:
        return None
    reason, length, width, height, pages = ANSWER.unpack(head)
    if reason > len(REASONS) or length > LONGEST_TEXT or pages > 2:
        return PictureError("decoder_crashed", "the decoder process gave a malformed answer")
    text = child.stdout.read(length)
    if len(text) != length:
        return None
    words = text.decode("utf-8", "replace")
    if reason:
        return PictureError(REASONS[reason - 1], words)
    values = np.empty(spec.shape, dtype=spec.dtype)
    if child.stdout.readinto(values.data.cast("B")) != values.nbytes:  # type: ignore[attr-defined]
        return None
    return Decoded(values, width, height, words, pages)


def _alarm() -> int:
    return signal.SIGALRM if hasattr(signal, "SIGALRM") else 0

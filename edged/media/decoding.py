"""`inputs` in child processes that can be killed: a crash or a hang belongs to one picture, not to the daemon.

What a child is given and answers stands in `decoder`. No answer is trusted: what is malformed counts as a crash.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, Final

from edged.errors import REASONS, PictureError
from edged.media.decoder import ANSWER, AS_BEFORE, LONGEST_TEXT, command, environment
from edged.media.imaging import Decoded, Limits
from edged.media.inputs import Input
from edged.media.watchdog import Watchdog

if TYPE_CHECKING:
    from types import TracebackType

MAX_ATTEMPTS: Final = 3
"""How often a picture may cost a decoder its life before it is given up."""

_DEATHS: Final = ("decoder_crashed", "decoder_timeout")
_CHUNK: Final = 1 << 18
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


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
        self._limits, self._aborted = limits, threading.Event()
        self._watchdog = Watchdog(limits.decode_seconds)
        self._decoders = [_Decoder(limits, self._watchdog, self._aborted) for _ in range(size)]
        # The one that was last at work is the next one: few pictures need few processes.
        self._free = list(self._decoders)
        self._any_free: SimpleQueue[None] = SimpleQueue()  # a token for each of them
        for _ in self._free:
            self._any_free.put(None)

    def decode(self, file: BinaryIO, spec: Input) -> Outcome:
        """Has `file` read from its start and decoded; a dead or late decoder is replaced, at most `MAX_ATTEMPTS` times.

        Raises:
            OSError: no process can be started, which is no fault of the picture.
            DecodingAborted: the pool was told to stop.
        """
        began = time.perf_counter()
        self._any_free.get()
        decoder = self._free.pop()
        try:
            for _ in range(MAX_ATTEMPTS):
                sha256, answer = decoder.decode(file, spec)
                if self._aborted.is_set():
                    raise DecodingAborted
                died = isinstance(answer, PictureError) and answer.reason in _DEATHS
                if not died:
                    break
        finally:
            self._free.append(decoder)
            self._any_free.put(None)
        if died:
            sha256 = _sha256(file, self._limits.max_bytes)
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


class _Decoder:
    """One child process; used by one thread at a time."""

    def __init__(self, limits: Limits, watchdog: Watchdog, aborted: threading.Event) -> None:
        self._limits, self._watchdog, self._aborted = limits, watchdog, aborted
        self._child: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._spec: Input | None = None
        self._memory: mmap.mmap | None = None

    def decode(self, file: BinaryIO, spec: Input) -> tuple[str | None, Decoded | PictureError]:
        """One attempt at one file: its SHA-256, and the picture or why there is none."""
        child, link = self._ready()
        self._watchdog.begin(child)
        try:
            try:
                with contextlib.suppress(ConnectionError):  # it has died, which is seen at the next line
                    self._send(link, file, spec)
                answer = _receive(link)
            finally:
                late = self._watchdog.end(child)
        except BaseException:
            self.close()
            raise
        if late or not answer:
            self.close()
            return None, self._explain(child, late=late)
        understood = self._understand(answer, spec)
        if isinstance(understood[1], PictureError) and understood[1].reason in _DEATHS:
            self.close()
        return understood

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
        if self._socket is not None:
            self._socket.close()
        if self._memory is not None:
            self._memory.close()
        child.wait()

    def _ready(self) -> "tuple[subprocess.Popen[bytes], socket.socket]":
        """The process, which lives, and the way to it; a new one where it does not."""
        if self._child is None or self._socket is None or self._child.poll() is not None:
            self.close()
            self._child, self._socket = start_child(command(self._limits), environment())
            if self._aborted.is_set():  # perhaps just before there was anything to kill
                self._child.kill()
        return self._child, self._socket

    def _send(self, link: socket.socket, file: BinaryIO, spec: Input) -> None:
        with contextlib.ExitStack() as stack:
            descriptors = [_descriptor(file, self._limits.max_bytes, stack)]
            request = AS_BEFORE
            if spec is not self._spec:  # two that are equal may be of other pictures, and take another part of them
                request = json.dumps(asdict(spec)).encode()
                descriptors.append(self._share_memory(spec, stack))
                self._spec = spec
            socket.send_fds(link, [request], descriptors)

    def _share_memory(self, spec: Input, stack: contextlib.ExitStack) -> int:
        """Makes the memory that values come by; its descriptor, for the child."""
        import numpy as np

        self._memory, descriptor = share_memory(math.prod(spec.shape) * np.dtype(spec.dtype).itemsize)
        stack.callback(os.close, descriptor)
        return descriptor

    def _understand(self, answer: bytes, spec: Input) -> tuple[str | None, Decoded | PictureError]:
        """An answer's SHA-256, and the picture or why there is none."""
        import numpy as np

        malformed = PictureError("decoder_crashed", "the decoder process gave a malformed answer")
        if not ANSWER.size <= len(answer) <= ANSWER.size + LONGEST_TEXT:
            return None, malformed
        reason, digest, width, height, pages = ANSWER.unpack_from(answer)
        if reason > len(REASONS) or pages > 2:
            return None, malformed
        sha256 = digest.hex() if any(digest) else None
        text = answer[ANSWER.size :].decode("utf-8", "replace")
        if reason:
            return sha256, PictureError(REASONS[reason - 1], text)
        assert self._memory is not None
        pixels = np.frombuffer(self._memory, dtype=spec.dtype).reshape(spec.shape).copy()
        return sha256, Decoded(pixels, width, height, text, pages)

    def _explain(self, child: "subprocess.Popen[bytes]", *, late: bool) -> PictureError:
        """Why a process that has ended gave no answer."""
        if late or child.returncode == -signal.SIGALRM:
            return PictureError(
                "decoder_timeout", f"decoding took longer than limits.decode_seconds = {self._limits.decode_seconds:g}"
            )
        how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
        return PictureError("decoder_crashed", f"the decoder process died ({how})")


def start_child(
    command: Sequence[str], environment: Mapping[str, str] | None = None
) -> "tuple[subprocess.Popen[bytes], socket.socket]":
    """Starts a process with a socket of packets as its standard input; the process, and our end of that."""
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        try:
            child = subprocess.Popen(
                command,
                env=environment,
                stdin=its.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,  # image libraries print there, on every damaged file
            )
        except BaseException:
            ours.close()
            raise
    return child, ours


def share_memory(size: int) -> tuple[mmap.mmap, int]:
    """Memory to share with a child: as we see it, and its descriptor, which is to be sent and closed."""
    descriptor = os.memfd_create("edged", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)  # were it cut short, a look at it would kill us
        return mmap.mmap(descriptor, size), descriptor
    except BaseException:
        os.close(descriptor)
        raise


def _receive(link: socket.socket) -> bytes:
    """The child's answer, one byte longer than the longest where it is longer; empty when the child has died."""
    try:
        return link.recv(ANSWER.size + LONGEST_TEXT + 1)
    except ConnectionError:
        return b""


def _descriptor(file: BinaryIO, most: int, stack: contextlib.ExitStack) -> int:
    """Of a file that has one, its own; of one in memory, that of a copy of no more than shows that it is too large."""
    try:
        return file.fileno()
    except io.UnsupportedOperation:
        copy = os.memfd_create("edged", os.MFD_CLOEXEC)
        stack.callback(os.close, copy)
        file.seek(0)
        with open(copy, "wb", closefd=False) as out:
            out.write(file.read(most + 1))
        return copy


def _sha256(file: BinaryIO, most: int) -> str | None:
    """Of a file that cost decoders their lives; None where it cannot be read, or has become too large."""
    digest, size = hashlib.sha256(), 0
    try:
        file.seek(0)
        while (chunk := file.read(_CHUNK)) and size <= most:
            digest.update(chunk)
            size += len(chunk)
    except OSError:
        return None
    return digest.hexdigest() if size <= most else None

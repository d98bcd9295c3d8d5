"""`inputs` in child processes that can be killed: a crash or a hang belongs to one picture, not to the daemon.

A child reads requests on its standard input and answers on its standard output:

    request   one line of JSON (input, limits), then the file in frames of 4 bytes of length and that many bytes,
              ended by a length of 0
    answer    one line of JSON, {"reason", "message"} or {"width", "height", "mode", "pages"}, the latter followed
              by the bytes of the values: uint8 (H, W, C) of a picture, float32 (C, T) of a signal

It ends at end of file, so it does not outlive its parent; a decode that hangs is ended by its own alarm.
"""

import contextlib
import hashlib
import io
import json
import math
import queue
import signal
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, BinaryIO, Final

from edged.errors import PictureError
from edged.media import inputs
from edged.media.imaging import Decoded, Limits
from edged.media.inputs import Input

if TYPE_CHECKING:
    from types import TracebackType

MAX_ATTEMPTS: Final = 3
"""How often a picture may cost a decoder its life before it is given up."""

_CHUNK: Final = 1 << 20
_LENGTH: Final = struct.Struct("<I")
_GRACE_S: Final = 2.0
_BASE_MEMORY: Final = 1 << 30
_BYTES_PER_PIXEL: Final = 16


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
        self._decoders = [_Decoder(limits) for _ in range(size)]
        self._free: queue.SimpleQueue[_Decoder] = queue.SimpleQueue()
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
                died = isinstance(answer, PictureError) and answer.reason in {"decoder_crashed", "decoder_timeout"}
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

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._child: subprocess.Popen[bytes] | None = None
        self._late = False

    def decode(self, file: BinaryIO, spec: Input) -> tuple[str | None, Decoded | PictureError]:
        """One attempt at one file: its SHA-256, and the picture or why there is none."""
        child = self._child
        if child is None or child.poll() is not None:
            self.close()
            child = self._child = _start()
        self._late = False
        timer = threading.Timer(self._limits.decode_seconds, self._expire, [child])
        timer.daemon = True
        timer.start()
        try:
            try:
                sha256, size = _send(child, file, spec, self._limits)
            except OSError as error:  # of the file: a broken pipe does not get here
                self.close()
                return None, PictureError("unreadable", f"cannot be read: {error.strerror or error}")
            if sha256 is None:
                self.close()  # the request was left half-sent
                return None, PictureError(
                    "file_too_large", f"more than limits.max_bytes = {self._limits.max_bytes} bytes"
                )
            answer = _receive(child, spec)
        except BaseException:
            self.close()
            raise
        finally:
            timer.cancel()
        if answer is None:
            self.close()
            if self._late or child.returncode == -_alarm():
                return sha256, PictureError(
                    "decoder_timeout",
                    f"decoding took longer than limits.decode_seconds = {self._limits.decode_seconds:g}",
                )
            how = f"signal {-child.returncode}" if child.returncode < 0 else f"exit code {child.returncode}"
            return sha256, PictureError("decoder_crashed", f"the decoder process died ({how}) on these {size} bytes")
        return sha256, answer

    def kill(self) -> None:
        """Kills the process, from any thread; the one that waits for its answer finds it dead."""
        if (child := self._child) is not None:
            child.kill()

    def close(self) -> None:
        """Ends the process, if there is one."""
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        for pipe in (child.stdin, child.stdout):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()
        child.wait()

    def _expire(self, child: subprocess.Popen[bytes]) -> None:
        self._late = True
        child.kill()


def _start() -> "subprocess.Popen[bytes]":
    # -P: nothing is imported from the working directory, which may be anybody's.
    command = [sys.executable, "-P", "-m", "edged.media.decoding"]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # image libraries print there, on every damaged file
    )


def _send(child: "subprocess.Popen[bytes]", file: BinaryIO, spec: Input, limits: Limits) -> tuple[str | None, int]:
    """Sends and hashes in one read; goes on hashing when the child has died. (None, size) when there is too much."""
    assert child.stdin is not None
    pipe: IO[bytes] | None = child.stdin
    digest, size = hashlib.sha256(), 0
    pipe = _write(pipe, json.dumps({"input": asdict(spec), "limits": asdict(limits)}).encode() + b"\n")
    while chunk := file.read(_CHUNK):
        size += len(chunk)
        if size > limits.max_bytes:
            return None, size
        digest.update(chunk)
        pipe = _write(pipe, _LENGTH.pack(len(chunk)) + chunk)
    pipe = _write(pipe, _LENGTH.pack(0))
    if pipe is not None:
        with contextlib.suppress(BrokenPipeError):
            pipe.flush()
    return digest.hexdigest(), size


def _write(pipe: IO[bytes] | None, data: bytes) -> IO[bytes] | None:
    if pipe is None:
        return None
    try:
        pipe.write(data)
    except BrokenPipeError:
        return None
    return pipe


def _receive(child: "subprocess.Popen[bytes]", spec: Input) -> Decoded | PictureError | None:
    """The child's answer; None when it died before it had given all of it."""
    import numpy as np

    assert child.stdout is not None
    line = child.stdout.readline()
    if not line.endswith(b"\n"):
        return None
    answer = json.loads(line)
    if "reason" in answer:
        return PictureError(answer["reason"], answer["message"])
    dtype = np.dtype(spec.dtype)
    size = math.prod(spec.shape) * dtype.itemsize
    data = child.stdout.read(size)
    if len(data) != size:
        return None
    pixels = np.frombuffer(data, dtype=dtype).reshape(spec.shape)
    return Decoded(pixels, answer["width"], answer["height"], answer["mode"], answer["pages"])


def _alarm() -> int:
    return signal.SIGALRM if hasattr(signal, "SIGALRM") else 0


def _serve() -> None:
    """The child: answers requests until end of file."""
    warnings.simplefilter("ignore")
    for name in ("SIGINT", "SIGTERM"):  # the parent ends us, once it has its answer
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    limited = False
    while line := requests.readline():
        request = json.loads(line)
        spec, limits = inputs.from_dict(request["input"]), Limits(**request["limits"])
        if not limited:
            _limit(limits)
            limited = True
        _set_alarm(limits.decode_seconds + _GRACE_S)
        data = io.BytesIO()
        while length := _LENGTH.unpack(requests.read(_LENGTH.size))[0]:
            data.write(requests.read(length))
        try:
            values, about = inputs.to_bytes(data.getvalue(), spec, limits)
        except PictureError as error:
            answers.write(json.dumps({"reason": error.reason, "message": str(error)}).encode() + b"\n")
        else:
            answers.write(json.dumps(about).encode() + b"\n" + values)
        answers.flush()
        _set_alarm(0)


def _limit(limits: Limits) -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return
    memory = _BASE_MEMORY + _BYTES_PER_PIXEL * limits.max_pixels + 2 * limits.max_bytes
    for what, most in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_FSIZE, 0)):
        hard = resource.getrlimit(what)[1]
        value = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (value, value))


def _set_alarm(seconds: float) -> None:
    # The default action of SIGALRM ends the process even inside a C library that never returns to Python.
    if hasattr(signal, "setitimer"):
        signal.setitimer(signal.ITIMER_REAL, seconds)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError, struct.error):  # the parent has gone
        _serve()

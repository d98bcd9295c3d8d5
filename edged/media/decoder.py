"""A decoder: a process that decodes for its parent (`decoding`), and may be killed at any time.

It is given the limits as its argument, and a socket of packets as its standard input, which it takes for itself before
anything else: image libraries may read and print what they like.

    request   the JSON of an input, or `AS_BEFORE`; with it the descriptor of the file, and after a JSON that of the
              memory, shared with the parent, that the values go to
    answer    `ANSWER`: 0, or which of REASONS, counted from 1; the file's SHA-256, zeros where it was not read whole;
              width, height, pages. Then text: Pillow's mode, or the error in words. With a 0 the values are in the
              memory: uint8 (H, W, C) of a picture, float32 (C, T) of a signal

It ends when its parent has ended; a decode that hangs is ended by its own alarm. When memory is short it is what the
kernel should kill.
"""

import contextlib
import hashlib
import json
import mmap
import os
import signal
import socket
import struct
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Final

from edged.errors import REASONS, PictureError
from edged.media import inputs
from edged.media.imaging import Limits
from edged.media.inputs import Input

ANSWER: Final = struct.Struct("<B32sIIB")
AS_BEFORE: Final = b"="
LONGEST_TEXT: Final = 1000
"""Bytes of UTF-8."""

_LONGEST_REQUEST: Final = 1 << 16
_GRACE_S: Final = 2.0
_BASE_MEMORY: Final = 1 << 30
_BYTES_PER_PIXEL: Final = 16
_OOM_SCORE_ADJ: Final = 500  # of -1000 to 1000
_KEPT: Final = 32 << 20


def command(limits: Limits) -> list[str]:
    """What starts a decoder, with a socket of packets as its standard input, and outputs where it may print."""
    # -P: nothing is imported from the working directory, which may be anybody's.
    program = "from edged.media.decoder import serve; serve()"
    return [sys.executable, "-P", "-c", program, json.dumps(asdict(limits))]


def environment() -> dict[str, str]:
    """Of a decoder: glibc keeps up to 32 MiB that one picture has freed for the next, which else gets them zeroed."""
    kept = dict.fromkeys(("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"), str(_KEPT))
    return {**kept, **os.environ}


def serve() -> None:
    """Answers requests until the parent is gone."""
    parent = socket_of_parent()
    warnings.simplefilter("ignore")
    limits = Limits(**json.loads(sys.argv[1]))
    be_first_to_go()
    limit_memory(limits)
    spec: Input | None = None
    memory: mmap.mmap | None = None
    with contextlib.suppress(BrokenPipeError):
        while True:
            request, descriptors, _, _ = socket.recv_fds(parent, _LONGEST_REQUEST, 2)
            if not request:
                return
            if request != AS_BEFORE:
                spec = inputs.from_dict(json.loads(request))
                memory = mmap.mmap(descriptors[1], 0)
                os.close(descriptors[1])
            assert spec is not None
            assert memory is not None
            _set_alarm(limits.decode_seconds + _GRACE_S)
            parent.send(_answer(descriptors[0], spec, limits, memory))
            _set_alarm(0)


def socket_of_parent() -> socket.socket:
    """Takes what is standard input for itself, and no notice of signals: the parent ends us when it is time."""
    parent = socket.socket(fileno=os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    return parent


def _answer(descriptor: int, spec: Input, limits: Limits, memory: mmap.mmap) -> bytes:
    sha256 = bytes(32)
    try:
        data = _read(descriptor, limits)
        sha256 = hashlib.sha256(data).digest()
        values, about = inputs.to_bytes(data, spec, limits)
    except PictureError as error:
        text = str(error).encode("utf-8", "backslashreplace")[:LONGEST_TEXT]
        return ANSWER.pack(1 + REASONS.index(error.reason), sha256, 0, 0, 0) + text
    memory[:] = values
    mode: str = about["mode"]
    return ANSWER.pack(0, sha256, about["width"], about["height"], about["pages"]) + mode.encode()


def _read(descriptor: int, limits: Limits) -> bytes:
    """The bytes of a file, which is closed; what grows meanwhile is not the file that was found, and comes again."""
    try:
        with open(descriptor, "rb", buffering=0) as file:
            file.seek(0)
            data = file.read(min(os.fstat(descriptor).st_size, limits.max_bytes) + 1)
    except OSError as error:
        raise PictureError("unreadable", f"cannot be read: {error.strerror or error}") from error
    if len(data) > limits.max_bytes:
        raise PictureError("file_too_large", limits.exceeded("max_bytes", "its bytes"))
    return data


def be_first_to_go() -> None:
    """When memory is short, a decoder dies rather than the daemon: a picture of its is tried again."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        if int(file.read_text(encoding="ascii")) < _OOM_SCORE_ADJ:
            file.write_text(str(_OOM_SCORE_ADJ), encoding="ascii")


def limit_memory(limits: Limits) -> None:
    """Bounds what this process may take by what the largest picture takes; it writes no files and dumps no core."""
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

"""A decoder: a process that decodes for its parent (`decoding`), and may be killed at any time.

It is given the limits as its argument, reads requests on its standard input, and answers on what was its standard
output: before anything else is imported it takes that for itself, for image libraries print there.

    request   4 bytes of length and that many bytes of JSON, the input (a length of 0: as before), then the file in
              frames of 4 bytes of length and that many bytes, ended by a length of 0
    answer    `ANSWER`: 0, or which of REASONS, counted from 1; the length of the text; width, height, pages. Then the
              text, which is Pillow's mode, or the error in words, and with a 0 the bytes of the values: uint8 (H, W, C)
              of a picture, float32 (C, T) of a signal

It ends at end of file, so it does not outlive its parent; a decode that hangs is ended by its own alarm. When memory is
short it is what the kernel should kill.
"""

import contextlib
import json
import signal
import struct
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import BinaryIO, Final

from edged.errors import REASONS, PictureError
from edged.media import inputs
from edged.media.imaging import Limits
from edged.media.inputs import Input

LENGTH: Final = struct.Struct("<I")
ANSWER: Final = struct.Struct("<BHIIB")
LONGEST_TEXT: Final = 1000
"""Bytes of UTF-8."""

_PROGRAM: Final = (
    "import os; answers = os.dup(1); os.dup2(2, 1); from edged.media.decoder import serve; serve(open(answers, 'wb'))"
)
_BUFFER: Final = 1 << 16
_GRACE_S: Final = 2.0
_BASE_MEMORY: Final = 1 << 30
_BYTES_PER_PIXEL: Final = 16
_OOM_SCORE_ADJ: Final = 500  # of -1000 to 1000


def command(limits: Limits) -> list[str]:
    """What starts a decoder, with pipes as its standard input and output, and its standard error where it may print."""
    # -P: nothing is imported from the working directory, which may be anybody's.
    return [sys.executable, "-P", "-c", _PROGRAM, json.dumps(asdict(limits))]


def serve(answers: BinaryIO) -> None:
    """Answers requests until end of file."""
    warnings.simplefilter("ignore")
    for name in ("SIGINT", "SIGTERM"):  # the parent ends us, once it has its answer
        signal.signal(getattr(signal, name), signal.SIG_IGN)
    limits = Limits(**json.loads(sys.argv[1]))
    _be_first_to_go()
    _limit(limits)
    with open(0, "rb", buffering=_BUFFER) as requests, contextlib.suppress(BrokenPipeError, struct.error):
        spec = None
        while True:  # at end of file there is no length to unpack
            if keys := _read_frame(requests):
                spec = inputs.from_dict(json.loads(keys))
            assert spec is not None
            _set_alarm(limits.decode_seconds + _GRACE_S)
            frames = list(iter(lambda: _read_frame(requests), b""))
            answers.write(_answer(frames[0] if len(frames) == 1 else b"".join(frames), spec, limits))
            answers.flush()
            _set_alarm(0)


def _read_frame(requests: BinaryIO) -> bytes:
    return requests.read(LENGTH.unpack(requests.read(LENGTH.size))[0])


def _answer(data: bytes, spec: Input, limits: Limits) -> bytes:
    try:
        values, about = inputs.to_bytes(data, spec, limits)
    except PictureError as error:
        text = str(error).encode("utf-8", "backslashreplace")[:LONGEST_TEXT]
        return ANSWER.pack(1 + REASONS.index(error.reason), len(text), 0, 0, 0) + text
    mode = about["mode"].encode()
    return b"".join((ANSWER.pack(0, len(mode), about["width"], about["height"], about["pages"]), mode, values))


def _be_first_to_go() -> None:
    """When memory is short, a decoder dies rather than the daemon: a picture of its is tried again."""
    file = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError, ValueError):
        if int(file.read_text(encoding="ascii")) < _OOM_SCORE_ADJ:
            file.write_text(str(_OOM_SCORE_ADJ), encoding="ascii")


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

"""Pictures, records and records of arrivals for the tests, and waiting for what other threads and processes do."""

import io
import os
import signal
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from edged.journal.journal import Entry
from edged.results import Record, new_id
from edged.sources.folder import ledger
from edged.sources.folder.files import FileAction, Fingerprint

GREY = 128

TIMES = int(os.environ.get("EDGED_FUZZ_TIMES", "1"))
"""How many times as many examples as `make test` are tried; more than once: other ones in every run."""


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """What `condition` returns once that is true; fails when it takes too long."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {seconds:g} s"
        time.sleep(0.01)
    return found


def encode(image: Image.Image, file_format: str = "PNG", **options: Any) -> bytes:
    """A file's bytes."""
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def good(seed: int = 0) -> bytes:
    """A PNG of 32x32 noise around middle grey: the tiny model scores it at about 0.05."""
    pixels = np.random.default_rng(seed).integers(118, 139, (32, 32), dtype=np.uint8)
    return encode(Image.fromarray(pixels))


def bad(seed: int = 0) -> bytes:
    """As `good`, with one white patch: the tiny model scores it at 127/64 + 0.01 = 1.994375."""
    pixels = np.random.default_rng(seed).integers(118, 139, (32, 32), dtype=np.uint8)
    pixels[8:12, 8:12] = 255
    return encode(Image.fromarray(pixels))


BAD_SCORE = 127 / 64 + 0.01


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds no pixels to speak of."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def drop(path: Path | bytes, data: bytes) -> None:
    """Puts a whole file into place, as a producer should: under another name first, then renamed."""
    name = os.fsencode(path)
    partial = os.path.join(os.path.dirname(name), b"." + os.urandom(8).hex().encode() + b".part")
    with open(partial, "wb") as file:
        file.write(data)
    os.rename(partial, name)


def record(**changes: Any) -> Record:
    """A record of a good picture."""
    values: dict[str, Any] = {
        "id": new_id(),
        "source": "line1",
        "path": "/in/a.png",
        "sha256": "ab" * 32,
        "captured_at": 1_700_000_000.125,
        "scored_at": 1_700_000_001.5,
        "model": "tiny",
        "model_sha256": "cd" * 32,
        "device": "cpu",
        "score": 0.25,
        "threshold": 0.5,
        "p_value": 0.04,
        "is_anomaly": False,
        "status": "ok",
        "reason": None,
        "error": None,
        "timings_ms": {"decode": 2.1, "infer": 9.8},
    }
    return Record(**{**values, **changes})


def quarantined(**changes: Any) -> Record:
    """A record of a picture that could not be scored."""
    nothing = dict.fromkeys(("score", "threshold", "p_value", "is_anomaly"))
    return record(**{**nothing, "status": "quarantined", "reason": "undecodable", "error": "broken", **changes})


def entry(**changes: Any) -> Entry:
    """What the journal is given for a picture that stays where it is."""
    return entry_of(record(**changes))


def entry_of(one: Record, fingerprint: Fingerprint | None = None, action: FileAction | None = None) -> Entry:
    """What the journal is given for a file: that it is known, or what is to happen to it."""
    path, fingerprint = os.fsencode(one.path), fingerprint or Fingerprint(1, 100, 10**18)
    return Entry(one, [ledger.keep(one, path, fingerprint) if action is None else ledger.owe(action)])


def kill_child(pid: int) -> bool:
    """Kills one child of a process; False when there is none that still lives."""
    for child in children(pid):
        try:
            os.kill(child, signal.SIGKILL)
        except ProcessLookupError:
            continue
        return True
    return False


def children(pid: int | None = None) -> list[int]:
    """Process ids of the living children of a process, this one by default."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == (pid or os.getpid()) and fields[0] != "Z":
            found.append(int(status.parent.name))
    return found

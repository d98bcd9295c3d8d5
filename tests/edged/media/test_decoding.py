import hashlib
import io
import os
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from edged.errors import REASONS
from edged.media.decoding import DecoderPool, DecodingAborted
from edged.media.imaging import ImageInput, Limits, decode
from edged.media.signals import SignalInput
from tests.edged.making import bad, children, encode, good, png_header, until

SPEC = ImageInput(32, 32, 1)


@pytest.fixture
def pool() -> Iterator[DecoderPool]:
    with DecoderPool(1, Limits()) as one:
        yield one


class Trap(io.BytesIO):
    """A picture whose reading does something to the decoder process."""

    def __init__(self, data: bytes, spring: Callable[[int], None], *, times: int = 1) -> None:
        super().__init__(data)
        self._spring, self.left = spring, times

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() == 0 and self.left:
            self.left -= 1
            (child,) = until(children, "a decoder")
            self._spring(child)
        return super().read(size)


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)


def test_same_pixels_as_in_this_process(pool: DecoderPool) -> None:
    for spec in (SPEC, ImageInput(40, 24, 3, resize="pad")):
        for data in (good(1), bad(2)):
            outcome = pool.decode(io.BytesIO(data), spec)
            assert outcome.error is None
            assert outcome.decoded is not None
            expected = decode(data, spec, Limits())
            assert np.array_equal(outcome.decoded.pixels, expected.pixels)
            assert (outcome.decoded.width, outcome.decoded.height, outcome.decoded.mode) == (32, 32, "L")
            assert outcome.sha256 == hashlib.sha256(data).hexdigest()
            assert outcome.seconds > 0


def test_a_process_is_used_again(pool: DecoderPool) -> None:
    assert children() == []
    pool.decode(io.BytesIO(good()), SPEC)
    first = children()
    assert len(first) == 1
    for seed in range(5):
        pool.decode(io.BytesIO(good(seed)), SPEC)
    assert children() == first
    pool.close()
    assert children() == []


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"text", "undecodable"),
        (good()[:200], "undecodable"),
        (png_header(20_000, 20_000), "picture_too_large"),
    ],
)
def test_what_cannot_be_decoded(pool: DecoderPool, data: bytes, reason: str) -> None:
    outcome = pool.decode(io.BytesIO(data), SPEC)
    assert outcome.decoded is None
    assert outcome.error is not None
    assert outcome.error.reason == reason
    assert outcome.sha256 == hashlib.sha256(data).hexdigest()
    after = pool.decode(io.BytesIO(good()), SPEC)  # the next one is not harmed
    assert after.error is None


def test_too_many_bytes_are_not_read_to_their_end() -> None:
    with DecoderPool(1, Limits(max_bytes=3_000_000)) as pool:
        file = io.BytesIO(bytes(20_000_000))
        outcome = pool.decode(file, SPEC)
        assert outcome.error is not None
        assert outcome.error.reason == "file_too_large"
        assert outcome.sha256 is None
        assert file.tell() <= 4 * (1 << 20)
        assert pool.decode(io.BytesIO(good()), SPEC).error is None


def test_a_large_file(pool: DecoderPool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (2048, 2048), dtype=np.uint8)
    from PIL import Image

    data = encode(Image.fromarray(noise), "BMP")
    assert len(data) > 4 * (1 << 20)
    outcome = pool.decode(io.BytesIO(data), SPEC)
    assert outcome.decoded is not None
    assert np.array_equal(outcome.decoded.pixels, decode(data, SPEC, Limits()).pixels)
    assert outcome.sha256 == hashlib.sha256(data).hexdigest()


def test_what_the_system_refuses_to_read_is_unreadable(pool: DecoderPool) -> None:
    with open("/proc/self/mem", "rb", buffering=0) as file:  # nothing is mapped at its start: EIO
        outcome = pool.decode(file, SPEC)  # type: ignore[arg-type]
    assert outcome.error is not None
    assert outcome.error.reason == "unreadable"
    assert outcome.sha256 is None
    assert pool.decode(io.BytesIO(good()), SPEC).error is None


def test_three_deaths_give_a_picture_up(pool: DecoderPool) -> None:
    trap = Trap(good(), kill, times=3)
    outcome = pool.decode(trap, SPEC)
    assert trap.left == 0
    assert outcome.error is not None
    assert outcome.error.reason == "decoder_crashed"
    assert "signal 9" in str(outcome.error)
    assert outcome.sha256 == hashlib.sha256(good()).hexdigest()
    assert pool.decode(io.BytesIO(good()), SPEC).error is None


def test_one_death_does_not(pool: DecoderPool) -> None:
    outcome = pool.decode(Trap(good(), kill), SPEC)
    assert outcome.error is None
    assert outcome.decoded is not None
    outcome = pool.decode(Trap(good(), kill, times=2), SPEC)
    assert outcome.error is None


def test_a_decoder_that_died_between_pictures_is_replaced(pool: DecoderPool) -> None:
    pool.decode(io.BytesIO(good()), SPEC)
    (child,) = children()
    kill(child)
    until(lambda: child not in children(), "the end of the decoder")
    assert pool.decode(Trap(good(), lambda _: None), SPEC).error is None


def test_a_hang_is_ended_and_given_up() -> None:
    with DecoderPool(1, Limits(decode_seconds=1.5)) as pool:
        trap = Trap(good(), stop, times=3)
        outcome = pool.decode(trap, SPEC)
        assert trap.left == 0
        assert outcome.error is not None
        assert outcome.error.reason == "decoder_timeout"
        assert "1.5" in str(outcome.error)
        assert children() == []
        assert pool.decode(io.BytesIO(good()), SPEC).error is None


def test_each_hang_is_ended_whatever_came_before() -> None:
    before = threading.active_count()
    with DecoderPool(2, Limits(decode_seconds=1.5)) as pool:
        for seed in range(2):
            assert pool.decode(io.BytesIO(good(seed)), SPEC).error is None
            outcome = pool.decode(Trap(good(seed), stop), SPEC)
            assert outcome.error is None  # at the second attempt
            assert outcome.seconds > 1.5
            assert threading.active_count() == before + 1  # one for all pictures
    assert threading.active_count() == before


def test_abort_ends_what_is_decoding() -> None:
    pool = DecoderPool(1, Limits())
    stopped = threading.Event()

    def hang(child: int) -> None:
        stop(child)
        stopped.set()

    with ThreadPoolExecutor(1) as executor:
        waiting = executor.submit(pool.decode, Trap(good(), hang), SPEC)
        assert stopped.wait(30)
        pool.abort()
        with pytest.raises(DecodingAborted):
            waiting.result(timeout=30)
    pool.close()
    assert children() == []


def test_more_threads_than_processes() -> None:
    pictures = [good(seed) for seed in range(24)]
    with DecoderPool(2, Limits()) as pool, ThreadPoolExecutor(6) as executor:
        outcomes = list(executor.map(lambda data: pool.decode(io.BytesIO(data), SPEC), pictures))
        assert len(children()) == 2
    for data, outcome in zip(pictures, outcomes, strict=True):
        assert outcome.decoded is not None
        assert np.array_equal(outcome.decoded.pixels, decode(data, SPEC, Limits()).pixels)


def test_few_pictures_need_few_processes() -> None:
    with DecoderPool(4, Limits()) as pool:
        for seed in range(8):
            pool.decode(io.BytesIO(good(seed)), SPEC)
        assert len(children()) == 1


def test_models_that_take_other_pictures_share_a_process(pool: DecoderPool) -> None:
    for spec in (SPEC, ImageInput(40, 24, 3), ImageInput(40, 24, 3), SignalInput(1, 8), SPEC):
        outcome = pool.decode(io.BytesIO(b"1,2,3,4,5,6,7,8" if spec.kind == "signal" else good()), spec)
        assert outcome.decoded is not None
        assert (outcome.decoded.pixels.shape, str(outcome.decoded.pixels.dtype)) == (spec.shape, spec.dtype)
    assert len(children()) == 1


def interfere(folder: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    """Has decoders run a piece of Python while a picture is decoded: when Pillow loads what reads PNG."""
    folder.joinpath("sitecustomize.py").write_text(
        "import os, sys\n"
        "def hook(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'PIL.PngImagePlugin':\n"
        f"        {what}\n"
        "sys.addaudithook(hook)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_what_a_library_prints_is_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: DecoderPool) -> None:
    interfere(tmp_path, monkeypatch, "os.write(1, b'libpng warning: iCCP: known incorrect sRGB profile\\n')")
    for seed in range(3):
        outcome = pool.decode(io.BytesIO(good(seed)), SPEC)
        assert outcome.decoded is not None
        assert np.array_equal(outcome.decoded.pixels, decode(good(seed), SPEC, Limits()).pixels)


ANSWERS = "next(fd for fd in range(3, 100) if os.path.exists(f'/proc/self/fd/{fd}'))"


@pytest.mark.parametrize(
    "answer",
    [
        b"libpng warning: known incorrect\n",
        b"\1",
        struct.pack("<B32sIIB", len(REASONS) + 1, bytes(32), 0, 0, 0) + b"x",  # a reason that is none
        struct.pack("<B32sIIB", 0, bytes(32), 32, 32, 1) + bytes(60_000),  # a mode without end
        struct.pack("<B32sIIB", 0, bytes(32), 32, 32, 77) + b"L",
    ],
)
def test_an_answer_that_is_none_counts_as_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: DecoderPool, answer: bytes
) -> None:
    interfere(tmp_path, monkeypatch, f"os.write({ANSWERS}, {answer!r})")
    outcome = pool.decode(io.BytesIO(good()), SPEC)
    assert outcome.error is not None
    assert outcome.error.reason == "decoder_crashed"
    assert "malformed" in str(outcome.error)
    assert outcome.sha256 == hashlib.sha256(good()).hexdigest()
    assert children() == []
    monkeypatch.delenv("PYTHONPATH")
    assert pool.decode(io.BytesIO(good()), SPEC).error is None


def test_an_end_without_an_answer_is_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pool: DecoderPool
) -> None:
    interfere(tmp_path, monkeypatch, "os._exit(3)")
    outcome = pool.decode(io.BytesIO(good()), SPEC)
    assert outcome.error is not None
    assert outcome.error.reason == "decoder_crashed"
    assert "exit code 3" in str(outcome.error)


def test_the_shared_memory_cannot_be_cut_short(pool: DecoderPool) -> None:
    """A look at memory that is gone would kill the parent."""
    pool.decode(io.BytesIO(good()), SPEC)
    (memory,) = [file for file in Path("/proc/self/map_files").iterdir() if "memfd:edged" in os.readlink(file)]
    with pytest.raises(PermissionError):
        os.truncate(memory, 0)


def test_nothing_is_imported_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PIL.py", "edged.py", "json.py"):
        (tmp_path / name).write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    with DecoderPool(1, Limits()) as pool:
        assert pool.decode(io.BytesIO(good()), SPEC).error is None
    assert not (tmp_path / "owned").exists()


def test_decoders_do_not_outlive_their_parent(tmp_path: Path) -> None:
    program = (
        "import io, sys, time\n"
        "from edged.media.decoding import DecoderPool\n"
        "from edged.media.imaging import ImageInput, Limits\n"
        "pool = DecoderPool(1, Limits())\n"
        "assert pool.decode(io.BytesIO(sys.stdin.buffer.read()), ImageInput(32, 32, 1)).error is None\n"
        "print('decoded', flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        parent.stdin.write(good())
        parent.stdin.close()
        assert parent.stdout.readline() == b"decoded\n"
        (decoder,) = children(parent.pid)
        parent.kill()
    until(lambda: not Path(f"/proc/{decoder}/cmdline").exists() or _is_zombie(decoder), "the end of the decoder")


def test_decoders_take_bounded_memory_and_write_no_files_and_are_the_first_to_go(pool: DecoderPool) -> None:
    pool.decode(io.BytesIO(good()), SPEC)
    (child,) = children()
    limits = Path(f"/proc/{child}/limits").read_text().splitlines()
    soft = {line[:26].strip(): line[26:].split()[0] for line in limits[1:]}
    assert int(soft["Max address space"]) == (1 << 30) + 16 * 100_000_000 + 2 * 100_000_000
    assert soft["Max file size"] == "0"
    assert soft["Max core file size"] == "0"
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(Path(f"/proc/{child}/oom_score_adj").read_text()) == max(500, own)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True

import io

import numpy as np
import pytest

from edged import inputs
from edged.decoding import DecoderPool
from edged.errors import PictureError
from edged.imaging import Limits
from edged.signals import SignalInput, decode

EIGHT = SignalInput(1, 8)


def npy(array: np.ndarray, *, allow_pickle: bool = False) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=allow_pickle)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        npy(np.arange(8)),
        npy(np.arange(8.0)[None]),
        b"0,1,2,3,4,5,6,7\n",
        b"0;1;2;3\t4 5  6;7",
        b"volts\n" + b"".join(b"%d\n" % number for number in range(8)),
    ],
)
def test_one_channel(data: bytes) -> None:
    values = decode(data, EIGHT, Limits())
    assert values.dtype == np.float32
    assert values.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_rows_are_moments_and_columns_channels() -> None:
    text = b"a,b\n" + b"".join(b"%d,%d\n" % (number, 10 * number) for number in range(8))
    assert decode(text, SignalInput(2, 8), Limits()).tolist() == [list(range(8)), list(range(0, 80, 10))]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"a,b\nc,d\n", "undecodable"),
        (b"1,2\n3\n", "undecodable"),
        (b"1,2,3\n", "unsupported"),
        (b"1,2,3,4,5,6,7,nan\n", "unsupported"),
        (npy(np.arange(8))[:-3], "undecodable"),
        (b"\x93NUMPY\x01\x00zz", "undecodable"),
        (npy(np.array([{}] * 8, dtype=object), allow_pickle=True), "unsupported"),
        (b"\xff\xfe\x00", "undecodable"),
    ],
)
def test_what_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(PictureError) as caught:
        decode(data, EIGHT, Limits())
    assert caught.value.reason == reason


def test_a_header_that_promises_too_much_costs_no_memory() -> None:
    data = npy(np.arange(8.0)).replace(b"(8,)", b"(8000000000000,)".ljust(4))
    with pytest.raises(PictureError):
        decode(data, EIGHT, Limits())


def test_decoder_processes_take_signals_too() -> None:
    with DecoderPool(1, Limits()) as pool:
        outcome = pool.decode(io.BytesIO(b"0,1,2,3,4,5,6,7"), EIGHT)
    assert outcome.error is None
    assert outcome.decoded is not None
    assert outcome.decoded.pixels.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_an_input_comes_back_from_its_keys() -> None:
    assert inputs.from_dict({"kind": "signal", "channels": 1, "length": 8}) == EIGHT

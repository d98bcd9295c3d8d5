import io

import numpy as np
import pytest

from edged.errors import PictureError
from edged.media import inputs
from edged.media.decoding import DecoderPool
from edged.media.imaging import Limits
from edged.media.signals import SignalInput, decode, parse

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
        b"0 1 2  3 4 5 6 7",
        b"0; 1; 2; 3; 4; 5; 6; 7;\r\n",
        b"\xef\xbb\xbf0\t1\t2\t3\t4\t5\t6\t7",
        b"channel 1\n\n" + b"".join(b" %d \n" % number for number in range(8)),
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


@pytest.mark.parametrize("separator", [b",", b";", b"\t", b" "])
def test_two_channels_whatever_parts_them(separator: bytes) -> None:
    lines = [b'"ch a"', *(b"%d" % n for n in range(8))], [b'"ch b"', *(b"-%d.5" % n for n in range(8))]
    text = b"\n".join(a + separator + b for a, b in zip(*lines, strict=True))
    values = decode(text, SignalInput(2, 8), Limits())
    assert values.tolist() == [list(range(8)), [-n - 0.5 for n in range(8)]]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("0,076;0,977\n0,1;0,2\n", "separated by ';' and ','; use one, and no decimal comma (0,076); write a decimal"),
        ("a;b\n0,076\t0,977\n0,1\t0,2\n", "separated by '\\t' and ','"),
        ("0,076\n0,977\n", "no number has a point, and some begin with 0 as in decimal comma (0,076)"),
        ("A,B\n0.07,\n,0.98\n0.08,\n,0.99\n", "line 2, column 2: is empty; every channel needs a number"),
        ("0.07,0.1\n\n0.08, \n", "line 3, column 2: is empty"),
        ("1.0,x\n2.0,3\n", "line 1, column 2: is not a number: 'x'"),
        ("a,b\nc,d\n1,2\n", "line 2, column 1: is not a number: 'c'"),
        ("1_5,2\n3,4\n", "line 1, column 1: is not a number: '1_5'"),
        ("1,2\n3\n", "line 1, column 1: is not a number: '1,2'"),
        ("1,2\n3,4,5\n", "line 2 has 3 numbers, and the first has 2"),
        ("a,b\n", "there is no line of numbers"),
    ],
)
def test_no_value_is_guessed(text: str, why: str) -> None:
    with pytest.raises(PictureError) as caught:
        parse(text.encode(), Limits())
    assert caught.value.reason == "undecodable"
    assert why in str(caught.value)


def test_more_samples_than_the_limit_are_refused() -> None:
    assert parse(b"1,2\n3,4\n", Limits(max_pixels=4)).shape == (2, 2)
    with pytest.raises(PictureError, match=r"max_pixels = 3"):
        parse(b"1,2\n3,4\n", Limits(max_pixels=3))


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

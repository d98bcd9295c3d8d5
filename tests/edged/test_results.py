import json
import os
from datetime import UTC, datetime

import numpy as np
import pytest

from edged.errors import PictureError
from edged.results import (
    ModelIdentity,
    Record,
    Result,
    display_path,
    make_record,
    new_id,
    printable,
    rfc3339,
    short_name,
    time_of,
)
from tests.edged.making import quarantined, record

KEYS = [
    "id",
    "source",
    "path",
    "sha256",
    "captured_at",
    "scored_at",
    "model",
    "model_sha256",
    "device",
    "score",
    "threshold",
    "p_value",
    "is_anomaly",
    "status",
    "reason",
    "error",
    "timings_ms",
    "calibration_sha256",
    "score_ratio",
]


def make(result: Result | PictureError) -> Record:
    return make_record(
        result,
        id_="1",
        source="line1",
        path="/in/a.png",
        sha256=None,
        captured_at=1.0,
        model=ModelIdentity("tiny", "ab", "cpu", "ef"),
        decode_seconds=0.0021,
    )


def test_the_contract_of_one_result() -> None:
    one = record()
    assert list(one.to_dict()) == KEYS
    assert json.loads(one.to_json()) == {
        "id": one.id,
        "source": "line1",
        "path": "/in/a.png",
        "sha256": "ab" * 32,
        "captured_at": "2023-11-14T22:13:20.125Z",
        "scored_at": "2023-11-14T22:13:21.500Z",
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
        "calibration_sha256": None,
        "score_ratio": 0.5,
    }


def test_a_line_is_one_line_of_ascii_and_paths_come_back() -> None:
    path = b"/in/line\nfeed\r\x1b[31m \"quote' \xff\xfe \xe2\x98\x83.png"
    line = record(path=os.fsdecode(path)).to_json()
    assert line.isascii()
    assert line.isprintable()
    assert os.fsencode(json.loads(line)["path"]) == path


def test_what_is_no_number_is_never_written() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        record(score=float("nan")).to_json()


def test_make_record_of_a_result() -> None:
    result = Result("1", "line1", 2.0, 0.5, 0.01, True, np.zeros((8, 8), np.float32), "tiny", {"infer": 9.8})
    made = make(result)
    assert (made.score, made.threshold, made.p_value, made.is_anomaly) == (2.0, 0.5, 0.01, True)
    assert (made.status, made.reason, made.error) == ("ok", None, None)
    assert made.timings_ms == {"decode": 2.1, "infer": 9.8}
    assert made.calibration_sha256 == "ef"
    assert abs(made.scored_at - datetime.now(UTC).timestamp()) < 60


def test_make_record_of_an_error() -> None:
    made = make(PictureError("undecodable", "truncated"))
    assert (made.score, made.threshold, made.p_value, made.is_anomaly) == (None,) * 4
    assert (made.status, made.reason, made.error) == ("quarantined", "undecodable", "truncated")
    assert made.timings_ms == {"decode": 2.1}
    assert (quarantined().to_dict()["score"], quarantined().to_dict()["score_ratio"]) == (None, None)
    assert record(threshold=0.0).score_ratio is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (1_763_820_000.1234, "2025-11-22T14:00:00.123Z"),
        (1_763_820_000.9996, "2025-11-22T14:00:01.000Z"),
        (-0.001, "1969-12-31T23:59:59.999Z"),
        (-1e18, "0001-01-01T00:00:00.000Z"),
        (1e18, "9999-12-31T23:59:59.999Z"),
    ],
)
def test_rfc3339(seconds: float, text: str) -> None:
    assert rfc3339(seconds) == text


def test_ids_are_unique_and_in_the_order_of_time() -> None:
    ids = [new_id() for _ in range(10_000)]
    assert len(set(ids)) == 10_000
    assert {len(one) for one in ids} == {26}
    assert ids == sorted(ids)
    assert abs(time_of(ids[0]) - datetime.now(UTC).timestamp()) < 60


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é ☃ 😀.png", "plain é ☃ 😀.png"),
        ("a\nb\tc", "a\\nb\\tc"),
        ("\x1b[2J", "\\x1b[2J"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u2028", "\\u2028"),
        ("\udcff", "\\udcff"),
        ("\x7f\x80", "\\x7f\\x80"),
    ],
)
def test_printable(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_display_path() -> None:
    assert display_path(b"/in/\xff\n") == "/in/\\udcff\\n"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/in/a/b.png", "b.png"),
        ("part004.png", "part004.png"),
        ("cell3/left/picture", "cell3/left/picture"),
        ("rtsp://host/live#t=1.5", "live#t=1.5"),
    ],
)
def test_a_short_name_tells_pictures_apart(path: str, name: str) -> None:
    assert short_name(path) == name

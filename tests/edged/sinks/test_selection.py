from typing import Any

import pytest

from edged.settings import SinkTable
from edged.sinks.selection import Selection
from tests.edged.making import quarantined, record

GOOD, BAD, BROKEN = record(score=0.25), record(score=2.0, is_anomaly=True), quarantined()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def select(clock: Clock | None = None, **keys: Any) -> Selection:
    return Selection(SinkTable(name="out", type="test", **keys), clock or Clock())


@pytest.mark.parametrize(
    ("keys", "wanted"),
    [
        ({}, [GOOD, BAD, BROKEN]),
        ({"only": "anomalies"}, [BAD]),
        ({"min_score": 0.25}, [GOOD, BAD]),
        ({"min_score": 0.26}, [BAD]),
        ({"only": "anomalies", "min_score": 2.5}, []),
    ],
)
def test_which(keys: dict[str, Any], wanted: list[Any]) -> None:
    selection = select(**keys)
    assert [one for one in (GOOD, BAD, BROKEN) if selection.wants(one)] == wanted


def test_never_more_than_the_limit_in_any_minute() -> None:
    clock = Clock()
    selection = select(clock, rate_limit=3)
    assert (selection.room(), selection.pause_s()) == (3, None)
    selection.given(2)
    clock.now += 50
    assert selection.claim()
    assert not selection.claim()
    assert (selection.room(), selection.pause_s()) == (0, 10.0)
    clock.now += 10
    assert (selection.room(), selection.pause_s()) == (2, None)
    clock.now += 50
    assert selection.room() == 3


def test_without_a_limit_there_is_always_room() -> None:
    selection = select()
    selection.given(10**6)
    assert (selection.room(), selection.pause_s(), selection.claim()) == (None, None, True)

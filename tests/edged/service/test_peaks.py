import pytest

from edged.results import Record
from edged.service.peaks import Peaks
from tests.edged.making import quarantined, record


def frame(at: float, score: float = 0.25, source: str = "cam") -> Record:
    return record(source=source, captured_at=at, score=score, is_anomaly=score > 0.5)


def told(peaks: Peaks) -> list[tuple[float, float, bool]]:
    return [(point.at, point.ratio, point.is_anomaly) for point in peaks.of("cam")]


def test_the_highest_score_of_a_second_stays_whatever_comes_beside_it() -> None:
    peaks = Peaks()
    for number in range(100):
        peaks.take(frame(10 + number / 50, score=5.0 if number == 37 else 0.1))
    assert told(peaks) == [(10, 10.0, True), (11, 0.2, False)]
    peaks.take(frame(10.99, score=6.0))  # another worker was faster
    assert told(peaks)[0] == (10, 12.0, True)
    peaks.take(frame(9.5))
    assert [point.at for point in peaks.of("cam")] == [9, 10, 11]


def test_no_more_is_kept_than_is_shown_and_each_stream_for_itself() -> None:
    peaks = Peaks()
    for second in range(1000):
        peaks.take(frame(second * 7.0))
        peaks.take(frame(0.0, source="other"))
    assert [point.at for point in peaks.of("cam")] == [second * 7 for second in range(880, 1000)]
    assert len(peaks.of("other")) == 1
    peaks.forget("cam")
    peaks.forget("cam")
    assert (peaks.of("cam"), len(peaks.of("other"))) == ([], 1)


@pytest.mark.parametrize("hours", [-1, 1])
def test_a_clock_that_is_set_back_or_forth_costs_nothing_of_what_comes(hours: int) -> None:
    peaks = Peaks()
    for second in range(500):
        peaks.take(frame(1e9 + second))
    for second in range(120):
        peaks.take(frame(1e9 + hours * 3600 + second, score=1.0))
    assert [point.is_anomaly for point in peaks.of("cam")] == [True] * 120


def test_frames_of_the_last_minute_are_counted() -> None:
    peaks = Peaks()
    assert peaks.last_minute("cam") == 0
    for number in range(300):
        peaks.take(frame(number * 60.0))
    peaks.take(quarantined(source="cam"))
    assert peaks.last_minute("cam") == 301
    assert peaks.last_minute("other") == 0

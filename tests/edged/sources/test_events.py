"""When events open and close, on scores that are given."""

import itertools
import json
from dataclasses import replace
from typing import Any

import numpy as np

from edged.results import Frame, Record, Result
from edged.sources.contract import Scored
from edged.sources.events import SILENCE_S, EventRules, Moment, Tracker
from tests.edged.making import record

RULES = EventRules(open_frames=3, of_frames=5, close_frames=4, close_ratio=0.8, merge_seconds=1.0)
START = 1_700_000_000.0


def scored(score: float, at: float) -> Scored:
    result = Result("f", "cam", score, 1.0, 0.01, score > 1.0, np.zeros((2, 2), np.float32), "tiny", {})
    frame = Frame("cam", "f", at, np.zeros((32, 32, 1), np.uint8))
    about = record(source="cam", path="x", score=score, threshold=1.0, is_anomaly=score > 1.0, scored_at=at)
    return Scored(frame, result, about)


def tracker(**changes: Any) -> Tracker:
    return Tracker(replace(RULES, **changes), "/v.mp4", is_file=True)


def follow(one: Tracker, scores: list[float], *, begin: float = 0.0, step: float = 0.1) -> list[Record]:
    changes = []
    for number, score in enumerate(scores):
        seconds = begin + number * step
        changes += one.step(Moment(START + seconds, seconds), scored(score, START + seconds))
    return changes


def about(changes: list[Record]) -> list[tuple[str, float, float, float, int]]:
    return [
        (
            one.event.state,
            round(one.event.started_at - START, 3),
            round(one.event.peak_at - START, 3),
            round(one.event.ended_at - START, 3),
            one.event.frames,
        )
        for one in changes
        if one.event is not None
    ]


def test_it_opens_when_enough_of_the_last_frames_are_above_and_closes_when_all_are_below() -> None:
    changes = follow(tracker(), [0.1, 2, 0.1, 3, 2, 5, 0.9, 0.85, *[0.1] * 12])
    assert about(changes) == [("open", 0.1, 0.3, 0.4, 4), ("closed", 0.1, 0.5, 0.7, 7)]
    opened, closed = changes
    assert opened.id == closed.id
    assert (opened.score, closed.score, closed.is_anomaly) == (3, 5, True)
    assert closed.path == "/v.mp4"
    assert closed.event is not None
    assert closed.event.offset_s == 0.1
    assert closed.to_dict()["kind"] == "event"
    assert closed.to_dict()["peak_score"] == 5


def test_too_few_above_among_the_last_are_no_event() -> None:
    assert follow(tracker(), [2, 2, 0.1, 0.1, 0.1, 0.1] * 20) == []


def test_what_comes_back_soon_is_the_same_event_and_later_is_another() -> None:
    pause = [0.1] * 9
    changes = follow(tracker(), [*[2.0] * 5, *pause, *[2.0] * 5, *[0.1] * 20, *[2.0] * 5])
    assert [one[0] for one in about(changes)] == ["open", "closed", "open"]
    assert about(changes)[1] == ("closed", 0.0, 0.0, 1.8, 19)
    assert changes[0].id == changes[1].id != changes[2].id


def test_between_the_levels_it_stays_as_it_is() -> None:
    assert follow(tracker(), [0.9] * 50) == []
    assert [one[0] for one in about(follow(tracker(), [*[2.0] * 3, *[0.9] * 50]))] == ["open"]


def test_a_long_silence_ends_it_where_it_was_last_seen() -> None:
    one = tracker()
    follow(one, [2.0] * 5)
    changes = follow(one, [2.0] * 3, begin=SILENCE_S + 1)
    assert [change[0] for change in about(changes)] == ["closed", "open"]
    assert about(changes)[0][3] == 0.4


def test_the_picture_is_that_of_the_peak_under_the_id_of_the_event() -> None:
    one = tracker()
    (opened,) = follow(one, [2, 7, 3])
    frame, result = one.picture() or (None, None)
    assert frame is not None
    assert result is not None
    assert (frame.frame_id, result.frame_id, result.score) == (opened.id, opened.id, 7)
    assert one.picture() is None
    follow(one, [8, 3], begin=0.3)
    assert (one.picture() or (None, result))[1].score == 8
    follow(one, [9, *[0.1] * 20], begin=0.5)
    assert (one.picture() or (None, result))[1].score == 9  # though it has closed meanwhile


def test_cut_off_anywhere_it_goes_on_as_if_nothing_had_been() -> None:
    scores = [0.1, 2, 0.1, 3, 2, 5, 0.9, 0.1, 0.1, 2, *[0.1] * 20, *[2.0] * 4, *[0.1] * 20]
    whole = about(follow(tracker(), scores))
    assert len(whole) == 4
    for cut in range(len(scores)):
        first, second = tracker(), tracker()
        before = follow(first, scores[:cut])
        second.restore(json.loads(json.dumps(first.remember())))
        after = follow(second, scores[cut:], begin=cut * 0.1)
        assert about(before + after) == whole, cut
        ids = [one.id for one in before + after]
        assert ids[0] == ids[1]
        assert ids[2] == ids[3]


def times(one: Tracker) -> list[float]:
    picture = one.picture()
    assert picture is not None
    return [round(shot.seconds - picture[0].started, 3) for shot in picture[0].shots]


def test_an_event_is_drawn_with_pictures_before_in_and_after_it() -> None:
    one = tracker()
    (opened,) = follow(one, [*[0.1] * 20, 2, 2, 3])
    picture = one.picture()
    assert picture is not None
    assert picture[0].frame_id == picture[1].frame_id == opened.id
    assert [shot.ratio for shot in picture[0].shots] == [0.1] * 4 + [2, 2, 3]
    follow(one, [*[0.1] * 12], begin=2.3)
    assert times(one) == [-0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6]


def test_of_a_long_event_as_many_pictures_are_kept_as_of_a_short_one() -> None:
    one = tracker()
    follow(one, [*[0.1] * 20, *[2] * 1000, *[0.1] * 20])
    found = times(one)
    assert len(found) <= 4 + 16 + 4
    inside = [seconds for seconds in found if 0 <= seconds < 100]
    assert len(inside) >= 8
    assert len({round(b - a, 3) for a, b in itertools.pairwise(inside)}) == 1  # evenly
    assert found[-4:] == [100, 100.1, 100.2, 100.3]


def test_after_a_restart_the_picture_stays_as_it_was_until_a_higher_peak() -> None:
    one = tracker()
    follow(one, [*[0.1] * 8, 2, 2, 3])
    again = tracker()
    again.restore(json.loads(json.dumps(one.remember())))
    follow(again, [2, 2], begin=1.1)
    assert again.picture() is None
    follow(again, [4, *[0.1] * 12], begin=1.3)
    assert times(again) == [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]

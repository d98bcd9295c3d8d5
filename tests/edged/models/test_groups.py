"""Few groups are few cases."""

import numpy as np
import pytest
from numpy.typing import NDArray

from edged.models.groups import compare, margin_of


def grouped_scores(levels: list[float], each: int = 5) -> tuple[NDArray[np.float64], list[NDArray[np.int64]]]:
    scores = np.repeat(np.asarray(levels, dtype=np.float64), each)
    return scores, np.split(np.arange(len(scores)), len(levels))


def test_few_groups_that_differ_leave_room_for_the_next_one() -> None:
    assert margin_of(*grouped_scores([2.0, 2.0, 2.0])) == pytest.approx(1.0)
    levels = [1.94, 3.18, 4.72]
    logs = np.log(levels)
    limit = np.exp(logs.mean() + 1.886 * logs.std(ddof=1) * (4 / 3) ** 0.5)
    assert margin_of(*grouped_scores(levels)) == pytest.approx(limit / 4.72)
    assert margin_of(*grouped_scores([1.0, 10.0])) == 2.0


def test_many_groups_and_single_pictures_need_no_room() -> None:
    levels = np.exp(np.random.default_rng(0).normal(0, 1, 100)).tolist()
    assert margin_of(*grouped_scores(levels)) == 1.0
    assert margin_of(*grouped_scores(levels, each=1)) == 1.0
    # Of groups whose levels are exchangeable, the next one lies below that with 90 %.
    random, below = np.random.default_rng(1), 0
    for _ in range(2000):
        *some, following = np.exp(random.normal(0, 0.15, 5)).tolist()
        below += following <= max(some) * margin_of(*grouped_scores(some))
    assert 0.87 < below / 2000 < 0.95


def test_the_group_that_is_least_like_the_others_is_named() -> None:
    names, scores = [*"aabbcc"], np.array([1.0, 1.0, 5.0, 5.0, 2.0, 2.0])
    words, warnings = compare(names, scores, 1.5)
    assert words == "least like the others: b scores 5 where it was not learnt, the others 1 to 2"
    assert warnings == [
        f"odd-group: {words}. Is all well in it? If so, add more like it",
        "few-groups: 3 groups that differ so much say little of the next one, so the threshold is 1.50 times what they "
        "give; add stretches of other times",
    ]
    assert compare(names, np.array([1.0, 1.0, 2.0, 2.0, 1.5, 1.5]), 1.0)[1] == []

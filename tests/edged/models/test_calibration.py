import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edged.models.calibration import Threshold, conformal_threshold, p_value, pictures_needed


@pytest.mark.parametrize(("rate", "needed"), [(0.01, 99), (0.05, 19), (0.1, 9), (0.5, 1), (0.001, 999), (0.02, 49)])
def test_pictures_needed(rate: float, needed: int) -> None:
    assert pictures_needed(rate) == needed


@pytest.mark.parametrize(
    ("n", "rate", "rank"),
    [(99, 0.01, 99), (100, 0.01, 100), (199, 0.01, 198), (999, 0.01, 990), (99, 0.1, 90), (9, 0.1, 9), (19, 0.05, 19)],
)
def test_the_threshold_is_the_stated_order_statistic(n: int, rate: float, rank: int) -> None:
    scores = np.random.default_rng(0).permutation(np.arange(1.0, n + 1))
    threshold = conformal_threshold(scores, rate)
    assert threshold == Threshold(float(rank), rate, n, pictures_needed(rate))
    assert threshold.promised
    assert threshold.shortfall is None


def test_too_few_pictures_give_the_largest_and_say_so() -> None:
    threshold = conformal_threshold([0.3, 0.1, 0.2], 0.01)
    assert threshold.value == 0.3
    assert not threshold.promised
    assert threshold.shortfall is not None
    for part in ("3 calibration scores", "0.01", "99", "0.25"):
        assert part in threshold.shortfall


def test_a_threshold_of_the_operators_promises_nothing_and_lacks_nothing() -> None:
    threshold = Threshold(3.2, None, 10, 99)
    assert (threshold.promised, threshold.shortfall) == (False, None)


@pytest.mark.parametrize("rate", [0.0, 1.0, -0.1, 1.5, math.nan])
def test_a_rate_is_between_0_and_1(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0 and below 1"):
        conformal_threshold([1.0], rate)


def test_p_value() -> None:
    ordered = np.array([1.0, 2.0, 2.0, 3.0])
    assert [p_value(ordered, score) for score in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 9.0)] == [
        1.0,
        1.0,
        0.8,
        0.8,
        0.4,
        0.4,
        0.2,
    ]


@given(
    st.lists(st.floats(0.001, 1000), min_size=1, max_size=300),
    st.sampled_from([0.01, 0.05, 0.1, 0.2, 0.3]),
    st.floats(0.001, 1000),
)
def test_an_anomaly_is_a_p_value_up_to_the_rate(scores: list[float], rate: float, score: float) -> None:
    threshold = conformal_threshold(scores, rate)
    if threshold.promised:
        n = len(scores)
        exact = Fraction(round(p_value(np.sort(scores), score) * (n + 1)), n + 1)  # as floats, equal ones may differ
        assert (score > threshold.value) == (exact <= Fraction(str(rate)))


def test_the_promise_holds_on_average() -> None:
    rng = np.random.default_rng(1)
    flagged = [
        float((rng.exponential(size=200) > conformal_threshold(rng.exponential(size=99), 0.05).value).mean())
        for _ in range(500)
    ]
    assert np.mean(flagged) == pytest.approx(0.05, abs=0.004)  # three standard errors


def test_no_promise_rests_on_pictures_that_were_chosen() -> None:
    scores = np.arange(1, 120) / 100
    assert conformal_threshold(scores, 0.01).promised
    among = conformal_threshold(scores, 0.01, confirmed=30)
    assert among.value == conformal_threshold(scores, 0.01).value
    assert not among.promised
    assert (among.shortfall or "").startswith("89 calibration scores cannot promise")
    assert "is 0.0111." in (among.shortfall or "")

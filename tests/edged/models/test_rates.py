"""What more recall costs."""

import numpy as np

from edged.models.rates import choices, told_apart


def test_each_rate_has_its_threshold_and_what_lies_above() -> None:
    made = choices(np.arange(1.0, 301.0), [250.0, 299.5, 400.0], 0.03)
    assert [choice.target_fpr for choice in made] == [0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1]
    assert [choice.threshold.value for choice in made] == [300, 300, 298, 295, 292, 286, 271]
    assert [choice.flagged for choice in made] == [0, 0, 2, 5, 8, 14, 29]
    assert [choice.found for choice in made] == [1, 1, 2, 2, 2, 2, 2]
    assert [choice.in_force for choice in made] == [False] * 4 + [True] + [False] * 2
    assert made[2].line == "target_fpr = 0.01"
    assert (round(made[2].within.low, 4), round(made[2].within.high, 4)) == (0.0008, 0.0239)
    assert choices([1.0], [], 0.01)[0].found is None


def test_rates_of_one_threshold_are_told_apart_by_more_pictures() -> None:
    (said,) = told_apart(choices(np.arange(1.0, 301.0), [], 0.01), "pictures")
    assert said.startswith("0.001 and 0.005 have the same threshold, 300: 300 scores are too few to tell them apart; ")
    assert said.endswith("399 good pictures begin to")
    apart = choices(np.arange(1.0, 400.0), [], 0.01)
    assert apart[0].threshold.value > apart[1].threshold.value
    assert told_apart(apart, "pictures") == []

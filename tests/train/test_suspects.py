"""The page of good pictures that a person should look at."""

import numpy as np

from edged.models.calibration import conformal_threshold
from train import suspects
from train.suspects import Suspect


def test_the_highest_scores_are_shown_and_every_outlier():
    scores = np.arange(100.0)
    assert suspects.chosen(scores, 0) == [99, 98, 97, 96, 95, 94, 93, 92]
    assert len(suspects.chosen(scores, 20)) == 20
    assert len(suspects.chosen(scores, 90)) == 40
    assert suspects.chosen(scores[:3], 0) == [2, 1, 0]


def test_what_the_threshold_and_recall_would_be_without_one():
    scores, bad = np.array([*np.linspace(1, 2, 98), 40.0]), np.array([1.5, 3.0, 50.0])
    assert conformal_threshold(scores, 0.01).value == 40.0
    assert suspects.without(scores, 98, 0.01, bad) == (2.0, 2)
    assert suspects.without(scores, 0, 0.01, None) == (40.0, None)


def test_a_map_is_at_the_level_of_the_score_that_calibrates():
    heat = np.array([[0.01, 0.02]], np.float32)
    np.testing.assert_allclose(suspects.without_itself(heat, 0.1, that_calibrates=7.0), [[0.7, 1.4]], rtol=1e-6)
    np.testing.assert_array_equal(suspects.without_itself(heat, 0.1, that_calibrates=0.1), heat)


def test_a_page_escapes_names_and_lists_outliers_to_exclude():
    image, heat = np.zeros((32, 32, 1), np.uint8), np.full((8, 8), 5.0, np.float32)
    shown = [
        Suspect("/good/<b>\n.png", image, heat, 40.0, True, 2.0, 2),
        Suspect("/good/b.csv", np.zeros((1, 50), np.float32), np.ones((1, 5), np.float32), 1.9, False, 40.0, 1),
        Suspect("/good/c.png", None, None, 1.8, False, 40.0, 1),
    ]
    made = suspects.page(
        shown, threshold=conformal_threshold([1.0, 40.0], 0.5), found=1, coloured_from=1.0, plural="pictures"
    )
    assert "<pre>/good/&lt;b&gt;\\n.png</pre>" in made
    assert "without it: threshold 2, finds 2 in place of 1" in made
    assert made.count("data:image/png;base64,") == 2
    assert "<b>\n" not in made
    assert "It is not where it was, or has changed" in made

import numpy as np
import pytest

from edged.media.imaging import ImageInput
from edged.media.signals import SignalInput
from edged.models.calibration import conformal_threshold
from export.report import card, trust
from export.report.metrics import report
from export.report.plots import log_ticks
from train.data.pictures import Picture
from train.fit import outliers

TAKEN = ImageInput(8, 8, 1, "stretch", "bilinear")


def pictures(part, n):
    return [Picture(f"/good/{part}{index}.png", "", "", (8, 8), "L", index, part) for index in range(n)]


def good(fit, statistics, calibration):
    parts = {"fit": fit, "statistics": statistics, "calibration": calibration}
    return {part: (pictures(part, len(scores)), np.array(scores, dtype=float)) for part, scores in parts.items()}


def test_outliers_are_judged_among_their_like():
    # 2 is usual for pictures that the model was not fitted on, and strange for one that it was.
    fit, held_out = [0.9, 1.0, 1.1, 1.0, 0.95, 2.0], [1.8, 2.0, 2.2, 2.1, 1.9]
    (found,) = outliers.find(good(fit[:4], fit[4:], held_out))
    assert (found.path, found.part, found.score) == ("/good/statistics1.png", "statistics", 2.0)
    assert found.distance == pytest.approx(0.6745 * (2.0 - 1.0) / 0.075)


def test_low_scores_and_equal_scores_make_no_outliers():
    assert outliers.find(good([1.0, 1.0, 1.0, 1.0, 1.0, 1.005], [0.01], [2.0, 2.1, 1.9, 2.0, 0.01])) == []


def test_twelve_pictures_and_a_thousand():
    few = outliers.find(good([1.0, 1.1, 0.9, 1.0, 1.2, 0.8], [1.0], [0.9, 1.0, 1.1, 1.0, 9.0]))
    assert [outlier.path for outlier in few] == ["/good/calibration4.png"]
    rng = np.random.default_rng(0)
    many = outliers.find(good(rng.normal(10, 1, 800), rng.normal(10, 1, 100), [*rng.normal(12, 1, 99), 30.0]))
    assert many[0].score == 30.0
    assert len(many) <= 3
    assert outliers.find(good([], [1.0, 1.0], [1.0, 9.0])) == []  # four are too few to judge


@pytest.mark.parametrize(("cross", "how"), [(True, "left"), (False, "was held out")])
def test_groups_are_so_many_cases(cross, how):
    threshold = conformal_threshold(np.linspace(1, 2, 120), 0.01)
    said = trust.calibration(threshold, TAKEN, cross=cross, groups=3)
    assert f"in 3 groups, each of which {how} as a whole: what is said of 120 pictures is said of 3 cases." in said
    assert "groups" not in trust.calibration(threshold, TAKEN, cross=cross)


def test_a_threshold_that_rests_on_an_outlier_is_said_to():
    calibration = [*np.linspace(1, 2, 97), 30.0, 40.0]
    found = outliers.find(good([], [], calibration))
    at = {rate: conformal_threshold(calibration, rate) for rate in (0.01, 0.02, 0.05)}
    assert at[0.01].value == 40.0
    assert outliers.raised_from(found, np.array(calibration), at[0.01]) == 2.0
    assert outliers.raised_from(found, np.array(calibration), at[0.02]) == 2.0
    assert outliers.raised_from(found, np.array(calibration), at[0.05]) is None  # it rests on an ordinary score
    assert outliers.raised_from([], np.array(calibration), at[0.01]) is None
    parts = {"fit": 300, "statistics": 50, "calibration": 99}
    said = trust.sentences(at[0.01], None, found, parts, TAKEN, raised_from=2.0)[-1]
    assert "**The threshold rests on one of these:** 40 is the score of a good picture" in said
    assert "without such pictures it would be 2." in said
    assert not any("rests on" in line for line in trust.sentences(at[0.05], None, found, parts, TAKEN))


def test_what_is_said_of_few_pictures():
    threshold = conformal_threshold([1.0, 2.0, 3.0, 4.0], 0.01)
    said = trust.calibration(threshold, TAKEN)
    assert "too few pictures" in said
    assert "cannot promise the 1 % asked for: that takes 99" in said
    assert "What can be promised on average is 20 %" in said
    assert "below 53 %" in said  # 1 - 0.05^(1/4)
    out_of_fold = trust.calibration(threshold, TAKEN, cross=True)
    assert "Too few pictures:** that takes 99" in out_of_fold
    assert "at most twice that in the worst case, and that in practice, measured" in out_of_fold


def test_what_is_said_of_enough():
    said = trust.calibration(conformal_threshold(np.linspace(1, 2, 99), 0.01), TAKEN)
    assert "calibrated on 99 good pictures: a false-positive rate of 1 % can be promised on average" in said
    assert "with 95 % confidence the true rate is below 3 %" in said


def test_what_is_said_of_defects_and_outliers():
    assert "is not known" in trust.defects(None, TAKEN)
    said = trust.defects(report(np.array([1.0, 2.0]), np.array([3.0, 4.0, 0.5]), 2.0), TAKEN)
    assert "2 of the 3 bad pictures are flagged (67 %; with 95 % confidence between 9.4 % and 99 %" in said
    assert "So few bad pictures (3) make the interval wide" in said
    many = [outliers.Outlier(f"/good/`<b>{n}.png", "fit", 2.0, 5.0) for n in range(12)]
    said = trust.outsiders(many, {"fit": 50, "statistics": 10, "calibration": 30}, TAKEN)
    assert "look at these:** `??b?0.png` (fit, score 2)" in said
    whole = trust.outsiders(many, {"fit": 90, "statistics": 0, "calibration": 0}, TAKEN)
    assert "look at these:** `??b?0.png` (score 2)" in whole  # no other part is there
    assert "and 2 more" in said
    assert "no picture in it looks like an outlier" in trust.outsiders(
        [], {"fit": 6, "statistics": 2, "calibration": 4}, TAKEN
    )


def test_of_signals_nothing_is_said_of_pictures():
    measured = report(np.array([1.0, 2.0]), np.array([3.0, 4.0, 0.5]), 2.0)
    strange = [outliers.Outlier("/good/beat.csv", "fit", 2.0, 5.0)]
    parts = {"fit": 6, "statistics": 2, "calibration": 4}
    for some, found, n in ((measured, strange, 4), (None, [], 99)):
        threshold = conformal_threshold(np.linspace(1, 2, n), 0.01)
        said = trust.sentences(threshold, some, found, parts, SignalInput(1, 50))
        assert all("signal" in sentence and "picture" not in sentence for sentence in said)


@pytest.mark.parametrize(("resize", "covered"), [("stretch", (25, 3.125)), ("pad", (25, 25)), ("crop", (3.125, 3.125))])
def test_what_one_pixel_of_the_model_covers(resize, covered):
    assert card.pixels_covered(ImageInput(32, 32, 1, resize), (800, 100)) == covered


def test_precision_where_bad_parts_are_rare():
    measured = report(np.linspace(0, 1, 99), np.array([2.0, 3.0]), 1.0)
    assert trust.precision_on_a_line(measured, 0.01) == pytest.approx(0.01 / (0.01 + 0.99 * 0.01))


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0, "0 %"),
        (1e-9, "less than 0.0001 %"),
        (2e-6, "0.0002 %"),
        (1.23e-6, "0.00012 %"),
        (1, "100 %"),
        (0.01, "1 %"),
        (0.0298, "3 %"),
        (0.00025, "0.025 %"),
        (0.5271, "53 %"),
        (0.9999, "99.9 %"),
    ],
)
def test_percentages(share, text):
    assert trust.percent(share) == text


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.4, 20, [0.5, 1, 2, 5, 10, 20]),
        (2.1, 4.9, [2.1, 3.0333, 3.9667, 4.9]),
        (0.001, 900, [0.001, 0.01, 0.1, 1, 10, 100]),
    ],
)
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(low, high, ticks):
    assert log_ticks(low, high) == pytest.approx(ticks)

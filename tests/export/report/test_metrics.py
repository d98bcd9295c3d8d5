import numpy as np
import pytest

from export.onnx.quantise import gate
from export.report.metrics import auroc, precision_recall, report, roc
from train.errors import TrainError


def test_auroc_counts_ties_half():
    assert auroc(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0])) == 1.0
    assert auroc(np.array([1.0, 2.0]), np.array([2.0, 0.5])) == pytest.approx((1.5 + 0) / 4)


def test_the_area_under_the_curve_is_the_auroc():
    rng = np.random.default_rng(0)
    good, bad = rng.normal(0, 1, 80).round(1), rng.normal(1, 1, 50).round(1)
    false_positives, true_positives = roc(good, bad)
    assert np.trapezoid(true_positives, false_positives) == pytest.approx(auroc(good, bad))
    assert (false_positives[0], true_positives[0], false_positives[-1], true_positives[-1]) == (0, 0, 1, 1)


def test_recall_is_what_exceeds_the_threshold():
    measured = report(np.array([1.0, 2.0]), np.array([2.0, 3.0, 4.0]), 2.0)
    assert (measured.recall, measured.n_found, measured.n_bad) == (pytest.approx(2 / 3), 2, 3)
    # Clopper and Pearson for 2 of 3, by R's binom.test.
    assert (measured.recall_interval.low, measured.recall_interval.high) == pytest.approx((0.0943, 0.9916), abs=1e-4)


def test_average_precision_is_the_mean_of_precision_at_each_bad_picture():
    good, bad = np.array([1.0, 3.0]), np.array([2.0, 4.0])
    precision, recall = precision_recall(good, bad)
    np.testing.assert_allclose(precision, [1, 1 / 2, 2 / 3, 2 / 4])
    np.testing.assert_allclose(recall, [1 / 2, 1 / 2, 1, 1])
    assert report(good, bad, 9.0).average_precision == pytest.approx((1 + 2 / 3) / 2)


def test_the_gate():
    before = np.linspace(1, 3, 50)
    gate(before, before + 0.1, None)
    with pytest.raises(TrainError, match=r"moves the scores of good pictures by 0\.40 of their interquartile"):
        gate(before, before + 0.4, None)
    with pytest.raises(TrainError, match=r"int8 costs 1\.0000 of AUROC"):
        gate(before, before, (np.full(5, 9.0), np.zeros(5)))

import numpy as np
import pytest

from edged.models.drift import (
    APPEARANCE,
    QUANTILES,
    appearance,
    edges_of,
    edges_of_scores,
    reference,
    same_distribution,
    stability_index,
)


def test_appearance_of_a_picture_and_of_a_signal() -> None:
    picture = np.zeros((8, 4, 3), np.uint8)
    picture[::4, 2:] = 255  # of each row that is looked at the right half
    assert appearance(picture) == pytest.approx((0.5, 0.5, 1 / 3))
    assert appearance(np.array([[0.0, 2.0, 4.0, 2.0]], np.float32)) == pytest.approx((2.0, 2.0**0.5, 2.0))


def test_stability_index_is_its_formula() -> None:
    edges = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    values = np.repeat([0.5, 1.5, 2.5, 3.5, 4.5, 5.5], [0, 10, 20, 30, 40, 0])
    expected = np.array([0.05, 0.2, 0.25, 0.25, 0.2, 0.05])
    actual = (np.array([0, 10, 20, 30, 40, 0]) + 0.5) / 103
    assert stability_index(edges, values) == pytest.approx(sum((actual - expected) * np.log(actual / expected)))


def test_the_same_population_is_near_zero_and_another_far_above() -> None:
    random = np.random.default_rng(0)
    calibration = random.lognormal(size=300)
    edges = edges_of_scores(calibration)
    same = [stability_index(edges, random.lognormal(size=200)) for _ in range(200)]
    assert np.mean(same) < 0.1
    assert np.mean(np.array(same) > 0.25) < 0.01
    assert stability_index(edges, 2 * random.lognormal(size=200)) > 0.25


def test_p_values_are_what_they_say() -> None:
    """Of samples of one distribution about a share of α is below α; of two, none is large."""
    random = np.random.default_rng(0)
    values = np.array([same_distribution(random.normal(size=120), random.normal(size=200)) for _ in range(500)])
    for alpha in (0.05, 0.2, 0.5):
        assert abs(np.mean(values < alpha) - alpha) < 0.05
    assert same_distribution(random.normal(size=120), random.normal(1.0, size=200)) < 1e-6
    one = random.normal(size=50)
    assert same_distribution(one, one) == 1.0


def test_a_reference_gives_the_edges_back_and_an_older_one_none() -> None:
    random = np.random.default_rng(0)
    looks = random.uniform(size=(500, 3))
    found = reference(random.uniform(size=500), looks)
    assert list(found) == ["quantiles", "score", *APPEARANCE]
    edges = edges_of(found["quantiles"], found["contrast"])
    assert edges is not None
    assert np.allclose(edges, [0.05, 0.25, 0.5, 0.75, 0.95], atol=0.05)
    assert edges_of(QUANTILES, []) is None
    assert edges_of([0.5], [0.3]) is None

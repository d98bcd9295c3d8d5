import itertools
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from edged.models.drift import appearance, reference
from edged.models.scorer import Scorer
from edged.service.drift import LEAST, DriftWatch
from edged.service.metrics import Metrics
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import bad, until

RANDOM = np.random.default_rng(0)


def picture(light: float = 1.0) -> NDArray[np.uint8]:
    values = RANDOM.normal(RANDOM.normal(100, 10), RANDOM.normal(20, 2), (32, 32, 1)) * light
    return values.clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    """The tiny model, as if it had been calibrated on such pictures, with scores from 1 to 2."""
    scorer = Scorer.load(TINY, device="cpu")
    scores = np.sort(RANDOM.uniform(1, 2, 300))
    looks = np.array([appearance(picture()) for _ in range(300)])
    drift = scorer.bundle.manifest.drift_reference.model_copy(update=reference(scores, looks))
    manifest = scorer.bundle.manifest.model_copy(update={"drift_reference": drift})
    return replace(scorer, bundle=replace(scorer.bundle, manifest=manifest), calibration=scores)


class Watched:
    def __init__(self, scorer: Scorer) -> None:
        self.metrics = Metrics(CollectorRegistry())
        self.watch = DriftWatch("line1", scorer, self.metrics, look_s=0.0, compare_s=0.0)

    def see(self, count: int, *, light: float = 1.0, times: float = 1.0) -> None:
        for _ in range(count):
            self.watch.observe(picture(light), float(RANDOM.uniform(1, 2)) * times)

    def value(self, family: str, statistic: str, **labels: str) -> float | None:
        labels |= {"source": "line1", "statistic": statistic}
        return self.metrics.registry.get_sample_value(family, labels)


@pytest.fixture
def watched(scorer: Scorer) -> Watched:
    return Watched(scorer)


def test_nothing_is_said_of_a_few_pictures_nor_of_pictures_as_ever(watched: Watched) -> None:
    watched.see(LEAST - 1, light=0.5)
    assert watched.value("edged_input_drift", "brightness") == 0
    assert watched.value("edged_score_drift", "p_value", model="tiny") == 1
    watched.see(400)
    assert watched.watch.words == ""
    for statistic in ("brightness", "contrast", "sharpness"):
        assert watched.value("edged_input_drift", statistic) < 0.2  # type: ignore[operator]


def test_another_light_is_told_from_other_parts(watched: Watched) -> None:
    watched.see(200, light=0.7, times=1.5)
    assert watched.watch.words.startswith("the pictures look other than the good ones of training (brightness")
    assert watched.value("edged_input_drift", "brightness") > 1  # type: ignore[operator]
    watched.see(300)
    assert watched.watch.words == ""
    watched.see(200, times=1.5)
    assert watched.watch.words == "the pictures look as ever and score otherwise: the parts?"
    assert watched.value("edged_score_drift", "psi", model="tiny") > 0.25  # type: ignore[operator]
    assert watched.value("edged_score_drift", "p_value", model="tiny") < 1e-6  # type: ignore[operator]


def test_older_bundles_have_what_they_noted(scorer: Scorer) -> None:
    old = scorer.bundle.manifest.drift_reference.model_copy(update={"contrast": [], "sharpness": []})
    manifest = scorer.bundle.manifest.model_copy(update={"drift_reference": old})
    watched = Watched(replace(scorer, bundle=replace(scorer.bundle, manifest=manifest)))
    watched.see(200, light=0.7)
    assert watched.value("edged_input_drift", "sharpness") is None
    assert "(brightness)" in watched.watch.words


def test_another_model_begins_anew_and_leaves_no_series_of_the_one_before(watched: Watched, scorer: Scorer) -> None:
    watched.see(200, light=0.7)
    other = replace(scorer, name="other", identity=replace(scorer.identity, name="other"))
    assert watched.watch.is_of(scorer)
    assert not watched.watch.is_of(other)
    DriftWatch("line1", other, watched.metrics)
    assert watched.value("edged_score_drift", "psi", model="tiny") is None
    assert watched.value("edged_score_drift", "psi", model="other") == 0
    watched.metrics.forget_source("line1")
    assert watched.value("edged_input_drift", "brightness") is None


def test_drift_is_told_where_people_look(site: Site) -> None:
    site.configure(settle_seconds=0)
    site.start()
    numbers = itertools.count()

    def warnings() -> list[str]:
        number = next(numbers)
        (site.inbox / f"{number}.png").write_bytes(bad(number))
        found: list[str] = site.get("/api/v1/status").json()["warnings"]
        return found

    told = "source line1: the pictures look as ever and score otherwise: the parts?"
    until(lambda: told in warnings(), "the drift to be told", 120)
    assert told in site.get("/").text

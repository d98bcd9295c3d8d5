"""Self-tests: a sampled and a golden picture through real decoders and a real model, alone and in a real daemon."""

import math
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

pytest.importorskip("onnx")

from edged.errors import BundleError, EdgedError
from edged.journal.journal import Journal
from edged.media.decoding import DecoderPool
from edged.media.imaging import Limits
from edged.models.scorer import Scorer
from edged.models.self_test import SelfTest
from edged.service.metrics import Metrics
from edged.service.pipeline import Pipeline
from tests import tiny_kinds
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import drop, good, until

OK, RATIO = 'edged_self_test_ok{model="tiny"}', 'edged_self_test_score_ratio{model="tiny"}'
OLD = {name.replace("self_test", "canary") for name in (OK, RATIO)}


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_kinds.vae(tmp_path_factory.mktemp("vae") / "cells")


@pytest.fixture
def self_test(vae: Path) -> SelfTest:
    return SelfTest.load(Scorer.load(vae, device="cpu", threads=1))


def test_the_ratio_is_that_of_the_sampled_picture(self_test: SelfTest) -> None:
    with DecoderPool(1, Limits()) as pool:
        ratios = [self_test.check(pool.decode, seed) for seed in range(4)]
    drawn = np.concatenate([self_test.sampler.prior(1, seed) for seed in range(4)])
    np.testing.assert_allclose(ratios, self_test.scorer.scores(drawn)[0] / 0.5, rtol=1e-5)
    assert len(set(ratios)) == 4


def test_another_score_than_the_golden_one_is_an_error(self_test: SelfTest) -> None:
    golden = self_test.golden
    other = replace(self_test, golden=replace(golden, score=golden.score + np.float32(0.01)))
    with DecoderPool(1, Limits()) as pool, pytest.raises(EdgedError, match=r"the golden picture 2 scores .* at export"):
        other.check(pool.decode, 2)


def test_a_path_that_refuses_pictures_is_an_error(self_test: SelfTest) -> None:
    with DecoderPool(1, Limits(max_pixels=100)) as pool, pytest.raises(EdgedError):
        self_test.check(pool.decode, 0)


def test_only_a_vae_on_pixels_has_one() -> None:
    with pytest.raises(BundleError, match="only a vae on pixels"):
        SelfTest.load(Scorer.load(TINY, device="cpu"))


def test_zero_when_golden_values_are_gone_and_one_when_they_are_back(self_test: SelfTest, tmp_path: Path) -> None:
    metrics = Metrics(CollectorRegistry())
    journal = Journal(tmp_path / "state")
    pipeline = Pipeline(journal=journal, metrics=metrics, limits=Limits(), workers=1)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, {"model": "tiny"})

    pipeline.start()
    try:
        assert value("edged_self_test_ok") is None
        broken = replace(self_test, golden=replace(self_test.golden, score=self_test.golden.score * 2))
        for check, expected in ((self_test, 1), (broken, 0), (self_test, 1)):
            pipeline.set_self_tests({"tiny": (check, 0.1)})
            until(lambda expected=expected: value("edged_self_test_ok") == expected, f"the self-test to be {expected}")  # type: ignore[misc]
        pipeline.set_self_tests({})
    finally:
        pipeline.stop(5)
        journal.close()


def test_a_self_test_in_a_daemon(site: Site, vae: Path) -> None:
    site.configure(bundle=vae, model="canary_seconds = 0.1")  # its old name is taken, with a warning
    site.start()
    assert site.said("models.tiny.canary_seconds is called self_test_seconds now; rename it")
    assert {OK, RATIO} | OLD <= site.metrics().keys()  # the old names stay for a release
    until(lambda: site.metrics()[OK] == 1, "a self-test that came through")
    first = site.metrics()[RATIO]
    assert 0 < first < 10
    until(lambda: site.metrics()[RATIO] != first, "another sample")
    drop(site.inbox / "a.png", good(1))
    rows = site.wait_for_rows(1)
    until(lambda: site.metrics()['edged_images_total{outcome="ok",source="line1"}'] == 1, "the one picture")
    assert [Path(row.path).name for row in rows] == ["a.png"]
    assert len(site.wait_for_lines(1)) == 1
    assert not [name for name in site.metrics() if 'source="self-test"' in name]
    site.configure(bundle=vae)  # without one, its series go
    site.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
    until(lambda: site.said("reloaded"), "the reload")
    assert not ({OK, RATIO} | OLD) & site.metrics().keys()
    assert site.stop() == 0
    assert len(site.rows()) == 1


def test_a_self_test_that_has_not_come_through_is_zero_and_its_ratio_no_number(site: Site, vae: Path) -> None:
    site.configure(bundle=vae, model="self_test_seconds = 0.1", rest="[limits]\nmax_pixels = 1000\n")  # 32 x 32 is more
    site.start()
    (first,) = until(lambda: site.said("the self-test failed: the path from file to score is broken"), "the failure")
    assert first["model"] == "tiny"
    metrics = site.metrics()
    assert metrics[OK] == 0
    assert math.isnan(metrics[RATIO])
    assert (
        len(site.said("the self-test failed: the path from file to score is broken")) == 1
    )  # said once, not every time
    assert site.stop() == 0
    assert site.rows() == []


def test_check_refuses_a_self_test_of_another_kind(site: Site) -> None:
    site.configure(model="self_test_seconds = 5")
    command = [sys.executable, "-P", "-m", "edged", "check", "-c", os.fspath(site.config)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 2
    assert "models.tiny.self_test_seconds:" in done.stderr
    assert "only a vae on pixels can" in done.stderr

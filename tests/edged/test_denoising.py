"""Denoisers where users meet them: `edged denoise`, `edged score --denoiser`, `edged check`, a source of the daemon."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")

from onnx import TensorProto

from edged.errors import BundleError
from edged.models.scorer import Scorer
from tests import tiny_kinds
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import BAD_SCORE, bad, drop, good, until


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_kinds.denoiser(tmp_path_factory.mktemp("denoisers") / "clean")


@pytest.fixture(scope="module")
def behind(clean: Path) -> Path:
    """A detector that was calibrated behind `clean`."""
    return tiny_kinds.behind(clean.parent / "behind", clean)


def edged(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "edged", *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def smoothed(pixels: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    """What the tiny denoiser should make of uint8 (32, 32): means of 3x3, fewer at the border."""
    padded, ones = (np.pad(values, 1) for values in (pixels.astype(np.float64), np.ones(pixels.shape)))
    windows = [(i, j) for i in range(3) for j in range(3)]
    total = sum(padded[i : i + 32, j : j + 32] for i, j in windows)
    return total / sum(ones[i : i + 32, j : j + 32] for i, j in windows)


def test_denoise_writes_what_the_model_makes(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "a.png").write_bytes(bad(1))
    (tmp_path / "in" / "sub" / "b.png").write_bytes(good(2))
    (tmp_path / "in" / "broken.png").write_bytes(b"x")
    done = edged("denoise", clean, tmp_path / "in", "--out", tmp_path / "out", "--device", "cpu")
    assert (done.returncode, done.stdout) == (1, "")
    assert "broken.png: undecodable" in done.stderr
    assert "2 cleaned into" in done.stderr
    assert sorted(str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")) == [
        "a.png",
        "sub/b.png",
    ]
    for name in ("a.png", "sub/b.png"):
        raw, got = (np.asarray(Image.open(tmp_path / folder / name)) for folder in ("in", "out"))
        assert np.abs(got - smoothed(raw)).max() <= 0.51
        assert (got != raw).any()


def test_denoise_does_not_write_over_its_input(clean: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(good(1))
    done = edged("denoise", clean, tmp_path, "--out", tmp_path)
    assert done.returncode == 2
    assert "is one of the pictures" in done.stderr
    assert (tmp_path / "a.png").read_bytes() == good(1)


def test_score_behind_the_right_denoiser_and_no_other(clean: Path, behind: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(bad(1))
    done = edged("score", behind, tmp_path / "a.png", "--denoiser", clean, "--json")
    assert done.returncode == 0, done.stderr
    raw = np.asarray(Image.open(tmp_path / "a.png"))
    cleaned = Scorer.load(clean, device="cpu").reconstruct(raw[None, ..., None])
    (expected,), _ = Scorer.load(behind, device="cpu").scores(cleaned)
    told = json.loads(done.stdout)
    assert told["score"] == pytest.approx(float(expected), rel=1e-6)
    assert told["score"] < 0.9 * BAD_SCORE  # the white patch is softer at its edges
    assert told["timings_ms"]["denoise"] >= 0
    for bundle, options, message in (
        (behind, [], "was calibrated behind the denoiser clean, and none is given"),
        (TINY, ["--denoiser", clean], "was calibrated without a denoiser"),
        (behind, ["--denoiser", TINY], "is no denoiser but of the kind ae"),
    ):
        done = edged("score", bundle, tmp_path / "a.png", *options)
        assert (done.returncode, done.stdout) == (2, "")
        assert message in done.stderr


def configure(site: Site, detector: Path, denoiser: Path) -> None:
    site.configure(
        'denoiser = "clean"',
        bundle=detector,
        rest=f'[models.clean]\npath = "{denoiser}"\ndevice = "cpu"\n'
        f'[[sinks]]\nname = "overlays"\ntype = "images"\ndir = "{site.overlays}"\nonly = "all"\n',
    )


def test_a_source_behind_its_denoiser(site: Site, clean: Path, behind: Path) -> None:
    configure(site, behind, clean)
    site.start()
    assert site.metrics()['edged_stage_duration_seconds_count{stage="denoise"}'] == 0
    for number in range(3):
        drop(site.inbox / f"{number}.png", bad(number))
    rows = site.wait_for_rows(3)
    cleaner, scorer = (Scorer.load(path, device="cpu") for path in (clean, behind))
    raw = np.stack([np.asarray(Image.open(row.path))[..., None] for row in rows])
    cleaned = cleaner.reconstruct(raw)
    np.testing.assert_allclose([row.score for row in rows], scorer.scores(cleaned)[0], rtol=1e-6)
    assert all("denoise" in row.timings_ms for row in rows)
    until(lambda: site.metrics()['edged_stage_duration_seconds_count{stage="denoise"}'] > 0, "the stage's metric")
    for row, before, after in zip(rows, raw, cleaned, strict=True):  # raw, cleaned, and the overlay on the raw one
        stored = np.asarray(Image.open(site.overlays / f"{row.id}.png"))
        assert stored.shape == (86, 320, 3)  # with its legend
        np.testing.assert_array_equal(stored[:32, :32], np.broadcast_to(before, (32, 32, 3)))
        np.testing.assert_array_equal(stored[:32, 32:64], np.broadcast_to(after, (32, 32, 3)))
    assert site.stop() == 0


@pytest.mark.parametrize("command", ["check", "run"])
def test_a_pair_that_was_not_calibrated_together_is_refused(
    site: Site, clean: Path, tmp_path: Path, command: str
) -> None:
    configure(site, TINY, clean)
    done = edged(command, "-c", site.config)
    assert done.returncode == 2
    assert f"sources.line1.denoiser: {TINY} was calibrated without a denoiser" in done.stderr
    other = tiny_kinds.vae(tmp_path / "other")  # a model of other bytes, to be calibrated behind
    configure(site, tiny_kinds.behind(tmp_path / "behind-other", other), clean)
    done = edged(command, "-c", site.config)
    assert done.returncode == 2
    assert "sources.line1.denoiser:" in done.stderr
    assert "was calibrated behind another denoiser than" in done.stderr
    assert not site.rows()


def test_check_takes_the_right_pair(site: Site, clean: Path, behind: Path) -> None:
    configure(site, behind, clean)
    done = edged("check", "-c", site.config)
    assert done.returncode == 0, done.stderr
    assert 'denoiser = "clean"' in done.stdout


def test_a_denoiser_that_gives_no_picture_is_refused(tmp_path: Path) -> None:
    path = tiny_kinds.denoiser(tmp_path / "clean", TensorProto.FLOAT)
    with pytest.raises(BundleError, match=r"makes float32 \(1, 32, 32, 1\) of a picture uint8"):
        Scorer.load(path, device="cpu")

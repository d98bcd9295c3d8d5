"""Sampling through a real decoder, in this process and through `edged sample`."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")

import onnx
from onnx import TensorProto, helper, numpy_helper

from edged.errors import BundleError
from edged.models.bundle import MANIFEST
from edged.models.sampling import Sampler, grid
from edged.models.scorer import Scorer
from tests import tiny_kinds
from tests.conftest import TINY


@pytest.fixture(scope="module")
def vae(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_kinds.vae(tmp_path_factory.mktemp("vae") / "cells")


@pytest.fixture(scope="module")
def sampler(vae: Path) -> Sampler:
    return Sampler.load(Scorer.load(vae, device="cpu", threads=1), device="cpu", threads=1)


def quadrants(*levels: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """uint8 (32, 32, 1) of four levels."""
    return np.kron(np.array(levels, np.uint8).reshape(2, 2), np.ones((16, 16), np.uint8))[..., None]


def edged(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-P", "-m", "edged", *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)


def test_a_seed_gives_the_same_bits_with_any_number_of_threads(vae: Path, sampler: Sampler) -> None:
    drawn = sampler.prior(40, seed=3)
    np.testing.assert_array_equal(drawn, sampler.prior(40, seed=3))
    two = Sampler.load(Scorer.load(vae, device="cpu", threads=2), device="cpu", threads=2)
    np.testing.assert_array_equal(drawn, two.prior(40, seed=3))
    assert (drawn != sampler.prior(40, seed=4)).any()
    np.testing.assert_array_equal(drawn[:7], sampler.prior(7, seed=3))  # more pictures begin with the same ones


def test_the_prior_is_standard_normal(sampler: Sampler) -> None:
    drawn = sampler.prior(2000, seed=0)
    assert (drawn.shape, drawn.dtype) == ((2000, 32, 32, 1), np.uint8)
    z = (drawn[:, ::16, ::16, 0].reshape(-1).astype(float) - 128) / 8
    assert abs(z.mean()) < 0.05
    assert z.std() == pytest.approx(1, abs=0.03)


def test_around_a_picture(sampler: Sampler) -> None:
    drawn = sampler.around(quadrants(100, 128, 140, 156), 500, seed=1)
    np.testing.assert_array_equal(drawn, sampler.around(quadrants(100, 128, 140, 156), 500, seed=1))
    levels = drawn[:, ::16, ::16, 0].reshape(-1, 4).astype(float)
    np.testing.assert_allclose(levels.mean(axis=0), [100, 128, 140, 156], atol=0.3)
    np.testing.assert_allclose(levels.std(axis=0), 8 * np.exp(-2), atol=0.15)  # the log-variance is -4


def test_between_two_pictures(sampler: Sampler) -> None:
    first, last = quadrants(100, 128, 128, 128), quadrants(140, 128, 128, 128)
    walked = sampler.between(first, last, 5)
    np.testing.assert_array_equal(walked[:, 0, 0, 0], [100, 110, 120, 130, 140])
    np.testing.assert_array_equal(walked[[0, -1]], np.stack([first, last]))
    np.testing.assert_array_equal(sampler.between(first, last, 1)[0], first)


def test_a_grid_loses_nothing() -> None:
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((5, 4, 6, 1), np.uint8)
    sheet = np.asarray(grid(images))
    assert sheet.shape == (2 * 4 + 2, 3 * 6 + 2 * 2)
    assert [int(sheet[y, x]) for y, x in ((0, 0), (0, 8), (0, 16), (6, 0), (6, 8))] == [0, 1, 2, 3, 4]
    assert int(sheet[6, 16]) == 255
    assert np.asarray(grid(np.zeros((1, 4, 4, 3), np.uint8))).shape == (4, 4, 3)


def test_the_command_is_bit_equal_in_every_process(vae: Path, sampler: Sampler, tmp_path: Path) -> None:
    for name, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        done = edged("sample", vae, "-n", "9", "--seed", seed, "--out", tmp_path / f"{name}.png", "--device", "cpu")
        assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert "9 pictures" in done.stderr
    first, second, other = (np.asarray(Image.open(tmp_path / f"{name}.png")) for name in "abc")
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first, np.asarray(grid(sampler.prior(9, seed=5))))
    assert (first != other).any()


def test_the_command_around_and_between(vae: Path, tmp_path: Path) -> None:
    for name, level in (("dark", 100), ("light", 140)):
        Image.new("L", (32, 32), level).save(tmp_path / f"{name}.png")
    dark, light, out = tmp_path / "dark.png", tmp_path / "light.png", tmp_path / "out.png"
    assert edged("sample", vae, "-n", "4", "--around", dark, "--out", out, "--device", "cpu").returncode == 0
    assert abs(float(np.asarray(Image.open(out))[:16, :16].mean()) - 100) < 5
    assert edged("sample", vae, "-n", "3", "--interpolate", dark, light, "--out", out).returncode == 0
    sheet = np.asarray(Image.open(out))
    assert [int(sheet[0, 0]), int(sheet[0, 34]), int(sheet[34, 0])] == [100, 120, 140]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--around", "{picture}", "--interpolate", "{picture}", "{picture}"], "--around or --interpolate, not both"),
        (["--around", "{absent}"], "absent.png"),
        (["-n", "0"], "-n"),
        (["-n", "5000"], "-n"),
        (["--seed", "-1"], "--seed"),
    ],
)
def test_what_is_refused(vae: Path, tmp_path: Path, arguments: list[str], message: str) -> None:
    Image.new("L", (32, 32), 128).save(tmp_path / "picture.png")
    names = {"{picture}": str(tmp_path / "picture.png"), "{absent}": str(tmp_path / "absent.png")}
    done = edged("sample", vae, "--out", tmp_path / "out.png", *[names.get(part, part) for part in arguments])
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out.png").exists()


def test_a_bundle_without_a_decoder(tmp_path: Path) -> None:
    done = edged("sample", TINY, "--out", tmp_path / "out.png")
    assert done.returncode == 2
    assert "only a vae on pixels can, and this is ae on pixels" in done.stderr
    with pytest.raises(BundleError, match="cannot sample"):
        Sampler.load(Scorer.load(TINY, device="cpu"))


def test_a_decoder_that_is_not_the_manifests(tmp_path: Path) -> None:
    copy = tiny_kinds.vae(tmp_path / "cells")
    data = bytearray((copy / "decoder.onnx").read_bytes())
    data[50] ^= 1
    (copy / "decoder.onnx").write_bytes(data)
    assert (copy / MANIFEST).exists()
    with pytest.raises(BundleError, match=r"decoder\.onnx is damaged"):
        Sampler.load(Scorer.load(copy, device="cpu"), device="cpu")


def _with_another_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("more", TensorProto.FLOAT, [1]))


def _with_another_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = model.graph.node[-1].output[0] = "picture"


def _with_floats(model: onnx.ModelProto) -> None:
    model.graph.node[-1].attribute[0].i = TensorProto.FLOAT
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT


def _with_so_many_latents(count: int, model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = count
    for name, value in {"first": 0, "end": tiny_kinds.LATENT, "axis": 1}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
    model.graph.node[0].input[0] = "four"
    model.graph.node.insert(0, helper.make_node("Slice", ["z", "first", "end", "axis"], ["four"]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_with_another_input, r"takes z \['N', 4\], more \[1\], not z \(N, L\)"),
        (_with_another_output, r"decoder\.onnx: ONNX Runtime fails: .*image"),
        (_with_floats, r"gives float32 \(16, 32, 32, 1\), not pictures uint8 \(16, 32, 32, 1\)"),
        (partial(_with_so_many_latents, 2**30), r"takes z \['N', 1073741824\], not"),
    ],
)
def test_a_decoder_that_is_none(tmp_path: Path, spoil: Callable[[onnx.ModelProto], None], message: str) -> None:
    decoder = tiny_kinds.decoder()
    spoil(decoder)
    detector = Scorer.load(tiny_kinds.vae(tmp_path / "cells", decoder), device="cpu")
    with pytest.raises(BundleError, match=message):
        Sampler.load(detector, device="cpu")


def test_an_encoder_that_is_another_vaes(tmp_path: Path) -> None:
    decoder = tiny_kinds.decoder()
    _with_so_many_latents(5, decoder)
    sampler = Sampler.load(Scorer.load(tiny_kinds.vae(tmp_path / "cells", decoder), device="cpu"), device="cpu")
    assert sampler.prior(2, seed=0).shape == (2, 32, 32, 1)
    with pytest.raises(BundleError, match="encoder and decoder do not fit"):
        sampler.around(quadrants(0, 1, 2, 3), 2, seed=0)

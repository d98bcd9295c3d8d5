"""Corruption: its statistics are those that the configuration states, and a seed gives the same pictures."""

from dataclasses import replace

import pytest
import torch
from torch import Generator

from train.data import corruption
from train.data.corruption import Corruption

NOTHING = Corruption(noise=(0, 0), poisson=0, photons=(20, 1000), structured=0)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_nothing_leaves_8_bit_pictures_as_they_are():
    clean = torch.randint(0, 256, (4, 3, 16, 20), generator=generator()) / 255
    assert torch.equal(NOTHING(clean, generator()), clean)


@pytest.mark.parametrize("deviation", [0.02, 0.1])
def test_gaussian_noise_has_its_standard_deviation(deviation):
    clean = torch.full((8, 1, 64, 64), 0.5)
    noise = replace(NOTHING, noise=(deviation, deviation))(clean, generator()) - clean
    assert noise.std() == pytest.approx(deviation, rel=0.02)
    assert noise.mean() == pytest.approx(0, abs=0.003)


def test_the_level_is_drawn_for_each_picture_between_its_bounds():
    clean = torch.full((64, 1, 64, 64), 0.5)
    levels = (replace(NOTHING, noise=(0.05, 0.1))(clean, generator()) - clean).flatten(1).std(dim=1)
    assert levels.min() == pytest.approx(0.05, abs=0.005)
    assert levels.max() == pytest.approx(0.1, abs=0.005)


def test_poisson_noise_grows_with_the_square_root_of_the_light():
    clean = torch.tensor([0.1, 0.4]).view(2, 1, 1, 1).expand(2, 1, 128, 128)
    noisy = replace(NOTHING, poisson=1, photons=(100, 100))(clean, generator())
    expected = [(level / 100) ** 0.5 for level in (0.1, 0.4)]
    assert noisy.flatten(1).std(dim=1).tolist() == pytest.approx(expected, rel=0.05)
    assert noisy.flatten(1).mean(dim=1).tolist() == pytest.approx([0.1, 0.4], rel=0.02)


def test_what_comes_out_fits_8_bits():
    noisy = replace(NOTHING, noise=(0.5, 0.5))(torch.rand(4, 1, 32, 32, generator=generator()), generator())
    assert noisy.min() == 0
    assert noisy.max() == 1
    assert torch.equal((noisy * 255).round() / 255, noisy)


def test_structured_corruption_hits_its_share_and_a_part_of_the_picture():
    clean = torch.rand(200, 1, 32, 32, generator=generator()).mul(255).round() / 255
    changed = (replace(NOTHING, structured=0.5)(clean, generator()) != clean).flatten(1).float().mean(dim=1)
    assert (changed > 0).float().mean() == pytest.approx(0.5, abs=0.1)
    assert changed.max() < 0.7
    assert 0.02 < changed[changed > 0].mean() < 0.3


def test_a_seed_gives_the_same_pictures():
    clean = torch.rand(16, 3, 24, 24, generator=generator())
    every = Corruption(noise=(0, 0.2), poisson=0.3, photons=(20, 1000), structured=0.8)
    assert torch.equal(every(clean, generator(3)), every(clean, generator(3)))
    assert not torch.equal(every(clean, generator(3)), every(clean, generator(4)))


@pytest.mark.parametrize("how", [corruption.cut_and_paste, corruption.blend, corruption.occlude])
def test_each_structured_corruption_leaves_its_input_alone(how):
    picture, other = torch.zeros(1, 28, 28), torch.ones(1, 28, 28)
    for seed in range(30):
        out = how(picture, other, generator(seed))
        assert out.shape == picture.shape
        assert 0 <= float(out.min()) <= float(out.max()) <= 1
    assert not picture.any()
    assert other.all()


def test_perlin_noise_is_smooth_and_about_zero():
    noise = torch.stack([corruption.perlin(64, 48, 4, generator(seed)) for seed in range(20)])
    assert noise.shape == (20, 64, 48)
    assert noise.mean() == pytest.approx(0, abs=0.05)
    assert 0.6 < noise.abs().max() <= 1.01
    assert (noise[:, 1:] - noise[:, :-1]).abs().max() < 0.25

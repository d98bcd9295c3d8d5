"""The denoiser: it cleans what it was not trained on, repairs defects, and a seed gives the same one."""

import numpy as np
import pytest
import torch

from tests.train.making import as_set, stripes
from train.config import kinds as configs
from train.config.denoiser import DenoiserConfig
from train.errors import OptionError
from train.fit.denoiser import train_denoiser
from train.nets.detector import make_denoiser
from train.nets.unet import OnPicture, StridedDenoiser, UNet
from train.progress import nowhere

SMALL = {"size": 32, "channels": 1, "width": 8, "depth": 2, "crop": 16, "noise": 0.1, "poisson": 0, "epochs": 6}


def train(tmp_path, **keys):
    config = DenoiserConfig(**{**SMALL, **keys})
    lines = []
    torch.set_num_threads(1)
    good = as_set(stripes(80, channels=config.channels))
    return train_denoiser(config, good, cache=tmp_path, log=lines.append, track=nowhere), lines


def noisy(pixels, deviation=0.1):
    noise = np.random.default_rng(1).normal(0, deviation * 255, pixels.shape)
    return np.clip(np.round(pixels + noise), 0, 255).astype(np.uint8)


def psnr(a, b):
    return -10 * np.log10(np.mean((a.astype(float) - b.astype(float)) ** 2) / 255**2)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return train(tmp_path_factory.mktemp("cache"), structured=0.3)


def test_it_cleans_pictures_it_has_not_seen(trained):
    clean = stripes(20, seed=7)
    score, anomaly_map, cleaned = trained[0].detector(torch.from_numpy(noisy(clean)))
    assert psnr(noisy(clean), clean) == pytest.approx(20.0, abs=0.3)
    assert psnr(cleaned.numpy(), clean) > 26
    assert cleaned.dtype == torch.uint8
    assert cleaned.shape == clean.shape
    assert anomaly_map.shape == (20, 8, 8)
    assert (score > 0).all()


def test_it_leaves_clean_pictures_nearly_alone(trained):
    clean = stripes(20, seed=7)
    cleaned = trained[0].detector(torch.from_numpy(clean))[2].numpy()
    assert psnr(cleaned, clean) > 28


def test_a_defect_scores_higher_than_good_pictures_and_shows_where(trained):
    clean = stripes(20, seed=7)
    defective = clean.copy()
    defective[:, 8:16, 16:24] = 255 - defective[:, 8:16, 16:24]
    good, bad = (trained[0].detector(torch.from_numpy(pixels)) for pixels in (clean, defective))
    assert bad[0].median() > good[0].max()
    inside = bad[1][:, 2:4, 4:6].mean()
    assert inside > 3 * bad[1][:, 5:].mean()


def test_the_log_has_a_line_an_epoch_and_one_for_the_head(trained):
    lines = trained[1]
    assert [line["event"] for line in lines] == ["epoch"] * 6 + ["head"]
    assert lines[5]["loss_statistics"] < lines[0]["loss_statistics"]
    assert lines[5]["psnr_statistics"] > lines[0]["psnr_statistics"]
    assert trained[0].loss == min(line["loss_statistics"] for line in lines[:-1])


def test_a_seed_gives_the_same_denoiser(tmp_path):
    losses = [train(tmp_path, epochs=1, seed=seed)[0].loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_the_tutorials_denoiser_trains_too(tmp_path):
    trained, lines = train(tmp_path, architecture="strided", loss="mse", epochs=3, crop=32)
    assert isinstance(trained.detector.autoencoder, OnPicture)
    assert isinstance(trained.detector.autoencoder.network, StridedDenoiser)
    assert lines[2]["loss_statistics"] < lines[0]["loss_statistics"]
    assert (trained.detector.center.unique().item(), trained.detector.scale.unique().item()) == (0, 1)


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (36, 52, 3), (8, 8, 1)])
def test_the_u_net_takes_sides_that_do_not_halve_evenly(height, width, channels):
    network = UNet(channels=channels, width=8, depth=3)
    picture = torch.rand(2, channels, height, width)
    assert torch.equal(network(picture), picture)  # untrained, it takes nothing away


def test_fresh_weights_follow_the_configuration():
    denoiser = make_denoiser(DenoiserConfig(size=28, channels=1))
    assert denoiser.output_names == ("score", "anomaly_map", "reconstruction")
    assert denoiser.head.regions == 7
    assert sum(p.numel() for p in denoiser.autoencoder.parameters()) == 928_180


@pytest.mark.parametrize(
    ("assignment", "problem"),
    [
        ("noise=[0.3,0.1]", "noise: the lowest, 0.3, is above the highest, 0.1"),
        ("noise=25", "each a number from 0 to 1, not 25"),
        ("size=30", "size: [30, 30] must be multiples of 4"),
        ("crop=30", "crop: 30 must be a multiple of 4"),
        ("backbone=efficientnet-lite0", "backbone: must be"),
        ("latent=3", "latent: there is no such key"),
    ],
)
def test_wrong_hyper_parameters_are_named(assignment, problem):
    with pytest.raises(OptionError) as error:
        configs.load(DenoiserConfig, None, [assignment])
    assert problem in str(error.value)

"""The VAE: its losses against closed forms, its training, its scores, its samples."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Normal, kl_divergence

from tests.train.making import as_set, stripes
from train.config.vae import VaeConfig
from train.fit.vae import held_out_loss, train_vae
from train.nets import vae as vae_model
from train.nets.detector import make_vae
from train.nets.vae import Decoder
from train.progress import nowhere

SMALL = {
    "size": 32,
    "channels": 1,
    "width": 16,
    "latent": 4,
    "epochs": 12,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "units": 0,
}


def train(tmp_path, **keys):
    torch.set_num_threads(1)
    lines = []
    config = VaeConfig(**{**SMALL, **keys})
    good = as_set(stripes(120, channels=config.channels))
    return train_vae(config, good, cache=tmp_path, log=lines.append, track=nowhere), lines


@pytest.fixture(scope="module", params=["gaussian", "bernoulli"])
def trained(request, tmp_path_factory):
    return train(tmp_path_factory.mktemp("cache"), likelihood=request.param)


def test_the_kl_divergence_is_the_closed_form():
    torch.manual_seed(0)
    mean, log_variance = torch.randn(5, 3), torch.randn(5, 3)
    posterior = Normal(mean, torch.exp(log_variance / 2))
    expected = kl_divergence(posterior, Normal(torch.zeros(5, 3), torch.ones(5, 3)))
    torch.testing.assert_close(vae_model.kl_divergence(mean, log_variance), expected)
    assert vae_model.kl_divergence(torch.zeros(1, 3), torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


def test_likelihoods_are_sums_over_a_picture_in_nats():
    torch.manual_seed(0)
    features, decoded = torch.rand(2, 16, 8, 8), torch.randn(2, 16, 8, 8)
    bernoulli = make_vae(VaeConfig(**SMALL, likelihood="bernoulli")).vae
    expected = -Bernoulli(logits=decoded, validate_args=False).log_prob(features).sum(dim=(1, 2, 3))
    torch.testing.assert_close(bernoulli.negative_log_likelihood(features, decoded), expected)

    gaussian = make_vae(VaeConfig(**SMALL)).vae
    gaussian.log_deviation.data.fill_(math.log(0.3))
    expected = -Normal(decoded, 0.3).log_prob(features).sum(dim=(1, 2, 3))
    torch.testing.assert_close(gaussian.negative_log_likelihood(features, decoded), expected)


def test_training_lowers_the_held_out_loss_and_warms_beta_up(trained):
    result, lines = trained
    epochs = [line for line in lines if line["event"] == "epoch"]
    assert len(epochs) == 12
    assert result.loss == min(line["loss_statistics"] for line in epochs)
    assert result.loss < epochs[0]["loss_statistics"] - 20
    assert epochs[0]["beta"] == pytest.approx(1 / 1.2, abs=0.01)  # the rise takes a tenth of 12 epochs
    assert epochs[-1]["beta"] == 1
    assert epochs[-1]["kl_statistics"] > 1


def test_the_gaussian_learns_its_deviation(trained):
    vae = trained[0].detector.vae
    if vae.is_bernoulli:
        assert vae.log_deviation.item() == 0
    else:
        assert 0.05 < vae.log_deviation.exp().item() < 0.7


def test_outputs(trained):
    detector = trained[0].detector
    image = torch.from_numpy(stripes(6, seed=7))
    assert detector.output_names == ("score", "anomaly_map", "reconstruction", "latent_mean", "latent_logvar")
    score, anomaly_map, reconstruction, mean, log_variance = detector(image)
    assert (score > 0).all()
    assert (anomaly_map > 0).all()
    assert anomaly_map.shape == (6, 8, 8)
    assert reconstruction.dtype == torch.uint8
    error = (reconstruction.float() - image.float()).square().mean().sqrt() / 255
    assert error < 0.85 * image.float().std() / 255
    assert mean.shape == log_variance.shape == (6, 4)
    assert (log_variance < 0.5).all()
    again = detector(image)
    assert all(
        torch.equal(a, b) for a, b in zip(again, (score, anomaly_map, reconstruction, mean, log_variance), strict=True)
    )


def test_the_decoder_at_the_mean_is_the_reconstruction(trained):
    detector = trained[0].detector
    _, _, reconstruction, mean, _ = detector(torch.from_numpy(stripes(6, seed=7)))
    assert torch.equal(Decoder(detector)(mean), reconstruction)


def test_samples_look_like_good_pictures(trained):
    detector = trained[0].detector
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((32, 4), dtype=np.float32))
    samples = Decoder(detector)(z).float()
    good = torch.from_numpy(stripes(32)).float()
    # Stripes run from left to right: grey changes from row to row, not from column to column.
    down, right = ((samples.diff(dim=d).abs().mean()) for d in (1, 2))
    assert down > 2.5 * right
    assert samples.mean() == pytest.approx(good.mean().item(), abs=12)


@pytest.mark.parametrize("draws", [0, 3])
def test_the_elbo_as_score(tmp_path, draws):
    result, _ = train(tmp_path, score="elbo", elbo_samples=draws, epochs=8)
    clean = stripes(30, seed=7)
    defective = clean.copy()
    defective[:, 8:20, 12:24] = 255 - defective[:, 8:20, 12:24]
    good, bad = (result.detector(torch.from_numpy(pixels))[0] for pixels in (clean, defective))
    assert torch.equal(result.detector(torch.from_numpy(clean))[0], good)
    assert (good > 0).all()
    assert (bad > good).float().mean() > 0.9  # the same picture, with and without
    assert np.median(bad) > 1.3 * np.median(good)
    assert result.report.statistics_scores.shape == (24,)
    assert result.report.statistics_scores.mean() == pytest.approx(0.8, abs=0.15)  # softplus of a standard deviate


def test_free_bits_keep_the_latent_in_use(tmp_path):
    (_, poor), (_, rich) = (train(tmp_path, beta=400.0, free_bits=bits, epochs=4) for bits in (0.0, 2.0))
    assert poor[3]["kl_statistics"] < 1
    assert rich[3]["kl_statistics"] > poor[3]["kl_statistics"] + 1.5


def test_a_seed_gives_the_same_vae(tmp_path):
    losses = [train(tmp_path, epochs=1, seed=seed)[0].loss for seed in (1, 1, 2)]
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


@pytest.mark.parametrize("architecture", ["dense", "strided"])
def test_the_tutorials_architectures(architecture):
    detector = make_vae(VaeConfig(size=28, channels=1, latent=20, architecture=architecture)).eval()
    image = torch.zeros(2, 28, 28, 1, dtype=torch.uint8)
    assert detector(image)[2].shape == image.shape
    parameters = sum(parameter.numel() for parameter in detector.vae.parameters()) - 1
    dense = 784 * 400 + 400 + 400 * 40 + 40 + 20 * 400 + 400 + 400 * 784 + 784
    assert parameters == dense if architecture == "dense" else 200_000 < parameters < 300_000


def test_the_held_out_loss_is_the_same_at_every_call(trained):
    detector = trained[0].detector
    features = detector.features(torch.from_numpy(stripes(10, seed=7)))
    first, second = (held_out_loss(detector.vae, lambda: iter([features]), seed=0) for _ in range(2))
    assert first == second
    assert first[1] < first[0] or not detector.vae.is_bernoulli

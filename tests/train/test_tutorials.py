"""configs/train: every file loads, and its model takes 28x28 digits and has the tutorials' size."""

from pathlib import Path

import pytest
import torch

from train.config import kinds as configs
from train.nets.detector import make_denoiser, make_detector, make_vae

FOLDER = Path(__file__).parents[2] / "configs" / "train"
MAKERS = {"ae": make_detector, "denoiser": make_denoiser, "vae": make_vae}
DIGITS = sorted(FOLDER.glob("digits-*.toml"), key=lambda path: path.stem)
TUTORIALS = ("", "-dense", "-strided")
DENSE_VAE = (784 * 400 + 400) + (400 * 40 + 40) + (20 * 400 + 400) + (400 * 784 + 784)


def made(path):
    kind = path.stem.split("-")[1]
    return MAKERS[kind](configs.load(configs.KINDS[kind], path, []))


def test_there_is_one_of_ours_beside_each_of_theirs():
    assert [path.stem for path in DIGITS] == [
        "digits-ae",
        "digits-ae-dense",
        "digits-denoiser",
        "digits-denoiser-strided",
        "digits-vae-2",
        "digits-vae-2-strided",
        "digits-vae-20",
        "digits-vae-20-dense",
    ]


@pytest.mark.parametrize("path", DIGITS, ids=lambda path: path.stem)
def test_it_takes_digits(path):
    detector = made(path).eval()
    image = torch.randint(0, 256, (2, 28, 28, 1), dtype=torch.uint8)
    score, anomaly_map, reconstruction, *_ = detector(image)
    assert score.shape == (2,)
    assert anomaly_map.shape == (2, 7, 7)
    assert (reconstruction.dtype, reconstruction.shape) == (torch.uint8, image.shape)


@pytest.mark.parametrize(
    ("name", "network", "parameters"),
    [
        ("digits-ae-dense", "autoencoder", (784 * 64 + 64) + (64 * 784 + 784)),
        ("digits-denoiser-strided", "autoencoder", 160 + 1160 + 584 + 1168 + 145),
        ("digits-vae-20-dense", "vae", DENSE_VAE + 1),  # and the deviation, which Bernoulli does not use
    ],
)
def test_the_tutorials_models_have_the_tutorials_size(name, network, parameters):
    detector = made(FOLDER / f"{name}.toml")
    assert sum(parameter.numel() for parameter in getattr(detector, network).parameters()) == parameters


@pytest.mark.parametrize("task", ["ae", "denoiser", "vae-2", "vae-20"])
def test_both_of_a_pair_get_the_same_task(task):
    kind = configs.KINDS[task.split("-", maxsplit=1)[0]]
    ours, theirs = (
        configs.load(kind, path, []) for path in DIGITS if path.stem.removeprefix(f"digits-{task}") in TUTORIALS
    )
    shared = {"size", "channels", "latent", "epochs", "noise", "poisson", "structured", "likelihood", "beta"}
    for key in shared & set(kind.model_fields):
        assert getattr(ours, key) == getattr(theirs, key)

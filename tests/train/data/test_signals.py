"""`python -m train ae` with `input = "signal"`: a folder of signals -> a run directory."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.train.beats import beat, folder
from train import run
from train.__main__ import main
from train.config import kinds as configs
from train.config.signal import SignalConfig
from train.data.signals import FoldedSamples
from train.errors import OptionError
from train.nets.detector import make_detector

QUICK = ["input=signal", "width=8", "latent=3", "epochs=40", "batch_size=8", "target_fpr=0.1"]


def train(good, out, *settings, kind="ae", more=()):
    given = [item for setting in (*QUICK, *settings) for item in ("--set", setting)]
    return main([kind, "--good", str(good), "--out", str(out), *given, *more])


def scores(loaded, signals):
    return loaded.detector(torch.from_numpy(np.stack(signals)))[0].numpy()


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["architecture=dense", "hidden=[16]", "epochs=60"],
        ["score=map", "smoothing=0.5"],
        ["scaling=range", "loss=mae", "epochs=30"],
        ["mix=0.5"],
    ],
)
def test_it_tells_a_missing_echo_and_where(tmp_path, settings):
    bad = folder(tmp_path / "bad", 4, first=900, bad=True)
    assert train(folder(tmp_path / "good", 60), tmp_path / "run", *settings, more=["--bad", str(bad)]) == 0
    loaded = run.load(tmp_path / "run")
    assert (loaded.config.channels, loaded.config.length) == (1, 50)  # as the files have it
    assert {part: len(loaded.part(part)) for part in ("fit", "statistics", "calibration", "bad")} == {
        "fit": 43,
        "statistics": 8,
        "calibration": 9,
        "bad": 4,
    }
    good, missing = (scores(loaded, [beat(500 + n, bad=is_bad) for n in range(20)]) for is_bad in (False, True))
    assert (good > 0).all()
    assert np.mean(missing[:, None] > good) > 0.95
    heat = loaded.detector(torch.from_numpy(beat(600, bad=True)[None]))[1].numpy()
    assert heat.shape == (1, 1, 13)
    assert 25 <= 4 * int(heat.argmax()) + 2 <= 45  # the echo, or what is made up beside it


def test_channels_of_any_unit(tmp_path):
    assert train(folder(tmp_path / "good", 40, channels=3), tmp_path / "run") == 0
    loaded = run.load(tmp_path / "run")
    signal = torch.from_numpy(beat(700, channels=3)[None])
    _, _, reconstruction = loaded.detector(signal)
    assert reconstruction.shape == (1, 3, 50)
    deviations = signal.std(dim=2)[0]
    assert deviations[2] > 50 * deviations[0]
    error = (reconstruction - signal)[0].square().mean(dim=1).sqrt()
    assert (error < deviations).all()


def test_the_same_seed_gives_the_same_run(tmp_path):
    good = folder(tmp_path / "good", 30)
    for name in ("one", "two"):
        assert train(good, tmp_path / name, "epochs=2") == 0
    assert train(good, tmp_path / "mixed", "epochs=2", "mix=0.5") == 0
    one, two, mixed = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two", "mixed")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not all(torch.equal(one[key], mixed[key]) for key in one)


def test_what_cannot_be_learnt_from_is_named(tmp_path, capsys):
    good = folder(tmp_path / "good", 30)
    np.save(good / "nan.npy", np.full(50, np.nan))
    np.save(good / "short.npy", np.zeros(49))
    np.save(good / "stereo.npy", beat(1, channels=2))
    np.save(good / "objects.npy", np.array([{}] * 50, dtype=object), allow_pickle=True)
    (good / "text.csv").write_text("volts\n1\ntwo\n3\n")
    np.save(good / "again.npy", np.loadtxt(good / "000.csv", skiprows=1, dtype=np.float32))
    Image.new("L", (8, 8)).save(good / "picture.png")
    assert train(good, tmp_path / "run", "epochs=1") == 0
    shown = capsys.readouterr().err
    assert "unreadable: 5 of 36 signals skipped" in shown
    for reason in (
        "nan.npy (some samples are not finite numbers)",
        "short.npy (channels x samples are 1x49; the model takes 1x50)",
        "stereo.npy (channels x samples are 2x50; the model takes 1x50)",
        "objects.npy (an array of object with 1 axes",
        "text.csv (line 3, column 1: is not a number: 'two')",
    ):
        assert reason in shown
    assert "duplicates: 1 of the signals dropped, as repetitions" in shown
    assert "other-kind: 1 of the files left out, as no signals" in shown
    assert "30 good signals: " in shown
    assert "pictures" not in shown


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        (["size=32"], "ae", 'size: is for input = "image", and this is input = "signal"'),
        (["hidden=[0]"], "ae", "hidden: must be a list of up to 8, each a whole number from 1 to 65536, not 0"),
        (["lenght=50"], "ae", "lenght: there is no such key; did you mean length"),
        (["input=video"], "ae", "input: 'video' is neither image nor signal"),
        (["channels=0"], "ae", "channels: must be a whole number from 1 to 1024, not 0"),
        (["length=50", "patch=20"], "ae", "patch: 20 leaves the last position nearly empty; 17 does not"),
        (["patch=10", "regions=4"], "ae", "regions: 4 does not divide the map of 5 positions"),
        (["length=60"], "ae", "none of its 20 signals can be read"),
        (["input=image"], "ae", "holds no pictures"),
        (["input=image"], "ae", 'files of another kind: 20; set input = "signal"'),
        ([], "vae", "signals are for `python -m train ae`"),
        ([], "denoiser", "signals are for `python -m train ae`"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(tmp_path, capsys, settings, kind, message):
    folder(tmp_path / "good", 20)
    given = [item for setting in ("input=signal", *settings) for item in ("--set", setting)]
    assert main([kind, "--good", str(tmp_path / "good"), "--out", str(tmp_path / "run"), *given]) == 2
    assert message in capsys.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["good"]


def test_no_denoiser_before_signals(tmp_path, capsys):
    good = folder(tmp_path / "good", 12)
    assert train(good, tmp_path / "run", more=["--denoiser", str(tmp_path)]) == 2
    assert "--denoiser cleans pictures" in capsys.readouterr().err


def test_no_signals_at_all(tmp_path, capsys):
    assert train(tmp_path / "absent", tmp_path / "run") == 2
    assert "holds no signals that can be read" in capsys.readouterr().err


def test_keys_of_signals_are_not_for_pictures():
    with pytest.raises(OptionError, match='hidden: is for input = "signal"'):
        configs.load(configs.AutoencoderConfig, None, ["hidden=[3]"])


@pytest.mark.parametrize(("channels", "length"), [(1, 8), (1, 17), (2, 140), (1, 4001), (3, 1025), (1024, 16)])
def test_every_shape_has_defaults_that_fit(channels, length):
    config = SignalConfig().shaped(channels, length)
    assert config.positions % config.regions == 0
    assert config.positions * config.patch - length < config.patch
    assert channels * config.patch <= 1024


@pytest.mark.parametrize(("length", "patch"), [(10, 5), (10, 4), (7, 7), (9, 1)])
def test_folding_is_undone_by_unfolding(length, patch):
    signal = torch.arange(2.0 * 3 * length).reshape(2, 3, length)
    extractor = FoldedSamples(3, length, patch, "deviation")
    folded = extractor(signal)
    assert folded.shape == (2, 3 * patch, 1, -(-length // patch))
    assert torch.equal(extractor.unfold(folded), signal)
    assert torch.equal(folded[0, patch, 0], signal[0, 1, ::patch])  # the second channel's first samples


@pytest.mark.parametrize(
    ("scaling", "level", "size"), [("deviation", 5.0, 1.5e-9), ("range", 5.0, 1e9), ("range", 0.0, 0.0)]
)
def test_standardising_takes_any_unit(scaling, level, size):
    rng = np.random.default_rng(0)
    signal = (level * (size > 1e-6) + size * rng.normal(0, 1, (20, 1, 32))).astype(np.float32)
    extractor = FoldedSamples(1, 32, 8, scaling)
    folded = extractor(torch.from_numpy(signal))
    center, scale = extractor.standardising(folded.numpy(), np.arange(20))
    standardised = (folded - center) / scale
    if scaling == "deviation":
        assert abs(float(standardised.mean())) < 1e-3
        assert float(standardised.std()) == pytest.approx(1, abs=0.01)
    else:
        assert float(standardised.min()) == 0
        assert float(standardised.max()) == pytest.approx(1 if size else 0, abs=1e-4)


def test_the_tutorials_network_has_the_tutorials_size():
    file = Path(__file__).parents[3] / "configs" / "train" / "ecg-dense.toml"
    config = configs.load(configs.AutoencoderConfig, file, [])
    sizes = [140, 32, 16, 8, 16, 32, 140]
    detector = make_detector(config)
    assert sum(p.numel() for p in detector.autoencoder.parameters()) == sum(
        (inputs + 1) * outputs for inputs, outputs in pairwise(sizes)
    )
    assert isinstance(detector.autoencoder.network.decoder[-1], torch.nn.Sigmoid)

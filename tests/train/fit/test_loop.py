import math

import pytest
import torch
from torch import nn

from train.config.kinds import AutoencoderConfig, load
from train.errors import TrainError
from train.fit.loop import CPU, choose_device, optimise, share_of_peak
from train.progress import nowhere


def test_the_best_epoch_is_kept_and_patience_ends():
    config = load(AutoencoderConfig, None, ["epochs=20", "patience=3", "learning_rate=0.1"])
    model, lines, losses = nn.Linear(1, 1), [], iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.5])
    weights = []

    def held_out():
        weights.append(model.weight.detach().clone())
        return {"loss_statistics": next(losses)}

    kept = optimise(
        model,
        config,
        batches=lambda: [torch.ones(4, 1)] * 2,
        loss=lambda x: model(x).square().mean(),
        held_out=held_out,
        steps=2,
        device=CPU,
        log=lines.append,
        track=nowhere,
    )
    assert (kept.epoch, kept.loss) == (2, 1.0)
    assert [line["epoch"] for line in lines] == [1, 2, 3, 4, 5]
    assert torch.equal(model.weight, weights[1])
    assert not torch.equal(model.weight, weights[4])
    assert not model.weight.requires_grad


@pytest.mark.parametrize("rising", [False, True])
def test_training_that_diverges_is_no_success(rising):
    config = load(AutoencoderConfig, None, ["epochs=3", "learning_rate=1"])
    model, factors = nn.Linear(1, 1), iter([1.0, 1.0, 1.0, math.inf if rising else 1.0, 1.0, 1.0])
    held_out = iter([1.0, 2.0 if rising else math.nan, 2.0])
    with pytest.raises(TrainError, match=r"diverged: in epoch 2 .* Set a learning_rate below 1,"):
        optimise(
            model,
            config,
            batches=lambda: [torch.ones(4, 1)] * 2,
            loss=lambda x: model(x).square().mean() * next(factors),
            held_out=lambda: {"loss_statistics": next(held_out)},
            steps=2,
            device=CPU,
            log=lambda line: None,
            track=nowhere,
        )


def test_a_device_is_what_was_asked_for():
    assert choose_device("cpu") == CPU
    if torch.cuda.is_available():
        assert choose_device("auto").type == choose_device("cuda").type == "cuda"
    else:
        assert choose_device("auto") == CPU
        with pytest.raises(TrainError, match="finds no CUDA device"):
            choose_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_trains_to_the_same_loss_within_a_hundredth():
    config = load(AutoencoderConfig, None, ["epochs=30", "patience=30"])
    x = torch.randn(64, 8, generator=torch.Generator().manual_seed(0)) @ torch.randn(8, 8)
    found = []
    for device in (CPU, torch.device("cuda")):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(8, 4), nn.Linear(4, 8))
        where = x.to(device)

        def loss(rows, model=model, where=where):
            return (model(where[rows]) - where[rows]).square().mean()

        kept = optimise(
            model,
            config,
            batches=lambda: torch.arange(64).split(16),
            loss=loss,
            held_out=lambda loss=loss: {"loss_statistics": float(loss(torch.arange(64)).detach())},
            steps=4,
            device=device,
            log=lambda line: None,
            track=nowhere,
        )
        found.append(kept.loss)
    assert found[1] == pytest.approx(found[0], rel=1e-2)


def test_the_rate_rises_and_falls():
    shares = [share_of_peak(step, total=100, schedule="cosine") for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == 1.0
    assert shares[-1] == pytest.approx(0.0, abs=1e-3)
    assert share_of_peak(50, total=100, schedule="constant") == 1.0
    assert not math.isnan(sum(shares))

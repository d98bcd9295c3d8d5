from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.nets.trunk_reference import picture
from train.nets.backbone import load_trunk

KNOWN = Path(__file__).parent / "trunk.npz"


def test_known_outputs():
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None].float()
    fine, coarse = load_trunk((4, 6))(image)
    with np.load(KNOWN) as known:
        np.testing.assert_allclose(fine.numpy(), known["fine"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(coarse.numpy(), known["coarse"], rtol=1e-3, atol=1e-3)
    assert (fine.shape, coarse.shape) == ((1, 40, 6, 4), (1, 112, 3, 2))


def test_it_is_frozen():
    trunk = load_trunk((4, 6))
    assert not trunk.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_other_weights_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        load_trunk((4, 6), tmp_path / "other.pth")


def test_stages():
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None].float()
    maps = load_trunk((3, 4, 5, 6))(image)
    assert [tuple(x.shape) for x in maps] == [(1, 24, 12, 8), (1, 40, 6, 4), (1, 80, 3, 2), (1, 112, 3, 2)]
    with np.load(KNOWN) as known:
        np.testing.assert_allclose(maps[1].numpy(), known["fine"], rtol=1e-3, atol=1e-3)
    early = load_trunk((3, 5))
    assert len(early.blocks) == 8  # what no stage needs is not there
    torch.testing.assert_close(early(image)[1], maps[2])

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.train.trunk_reference import picture
from train.backbone import load_trunk

KNOWN = Path(__file__).parent / "data" / "trunk.npz"


def test_known_outputs():
    image = torch.from_numpy(picture()).permute(2, 0, 1)[None].float()
    fine, coarse = load_trunk()(image)
    with np.load(KNOWN) as known:
        np.testing.assert_allclose(fine.numpy(), known["fine"], rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(coarse.numpy(), known["coarse"], rtol=1e-3, atol=1e-3)
    assert (fine.shape, coarse.shape) == ((1, 40, 6, 4), (1, 112, 3, 2))


def test_it_is_frozen():
    trunk = load_trunk()
    assert not trunk.training
    assert not any(parameter.requires_grad for parameter in trunk.parameters())


def test_other_weights_are_refused(tmp_path):
    torch.save({"fc.weight": torch.zeros(2)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match="not the weights of EfficientNet-Lite0"):
        load_trunk(tmp_path / "other.pth")

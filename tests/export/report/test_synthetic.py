"""Synthetic defects: their sizes are in pixels of the file, and what the model finds of them is reported."""

import numpy as np
import pytest
import torch
from torch import Generator

from edged.models.scorer import Scorer
from export.report import synthetic
from tests.train.plates import folder
from train.data.pictures import read
from train.data.reader import Reader


@pytest.mark.parametrize(("covers", "pixels"), [((1.0, 1.0), 78.5), ((2.0, 2.0), 19.6), ((2.0, 1.0), 39.3)])
def test_a_dot_covers_what_its_diameter_says(covers, pixels):
    grey = torch.full((1, 64, 64), 0.4)
    generator = Generator().manual_seed(2)  # a place that leaves room around it
    changed = synthetic.Mark(10.0, 1, 0.25).drawn(covers, None, grey, generator) - grey
    assert float(changed.sum() / 0.25) == pytest.approx(pixels, rel=0.05)
    assert float(changed.max()) == pytest.approx(0.25)


def test_a_dot_is_where_the_model_looks():
    looked_at = np.zeros((64, 64), bool)
    looked_at[40:50, 8:20] = True
    for seed in range(5):
        grey = torch.full((1, 64, 64), 0.4)
        drawn = synthetic.Mark(2.0, 1, 0.25).drawn((1.0, 1.0), looked_at, grey, Generator().manual_seed(seed))
        row, column = np.unravel_index(int((drawn - grey).argmax()), (64, 64))
        assert 39 <= row <= 50
        assert 7 <= column <= 20


def test_what_stands_out_more_is_found_when_it_is_smaller(tmp_path, tiny):
    """The tiny model looks at the brightest of its patches."""
    served = Scorer.load(tiny, device="cpu")
    spec = served.bundle.manifest.input
    good = read(folder(tmp_path / "good", 8), spec, store=tmp_path / "good.npy").pictures
    found = synthetic.measure(served, Reader(spec, None), good, covers=(1.5, 1.5), threshold=0.9)
    assert found is not None
    assert found.n == 8
    assert [one.contrast for one in found.smallest] == [0.1, 0.25, 0.5]
    sizes = [np.inf if one.dot_px is None else one.dot_px for one in found.smallest]
    assert sizes == sorted(sizes, reverse=True)
    assert found == synthetic.measure(served, Reader(spec, None), good, covers=(1.5, 1.5), threshold=0.9)
    assert synthetic.measure(served, Reader(spec, None), good, covers=(1.5, 1.5), threshold=1e-6) is None

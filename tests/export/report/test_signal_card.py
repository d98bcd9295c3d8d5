"""Curves on the card of a model of signals."""

import numpy as np
import pytest
from PIL import Image

from export.report import signal_card
from export.report.sheets import Example


def example(name="a.csv", *, channels=1, is_bad=False, red=()):
    values = np.zeros((channels, 40), np.float32)
    heat = np.zeros((1, 10), np.float32)
    heat[0, list(red)] = 5.0
    return Example(name, is_bad, values, heat, 2.0, values + 1)


def drawn(path, shown):
    signal_card.examples(path, [("Some", shown)], threshold=1.0, coloured_from=1.0)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def reddish(image):
    """Pixels of full shade, half of it red over white, below the legend that shows the same."""
    shade = np.array([0xC4, 0x4E, 0x52]) / 2 + 127.5
    return (np.abs(image - shade).max(axis=-1) <= 2)[66:]


def test_red_stands_where_the_map_is_above_one(tmp_path):
    assert not reddish(drawn(tmp_path / "none.png", [example()])).any()
    one, last = (reddish(drawn(tmp_path / f"{n}.png", [example(red=[n])])) for n in (3, 9))
    columns_one, columns_last = (np.flatnonzero(image.any(axis=0)) for image in (one, last))
    width = np.ptp(columns_last)
    # Positions 3 and 9 of ten, each 4 samples wide: six widths lie between where they end.
    assert np.ptp(columns_one) == pytest.approx(width, rel=0.2)
    assert columns_last.max() - columns_one.max() == pytest.approx(6 * width, rel=0.2)


def test_every_channel_up_to_four_has_its_own_axes(tmp_path):
    heights = [len(drawn(tmp_path / f"{n}.png", [example(channels=n)])) for n in (1, 2, 4, 7)]
    assert heights[0] < heights[1] < heights[2] == heights[3]


def test_four_in_a_row(tmp_path):
    one, four, five = (len(drawn(tmp_path / f"{n}.png", [example()] * n)) for n in (1, 4, 5))
    assert one == four < five


@pytest.mark.parametrize("name", ["$x_{$.csv", "x" * 5000 + ".csv", "\n\x1b[31m.csv"])
def test_names_that_are_long_or_strange_do_no_harm(tmp_path, name):
    plain, strange = drawn(tmp_path / "p.png", [example()] * 4), drawn(tmp_path / "s.png", [example(name)] * 4)
    assert strange.shape == plain.shape

import numpy as np
import pytest
from PIL import Image

from edged.media import overlays
from export.report import plots, sheets
from export.report.metrics import report
from export.report.sheets import Example

TILE = 128


def example(name="a.png", score=2.0, *, is_bad=False, side=TILE):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (side, side, 1), dtype=np.uint8)
    return Example(name, is_bad, image, rng.uniform(0, 4, (32, 32)).astype(np.float32), score)


def holds(sheet, part):
    """Whether a picture stands somewhere on a sheet, pixel for pixel."""
    height, width = part.shape[:2]
    corners = np.argwhere((sheet == part[0, 0]).all(axis=-1))
    return any(np.array_equal(sheet[y : y + height, x : x + width], part) for y, x in corners)


def test_an_example_stands_under_the_colours_that_edged_draws(tmp_path):
    shown = example()
    sheets.examples(tmp_path / "e.png", [("Some", [shown])], threshold=1.0, coloured_from=1.0)
    sheet = np.asarray(Image.open(tmp_path / "e.png"))
    drawn = np.asarray(overlays.render(shown.image, shown.anomaly_map))
    assert holds(sheet, drawn[:, 4:-4][4:-4])
    # The scale is drawn by the same hand: at 0 and 1 the grey that it lies on, at 3 and 4 the same red.
    grey = np.full((8, 8, 3), 150, np.uint8)
    full = np.asarray(overlays.render(grey, np.full((8, 8), 3.5, np.float32)))[0, 12]
    row = next(row for row in sheet[:60] if (row == full).all(axis=-1).sum() > 90)
    coloured = np.flatnonzero((row == full).all(axis=-1))
    assert coloured.max() - coloured.min() == pytest.approx(100, abs=3)  # a quarter of 400 px, 3 to 4


def test_rows_of_four_and_a_frame_for_good_and_bad(tmp_path):
    for n in (1, 4, 5):
        sheets.examples(tmp_path / f"{n}.png", [("Some", [example()] * n)], threshold=1.0, coloured_from=1.0)
    one, four, five = (len(np.asarray(Image.open(tmp_path / f"{n}.png"))) for n in (1, 4, 5))
    assert one == four < five
    sheets.examples(tmp_path / "bad.png", [("Some", [example(is_bad=True)])], threshold=1.0, coloured_from=1.0)
    good, bad = (np.asarray(Image.open(tmp_path / f"{name}.png")).reshape(-1, 3) for name in ("1", "bad"))
    assert (bad == (196, 78, 82)).all(axis=-1).sum() > 500
    assert not (good == (196, 78, 82)).all(axis=-1).any()


def test_names_that_are_long_or_strange_do_no_harm(tmp_path):
    sheets.examples(
        tmp_path / "e.png", [("Some", [example("x" * 5000 + "\n\x1b[31m")])], threshold=1.0, coloured_from=1.0
    )
    with Image.open(tmp_path / "e.png") as sheet:
        assert sheet.width < 1200


def test_differences_are_doubled_around_middle_grey():
    image, other = (np.array([[[level]] for level in levels], np.uint8) for levels in ([10, 200, 7], [0, 40, 7]))
    np.testing.assert_array_equal(sheets.difference(image, other).ravel(), [148, 255, 128])
    np.testing.assert_array_equal(sheets.difference(other, image).ravel(), [108, 0, 128])


def test_reconstructions_show_all_columns(tmp_path):
    images = [example(side=TILE).image, np.full((TILE, TILE, 1), 7, np.uint8), np.full((TILE, TILE, 1), 9, np.uint8)]
    sheets.reconstructions(tmp_path / "r.png", ("noisy", "denoised", "clean"), [("a.png", images)])
    sheet = np.asarray(Image.open(tmp_path / "r.png"))
    for image in images:
        assert holds(sheet, np.broadcast_to(image, (TILE, TILE, 3))[2:-2, 2:-2])


def test_no_bar_of_the_histogram_crosses_the_threshold():
    scores = np.array([0.4, 1.0, 2.0, 5.866])
    bins = plots.bins(scores, threshold=5.866)
    assert bins[0] <= 0.4
    assert bins[-1] >= 5.866
    (edge,) = bins[np.isclose(bins, 5.866)]
    counted, _ = np.histogram(scores, bins)
    assert edge > 5.866  # so that the score that is the threshold, no anomaly, is left of the line
    assert counted.sum() == 4
    assert counted[bins[:-1] >= 5.866].sum() == 0


@pytest.mark.parametrize(("more", "panels"), [({}, 1), ({"psnr_statistics": 20.0}, 2), ({"kl_statistics": 3.0}, 3)])
def test_learning_curves_have_a_panel_for_each_term(tmp_path, more, panels):
    epochs = [{"epoch": n, "loss_fit": 2.0 / n, "loss_statistics": 4.0 / n, **more} for n in range(1, 5)]
    plots.learning(tmp_path / "l.png", epochs=epochs, best=3, loss="loss", plural="pictures")
    marker = np.array([0xC4, 0x4E, 0x52])
    image = np.asarray(Image.open(tmp_path / "l.png").convert("RGB"))
    columns = (image == marker).all(axis=-1).sum(axis=0) > 100  # the dashed line of the best epoch
    assert (np.diff(columns.astype(int)) == 1).sum() == panels


def test_curves_are_drawn_when_nothing_is_found(tmp_path):
    good, bad = np.linspace(1, 2, 30), np.linspace(0.5, 1.5, 7)
    plots.curves(tmp_path / "c.png", good=good, bad=bad, threshold=2.0, report=report(good, bad, 2.0), plural="parts")
    plots.histogram(tmp_path / "h.png", good=np.ones(3), bad=None, threshold=1.0, plural="parts")
    for name in "ch":
        with Image.open(tmp_path / f"{name}.png") as image:
            assert min(image.size) > 300

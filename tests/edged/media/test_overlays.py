from dataclasses import replace

import numpy as np
import pytest

from edged.media.overlays import draw, render, render_signal
from edged.results import Frame, Result, Shot


def halves(value: float, grey: int = 100, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    image = np.asarray(render(np.full((32, 32, channels), grey, np.uint8), np.full((8, 8), value, np.float32)))
    assert image.shape == (32, 64, 3)
    return image[:, :32], image[:, 32:]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_what_good_pictures_show_stays_clear(value: float, channels: int) -> None:
    plain, overlay = halves(value, channels=channels)
    assert (plain == 100).all()
    assert (overlay == 100).all()


def test_the_scale_is_fixed() -> None:
    _, full = halves(3.0)
    assert np.array_equal(full[0, 0], np.round(100 * 0.4 + np.array([220, 0, 0]) * 0.6))
    assert np.array_equal(halves(300.0)[1], full)
    _, middle = halves(2.0)
    assert np.array_equal(middle[0, 0], np.round(100 * 0.575 + np.array([255, 128, 0]) * 0.425))


@pytest.mark.parametrize("sides", [(1, 1), (8, 8), (7, 5)])
def test_colour_begins_where_the_highest_position_passes_the_level(sides: tuple[int, int]) -> None:
    """Whatever is lost between positions, a map whose highest one is above the level has colour, and else none."""
    for above in (True, False):
        heat = np.full(sides, 0.01, np.float32)
        heat[sides[0] // 2, sides[1] // 2] = 1.401 if above else 1.4
        image = np.asarray(render(np.full((32, 32, 1), 100, np.uint8), heat, coloured_from=1.4))
        assert (image[:, 32:] != 100).any() == above


def test_heat_is_where_the_map_is() -> None:
    heat = np.zeros((8, 8), np.float32)
    heat[1, 6] = 5.0  # rows 4 to 7, columns 24 to 27
    image = np.asarray(render(np.zeros((32, 32, 1), np.uint8), heat)).astype(int)
    assert (image[:, :32] == 0).all()
    row, column = np.unravel_index(image[:, 32:, 0].argmax(), (32, 32))
    assert 4 <= row <= 7
    assert 24 <= column <= 27
    assert (image[16:, 32:] == 0).all()
    assert (image[:, 32:48] == 0).all()


def test_a_signals_heat_is_where_its_samples_are() -> None:
    heat = np.array([[0.0, 0.0, 5.0]], np.float32)  # 30 samples in positions of 10, 10 and 10: the last third
    image = np.asarray(render_signal(np.zeros((2, 30), np.float32), heat)).astype(int)
    assert image.shape == (240, 280, 3)
    coloured = image[0, :, 2] < 255
    assert not coloured[:180].any()
    assert coloured[195:].all()


def test_a_last_position_that_reaches_beyond_the_end_is_cut() -> None:
    heat = np.array([[0.0, 0.0, 5.0]], np.float32)  # 25 samples in positions of 9, 9 and 7
    image = np.asarray(render_signal(np.zeros((1, 25), np.float32), heat)).astype(int)
    coloured = image[0, :, 2] < 255
    assert not coloured[: 17 * 280 // 25].any()
    assert coloured[19 * 280 // 25 :].all()


def test_a_legend_says_what_is_seen() -> None:
    pixels, heat = np.zeros((32, 32, 1), np.uint8), np.zeros((8, 8), np.float32)
    frame = Frame("line1", "1", 0.0, pixels, "part\x1b004.png")
    verdicts = []
    for anomaly in (True, False):
        result = Result("1", "line1", 2.0, 1.0, 0.01, anomaly, heat, "tiny", {})
        image = np.asarray(draw(frame, result)).astype(int)
        assert image.shape == (32 + 54, 320, 3)
        assert (image[:32, :64] == 0).all()
        assert (image[34:50] < 100).any()  # the name
        verdicts.append(image[50:66])
    assert (verdicts[0][..., 0] - verdicts[0][..., 2]).max() > 100  # red
    assert (verdicts[1][..., 0] == verdicts[1][..., 2]).all()
    long = draw(Frame("line1", "1", 0.0, pixels, "a" * 300), result)
    assert long.size == (320, 86)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("Pr\u00fcfling \u00e9.png", "Prufling e.png"),
        ("u\u0308.png", "u.png"),  # as macOS writes it
        ("\u00df\u6f22.png", "\\xdf\\u6f22.png"),
    ],
)
def test_a_name_is_written_in_letters_that_the_font_has(name: str, shown: str) -> None:
    pixels, heat = np.zeros((32, 32, 1), np.uint8), np.zeros((8, 8), np.float32)
    result = Result("1", "line1", 2.0, 1.0, 0.01, True, heat, "tiny", {})
    drawn, expected = (draw(Frame("line1", "1", 0.0, pixels, one), result) for one in (name, shown))
    assert drawn.tobytes() == expected.tobytes()


def test_the_pictures_of_an_event_stand_below_its_peak() -> None:
    pixels = np.full((32, 32, 1), 128, np.uint8)
    shots = tuple(Shot(10 + number, pixels, 2.0, True) for number in range(7))
    frame = Frame("line1", "1", 0.0, pixels, "v.mp4")
    result = Result("1", "line1", 2.0, 1.0, 0.01, True, np.zeros((4, 4), np.float32), "tiny", {})
    alone, drawn = draw(frame, result), draw(replace(frame, shots=shots, started=10.0), result)
    assert drawn.width == alone.width == 320
    assert drawn.height == alone.height + 3 * 124  # three rows of up to three
    assert drawn.getpixel((50, alone.height + 50)) == (128, 128, 128)
    assert drawn.getpixel((270, drawn.height - 50)) == (255, 255, 255)

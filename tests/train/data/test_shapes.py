import re

import numpy as np
import pytest
from PIL import Image

from edged.media.imaging import ImageInput
from edged.media.regions import other_shape
from train.config.kinds import AutoencoderConfig, load
from train.data import masks, shapes
from train.data.pictures import Picture
from train.errors import OptionError


def config(*assignments):
    return load(AutoencoderConfig, None, assignments)


@pytest.mark.parametrize(
    ("source", "size"),
    [((300, 300), (256, 256)), ((500, 1260), (400, 160)), ((1260, 500), (160, 400)), ((310, 300), (256, 256))],
)
def test_the_size_follows_the_pictures_within_the_presets_pixels(source, size):
    assert config().shaped(source).size == size


def test_presets_keep_their_budget_and_sizes_that_are_set_stay():
    height, width = config("preset=fast").shaped((500, 1260)).size
    assert height * width <= 192 * 192
    assert height > 2 * width
    assert config("preset=fast", "size=640x256").shaped((500, 1260)).size == (256, 640)
    assert config("regions=8").shaped((500, 1260)).size == (384, 128)
    assert config("backbone=pixels").shaped((500, 1260)).size == (400, 160)


def test_the_smallest_defect_asks_for_pixels():
    assert config("defect_px=20").shaped((4000, 3000)).size == (1200, 1600)
    assert config("defect_px=200").shaped((300, 300)).size == (256, 256)
    assert config("defect_px=20", "roi=0,0,300,300").shaped((4000, 3000)).size == (256, 256)


def test_large_pictures_are_seen_in_tiles():
    assert config("defect_px=20").shaped((4000, 3000)).tiles == (3, 4)
    assert config("defect_px=20", "tiles=1x2").shaped((4000, 3000)).tiles == (1, 2)
    assert config("size=1280x640").shaped((4000, 2000)).tiles == (2, 3)
    assert config().shaped((4000, 3000)).tiles is None
    assert config("backbone=pixels", "size=1280").shaped((4000, 3000)).tiles is None
    with pytest.raises(OptionError, match="tiles: are of features"):
        config("backbone=pixels", "tiles=2x2")
    with pytest.raises(OptionError, match="too many for a picture"):
        config("size=64", "tiles=[3, 3]")


def test_time_and_memory_of_large_pictures_are_named():
    assert shapes.cost(config(), 60) is None
    words = shapes.cost(config("size=1280x640").shaped((4000, 2000)), 60)
    assert "1280x640 px in 2 x 3 tiles" in words
    assert "for one pass of 60" in words
    assert re.search(r"about 1\.\d GB of memory in training and 0\.[4-8] GB in service", words)


def test_regions_of_an_elongated_map_have_a_shape_of_their_own():
    shaped = config().shaped((500, 1260))
    assert [shaped.for_pictures(n).regions for n in (10, 30, 99)] == [(5, 5), (5, 10), (25, 10)]


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("roi=1,2,3", "roi: must be 4 numbers"),
        ("roi=0,0,0,5", r"roi: .* \(the part .* width and height, 1 or more\)"),
        ("size=3x", "size: "),
    ],
)
def test_what_is_no_size_and_no_rectangle(assignment, message):
    with pytest.raises(OptionError, match=message):
        config(assignment)


def test_a_roi_beyond_the_pictures_is_refused():
    with pytest.raises(OptionError, match="roi: 90,0,20,20 reaches beyond the pictures, which are 100x50 px"):
        shapes.check_roi(config("roi=90,0,20,20"), (100, 50))


def test_a_defect_that_the_size_is_too_small_for_is_said():
    (said,) = shapes.coarse(config("defect_px=20", "size=256").shaped((4000, 3000)), (4000, 3000))
    assert said.endswith(
        "defects below about 109 px are likely to be missed, and so those of defect_px = 20: size, or "
        "the pictures, have too few pixels"
    )
    (said,) = shapes.coarse(config("defect_px=3").shaped((400, 300)), (400, 300))  # as large as they are
    assert "defects below about 9 px are likely to be missed, and so those of defect_px = 3" in said
    for px in (8, 20, 33):
        assert shapes.coarse(config(f"defect_px={px}").shaped((1000, 700)), (1000, 700)) == []


def test_a_mask_of_another_shape_is_said(tmp_path):
    Image.new("L", (300, 100)).save(tmp_path / "mask.png")
    assert shapes.of_mask(tmp_path / "mask.png", (1200, 400)) == []
    (said,) = shapes.of_mask(tmp_path / "mask.png", (100, 300))
    assert "mask.png of 300x100 px has another shape than the pictures, 100x300 px" in said


def test_of_many_shapes_none_is_called_that_of_most():
    spec = config().shaped((100, 50)).spec_of((100, 50))
    pictures = [Picture(f"{n}.png", "", "", (100, 50 + 30 * n), "L", n, "fit") for n in range(4)]
    (said,) = shapes.others(pictures, spec)
    assert said.startswith("other-shape: 3 of 4 good pictures have another shape or scale than that in the middle of")
    assert said.endswith('; resize = "pad" keeps the shape of each')
    (said,) = shapes.others([pictures[0]] * 3 + pictures[:2], spec)
    assert said.startswith("other-shape: 1 of 5 good pictures comes to the model in another shape or scale than most: ")


def test_headers_tell_the_shape(tmp_path):
    for index in range(3):
        Image.new("L", (40, 100)).save(tmp_path / f"{index}.png")
    (tmp_path / "damaged.png").write_bytes(b"none")
    assert shapes.source_of(tmp_path, config().spec) == ((40, 100), 4)


def test_lying_and_standing_pictures_meet_in_a_square(tmp_path):
    for number in range(9):
        Image.new("L", (40, 100) if number % 3 else (100, 40)).save(tmp_path / f"{number}.png")
    assert shapes.source_of(tmp_path, config().spec)[0] == (63, 63)
    for number in range(20):  # most have one shape: those few that lie do not count
        Image.new("L", (40, 100)).save(tmp_path / f"more{number}.png")
    assert shapes.source_of(tmp_path, config().spec)[0] == (40, 100)


def test_a_model_pixel_that_covers_much_is_warned_about():
    assert shapes.coarse(config(), (300, 300)) == []
    assert "defects below about 109 px are likely" in shapes.coarse(config(), (4000, 3000))[0]


def test_pictures_of_another_shape_or_scale():
    spec = ImageInput(160, 400, source=(1260, 500))
    assert other_shape(spec, 1260, 500) is None
    assert "another shape" in str(other_shape(spec, 500, 500))
    assert "another scale" in str(other_shape(spec, 2520, 1000))
    assert other_shape(ImageInput(256, 256), 9, 900) is None


def test_what_is_like_any_of_many_shapes_is_not_called_another():
    def seen(*sizes):
        pictures = [Picture(f"{n}.png", "", "", size, "L", n, "fit") for n, size in enumerate(sizes)]
        return shapes.with_seen(ImageInput(256, 256, source=(200, 200)), pictures)

    many = seen((100, 400), (200, 200), (1600, 400))
    assert [other_shape(many, *size) for size in ((100, 400), (400, 100), (1000, 600))] == [None] * 3
    assert "another shape" in str(other_shape(many, 100, 600))
    assert "another shape" in str(other_shape(many, 600, 100))
    assert "another scale" in str(other_shape(many, 2000, 1000))
    assert "another scale" in str(other_shape(many, 100, 100))
    alike = seen((200, 200), (204, 200))
    assert (alike.aspects, alike.areas) == (None, None)
    assert other_shape(alike, 200, 200) is None


def test_a_mask_comes_to_the_models_size_as_pictures_do(tmp_path):
    mask = np.zeros((50, 100), np.uint8)
    mask[:, 50:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    spec = ImageInput(32, 32, roi=(100, 0, 200, 200), source=(400, 200))
    masks.write(tmp_path / "mask.png", spec, tmp_path / "out.png")
    found = np.asarray(Image.open(tmp_path / "out.png"))
    assert found.shape == (32, 32)
    assert (found[:, :15] == 0).all()
    assert (found[:, 17:] == 255).all()
    Image.fromarray(mask * 0).save(tmp_path / "mask.png")
    with pytest.raises(OptionError, match="is black everywhere"):
        masks.write(tmp_path / "mask.png", spec, tmp_path / "out.png")

import shutil

import numpy as np
import pytest
from PIL import Image

from edged.media.imaging import ImageInput
from tests.train.plates import folder, part
from train.data.pictures import read, split, without
from train.errors import TrainError

SPEC = ImageInput(16, 16, 1)


def parts_of(found):
    return {p.content: p.part for p in found.pictures}


def read_and_split(good, tmp_path, *, seed=0, target_fpr=0.1, calibration_share=0.0):
    found = read(good, SPEC, store=tmp_path / f"{seed}.npy")
    return split(found, target_fpr=target_fpr, statistics_share=0.15, seed=seed, calibration_share=calibration_share)


def test_three_parts_that_share_no_picture(tmp_path):
    found = read_and_split(folder(tmp_path / "good", 60), tmp_path)
    counts = {name: len(found.part(name)) for name in ("calibration", "statistics", "fit")}
    assert counts == {"calibration": 9, "statistics": 8, "fit": 43}
    assert len(parts_of(found)) == 60
    assert found.warnings == ()


def test_content_decides_and_not_the_name(tmp_path):
    good = folder(tmp_path / "good", 40)
    before = parts_of(read_and_split(good, tmp_path))
    for path in sorted(good.iterdir()):
        path.rename(good / f"z{part(int(path.stem))[0, 0]}-{path.name}")
    assert parts_of(read_and_split(good, tmp_path)) == before
    assert parts_of(read_and_split(good, tmp_path, seed=1)) != before


def test_the_split_is_the_same_at_every_size_of_the_model(tmp_path):
    good = folder(tmp_path / "good", 40)
    settings = {"target_fpr": 0.1, "statistics_share": 0.15, "seed": 0}
    small, large = (
        split(read(good, ImageInput(side, side, channels), store=tmp_path / f"{side}.npy"), **settings)
        for side, channels in ((16, 1), (32, 3))
    )
    assert [(p.content, p.part) for p in small.pictures] == [(p.content, p.part) for p in large.pictures]


def test_duplicates_are_dropped_by_their_pixels_and_named(tmp_path):
    good = folder(tmp_path / "good", 40)
    shutil.copy(good / "003.png", good / "copy.png")
    Image.open(good / "004.png").save(good / "resaved.bmp")
    found = read_and_split(good, tmp_path)
    assert len(found.pictures) == 40
    (warning,) = found.warnings
    assert warning.startswith("duplicates: 2 of the pictures")
    assert "copy.png = " in warning
    assert "resaved.bmp = " in warning


def test_unreadable_pictures_are_named_skipped_and_counted(tmp_path):
    good = folder(tmp_path / "good", 40)
    (good / "empty.png").write_bytes(b"")
    (good / "text.png").write_text("not a picture")
    (good / "cut.png").write_bytes((good / "000.png").read_bytes()[:200])
    found = read_and_split(good, tmp_path)
    assert len(found.pictures) == 40
    (warning,) = found.warnings
    assert warning.startswith("unreadable: 3 of 43 pictures")
    assert all(name in warning for name in ("empty.png", "text.png", "cut.png"))


def test_mixed_sizes_and_modes_are_named(tmp_path):
    good = folder(tmp_path / "good", 40)
    Image.fromarray(part(99, size=64)).convert("RGB").save(good / "other.png")
    warnings = read_and_split(good, tmp_path).warnings
    assert [warning.split(":")[0] for warning in warnings] == ["mixed-sizes", "mixed-modes"]
    assert "40 of 48x48, 1 of 64x64" in warnings[0]
    assert "40 of L, 1 of RGB" in warnings[1]


def test_too_few_for_the_rate_says_how_many_it_takes(tmp_path):
    found = read_and_split(folder(tmp_path / "good", 30), tmp_path, target_fpr=0.01)
    assert len(found.part("calibration")) == 10
    assert "takes 99 calibration pictures: 297 good ones in all; here are 30" in found.warnings[0]


def test_more_than_the_rate_takes_may_calibrate(tmp_path):
    found = read_and_split(folder(tmp_path / "good", 60), tmp_path, calibration_share=0.25)
    counts = {name: len(found.part(name)) for name in ("calibration", "statistics", "fit")}
    assert counts == {"calibration": 15, "statistics": 7, "fit": 38}


def test_too_few_to_train(tmp_path):
    with pytest.raises(TrainError, match=r"9 good pictures .* training takes 10, and 297 for"):
        read_and_split(folder(tmp_path / "good", 9), tmp_path, target_fpr=0.01)


def test_no_pictures(tmp_path):
    with pytest.raises(TrainError, match="no such folder"):
        read(tmp_path / "absent", SPEC, store=tmp_path / "x.npy")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TrainError, match="holds no pictures"):
        read(tmp_path / "empty", SPEC, store=tmp_path / "x.npy")
    (tmp_path / "empty" / "a.png").write_bytes(b"nothing")
    with pytest.raises(TrainError, match="none of its 1 pictures can be read"):
        read(tmp_path / "empty", SPEC, store=tmp_path / "x.npy")


def test_pixels_are_those_of_serving(tmp_path):
    good = folder(tmp_path / "good", 3)
    found = read(good, SPEC, store=tmp_path / "x.npy")
    expected = Image.open(good / "001.png").resize((16, 16), Image.Resampling.BILINEAR)
    np.testing.assert_array_equal(found.pixels[found.pictures[1].row][..., 0], np.asarray(expected))


def test_bad_pictures_that_are_good_too_are_dropped(tmp_path):
    good = folder(tmp_path / "good", 12)
    bad = folder(tmp_path / "bad", 3, first=500, blot=True)
    shutil.copy(good / "002.png", bad / "same.png")
    found = without(read(bad, SPEC, store=tmp_path / "b.npy", part="bad"), read(good, SPEC, store=tmp_path / "g.npy"))
    assert len(found.pictures) == 3
    assert found.warnings[0].startswith("good-and-bad: 1 of the bad pictures")

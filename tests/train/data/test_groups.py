"""What belongs together, and what a person leaves out."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edged.errors import ConfigError
from train.data.exclusion import without_excluded
from train.data.groups import grouped, looks_like_a_sequence, members_of_groups
from train.data.pictures import Picture, PictureSet, split
from train.errors import TrainError


def made(folder, names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_bytes(b"")
    pictures = tuple(Picture(str(folder / name), "", name, (8, 8), "L", row, "fit") for row, name in enumerate(names))
    return PictureSet(pictures, np.zeros((len(names), 8, 8, 1), np.uint8), ())


def groups_of(found, rule, folder):
    return [members.tolist() for members in members_of_groups(grouped(found, rule, folder).pictures)]


def test_groups_by_folder_and_by_file(tmp_path):
    found = made(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    assert groups_of(found, "folder", tmp_path) == [[0, 1], [2]]
    listed = tmp_path / "groups.csv"
    listed.write_text("a/1.png,x\na/2.png,y\nb/1.png,x\n")
    assert groups_of(found, str(listed), tmp_path) == [[0, 2], [1]]


def test_groups_by_time_are_stretches(tmp_path):
    found = made(tmp_path, ["1.png", "2.png", "3.png"])
    for picture, at in zip(found.pictures, (1000, 1100, 1030), strict=True):
        os.utime(picture.path, (at, at))
    assert groups_of(found, "time:60", tmp_path) == [[0, 2], [1]]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("folder", "all 2 pictures are in one group"),
        ("time:0", "seconds above 0"),
        ("time:9e9", "all 2 pictures are in one group.*`cp -p` keeps that"),
        ("absent.csv", "none of folder, time:SECONDS and a file"),
    ],
)
def test_rules_that_cannot_be_followed(tmp_path, rule, said):
    with pytest.raises(ConfigError, match=said):
        grouped(made(tmp_path, ["1.png", "2.png"]), rule, tmp_path)


def test_a_group_stays_in_one_part(tmp_path):
    names = [f"{folder}/{n}.png" for folder in "abcdefghijkl" for n in range(3)]
    found = grouped(made(tmp_path, names), "folder", tmp_path)
    parts = split(found, target_fpr=0.1, statistics_share=0.2, seed=0).pictures
    by_folder = {Path(picture.path).parent: set() for picture in parts}
    for picture in parts:
        by_folder[Path(picture.path).parent].add(picture.part)
    assert all(len(kinds) == 1 for kinds in by_folder.values())
    assert {picture.part for picture in parts} == {"fit", "statistics", "calibration"}


@pytest.mark.parametrize("folders", ["abc", "abcd", "abcdefg"])
def test_few_groups_leave_no_part_empty_and_the_most_to_fit(tmp_path, folders):
    found = grouped(made(tmp_path, [f"{folder}/{n}.png" for folder in folders for n in range(12)]), "folder", tmp_path)
    for seed in range(20):
        parts = split(found, target_fpr=0.01, statistics_share=0.15, seed=seed)
        counts = {part: len(parts.part(part)) // 12 for part in ("calibration", "statistics", "fit")}
        assert (
            counts
            == {
                "abc": {"calibration": 1, "statistics": 1, "fit": 1},
                "abcd": {"calibration": 1, "statistics": 1, "fit": 2},
                "abcdefg": {"calibration": 2, "statistics": 1, "fit": 4},
            }[folders]
        )


def test_two_groups_are_too_few_for_three_parts(tmp_path):
    found = grouped(made(tmp_path, [f"{folder}/{n}.png" for folder in "ab" for n in range(12)]), "folder", tmp_path)
    with pytest.raises(TrainError, match=r"in 2 groups, too few or too large .*fit none\); group them more finely"):
        split(found, target_fpr=0.01, statistics_share=0.15, seed=0)


def test_neighbours_that_are_alike_look_like_a_sequence(tmp_path):
    found = made(tmp_path, [f"{n:02}.png" for n in range(40)])
    random = np.random.default_rng(0)
    found.pixels[:] = np.linspace(0, 200, 40)[:, None, None, None] + random.integers(0, 3, found.pixels.shape)
    assert looks_like_a_sequence(found)
    shuffled = random.permutation(40)
    for picture, at in zip(found.pictures, shuffled.tolist(), strict=True):
        os.utime(picture.path, (at, at))
    found.pixels[:] = found.pixels[shuffled]  # neighbours in time, and not by name
    assert looks_like_a_sequence(found)
    # Alike as cells of one module are: 12 shades, noise as large as the steps between them.
    found.pixels[:] = np.repeat(random.permutation(12) * 8, 4)[:40, None, None, None] + random.integers(
        0, 40, found.pixels.shape
    )
    assert not looks_like_a_sequence(found)
    found.pixels[:] = random.integers(0, 255, found.pixels.shape)
    assert not looks_like_a_sequence(found)


def test_what_is_excluded_is_left_out_and_said(tmp_path):
    found = made(tmp_path, ["a/1.png", "a/2.png", "b/1.png"])
    listed = tmp_path / "exclude.txt"
    listed.write_text(f"# dirty\na/1.png\n\n{tmp_path}/b/1.png\n")
    left = without_excluded(found, listed, tmp_path)
    assert [picture.row for picture in left.pictures] == [1]
    assert left.warnings == (f"excluded: 2 left out by {listed}",)
    listed.write_text("a/9.png\n")
    with pytest.raises(TrainError, match=r"1 of its lines name no good picture below .*a/9\.png"):
        without_excluded(found, listed, tmp_path)


def test_what_is_excluded_may_be_named_in_any_way(tmp_path, monkeypatch):
    folder, listed = tmp_path / "good", tmp_path / "exclude.txt"
    found = made(folder, ["1.png", os.fsdecode(b"\xff.png"), "3.png", "4.png", "sub/3.png"])
    found = replace(found, stand_ins={f"{folder}/copy.png": f"{folder}/4.png", f"{folder}/broken.png": None})
    monkeypatch.chdir(folder / "sub")
    for line, kept in (
        (f"{folder}/../good/1.png".encode(), [1, 2, 3, 4]),  # as a run of `--good ../good` calls it
        (b"../1.png", [1, 2, 3, 4]),  # as a shell completes it
        (b"\xef\xbb\xbf1.png\r\n", [1, 2, 3, 4]),  # as an editor of another system writes it
        (b"\xff.png", [0, 2, 3, 4]),
        (b"3.png", [0, 1, 3, 4]),  # and not the one of that name that lies here
        (b"copy.png", [0, 1, 2, 4]),  # it shows what 4.png shows
        (b"broken.png", [0, 1, 2, 3, 4]),
    ):
        listed.write_bytes(line)
        left = without_excluded(found, listed, Path(".."))
        assert [picture.row for picture in left.pictures] == kept, line


def test_stretches_of_other_times_have_other_names_and_one_may_join_others(tmp_path):
    one, other = made(tmp_path / "a", ["1.png"]), made(tmp_path / "b", ["1.png"])
    os.utime(other.pictures[0].path, (1000, 1000))
    (first,), (second,) = (grouped(found, "time:60", tmp_path, alone=False).pictures for found in (one, other))
    assert second.group == "stretch of 1970-01-01 00:16:40.000000"
    assert first.group != second.group

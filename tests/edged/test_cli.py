import contextlib
import csv
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from edged import __version__, recalibration, scoring
from edged.cli import app
from edged.commands.results import parse_time
from edged.errors import ConfigError
from edged.journal import labels
from edged.journal.journal import Journal
from edged.media import frames
from edged.media.frames import Stretch
from edged.models import registry
from edged.models.groups import margin_of, members_of
from edged.results import Record
from edged.sources.folder.files import Fingerprint
from tests.conftest import TINY
from tests.edged.daemons import AS_ORDINARY_USER, Site
from tests.edged.making import BAD_SCORE, bad, encode, entry_of, good, quarantined, record
from tests.edged.sources.video.making import write_video


def edged(*arguments: str | Path, prefix: tuple[str, ...] = (), **options: Any) -> "subprocess.CompletedProcess[str]":
    command = [*prefix, sys.executable, "-P", "-m", "edged", *map(os.fspath, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, **options)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number in range(10):
        (folder / f"{number}.png").write_bytes(good(number))
    (folder / "sub" / "bad.png").write_bytes(bad())
    return folder


# Score.


def test_score_json(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"x")
    done = edged("score", TINY, pictures, "--json")
    assert done.returncode == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [Path(line["path"]).name for line in lines] == [*(f"{n}.png" for n in range(10)), "broken.png", "bad.png"]
    assert list(lines[0]) == list(record().to_dict())
    assert lines[11]["score"] == pytest.approx(BAD_SCORE, rel=1e-5)
    assert (lines[11]["is_anomaly"], lines[11]["p_value"], lines[11]["threshold"]) == (True, 0.01, 0.5)
    assert [line["is_anomaly"] for line in lines[:10]] == [False] * 10
    assert (lines[10]["status"], lines[10]["reason"], lines[10]["score"]) == ("quarantined", "undecodable", None)
    assert {line["source"] for line in lines} == {"score"}
    assert all(Path(line["path"]).is_absolute() for line in lines)
    assert "broken.png: undecodable" in done.stderr
    assert len({line["id"] for line in lines}) == 12


def test_score_for_people(pictures: Path) -> None:
    done = edged("score", TINY, pictures)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    assert lines[10].split()[:4] == ["ANOMALY", "1.9944", "3.99x", "p=0.0100"]
    assert "11 scored, 1 anomalous (score above 0.5000), 0 failed" in done.stderr


@pytest.mark.parametrize(("options", "code"), [([], 0), (["--fail-on-anomaly"], 3), (["--threshold", "2.5"], 0)])
def test_score_exit_codes(pictures: Path, options: list[str], code: int) -> None:
    assert edged("score", TINY, pictures / "sub", *options).returncode == code
    assert edged("score", TINY, pictures / "0.png", *options).returncode == 0


def test_score_threshold_decides(pictures: Path) -> None:
    done = edged("score", TINY, pictures / "sub", "--threshold", "2.5", "--fail-on-anomaly", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["threshold"] == 2.5
    done = edged("score", TINY, pictures / "0.png", "--target-fpr", "0.001", "--json")
    assert "999" in done.stderr  # not promised
    assert edged("score", TINY, pictures, "--threshold", "1", "--target-fpr", "0.1").returncode == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["score", "/nowhere", "x.png"], "there is no bundle"),
        (["score", str(TINY), "/nowhere.png"], "there is no such file"),
        (["score", str(TINY)], "Missing argument"),
        (["score", str(TINY), ".", "--device", "tpu"], "tpu"),
        (["check", "-c", "/nowhere.toml"], "cannot be read"),
        (["results"], "Missing option"),
        (["inspect", "/tmp"], r"is no bundle"),
        (["nonsense"], "No such command"),
    ],
)
def test_usage_is_2(arguments: list[str], says: str) -> None:
    done = edged(*arguments)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_score_an_empty_folder(tmp_path: Path) -> None:
    assert edged("score", TINY, tmp_path).returncode == 2


def test_score_hostile_names_and_files(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path / "in")
    os.mkdir(folder)
    name = b"line\nfeed\x1b[2J \xff.png"
    with open(os.path.join(folder, name), "wb") as file:
        file.write(bad())
    os.mkfifo(os.path.join(folder, b"fifo.png"))
    os.symlink(b"/nowhere", os.path.join(folder, b"dangling.png"))
    done = edged("score", TINY, tmp_path / "in")
    assert done.returncode == 1
    assert "line\\nfeed\\x1b[2J \\udcff.png" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
    assert "fifo.png: unreadable: not a regular file" in done.stderr
    assert "dangling.png: unreadable" in done.stderr
    as_json = edged("score", TINY, tmp_path / "in", "--json")
    scored = [line for line in map(json.loads, as_json.stdout.splitlines()) if line["status"] == "ok"]
    assert [os.fsencode(line["path"]) for line in scored] == [os.path.join(folder, name)]


def test_score_names_a_folder_that_it_cannot_read(pictures: Path) -> None:
    (pictures / "sub").chmod(0)
    try:
        prefix = AS_ORDINARY_USER if os.geteuid() == 0 else ()
        done = edged("score", TINY, pictures, prefix=prefix)
    finally:
        (pictures / "sub").chmod(0o755)
    assert done.returncode == 1
    assert f"{pictures}/sub" in done.stderr


def test_heatmaps(pictures: Path, tmp_path: Path) -> None:
    Image.open(pictures / "0.png").save(pictures / "0.bmp")
    assert edged("score", TINY, pictures, "--heatmaps", tmp_path / "heat").returncode == 0
    found = sorted(str(path.relative_to(tmp_path / "heat")) for path in (tmp_path / "heat").rglob("*.png"))
    assert found == sorted(["0.bmp.png", *(f"{number}.png" for number in range(10)), "sub/bad.png"])
    with Image.open(tmp_path / "heat" / "sub" / "bad.png") as overlay:
        image = np.asarray(overlay)
    assert image.shape == (32 + 54, 320, 3)  # over its legend
    heat = image[:32, 32:64].astype(int)
    assert (heat[..., 0] - heat[..., 2]).max() > 60  # red, where the white patch is
    (tmp_path / "file").write_text("")
    assert edged("score", TINY, pictures, "--heatmaps", tmp_path / "file").returncode == 2


def test_heatmaps_replace_links_and_shorten_names_that_would_be_too_long(pictures: Path, tmp_path: Path) -> None:
    heat, long = tmp_path / "heat", "a" * 251
    heat.mkdir()
    (tmp_path / "elsewhere.png").write_text("mine")
    (heat / "0.png").symlink_to(tmp_path / "elsewhere.png")
    Image.open(pictures / "1.png").save(pictures / f"{long}.bmp")
    assert edged("score", TINY, pictures, "--heatmaps", heat).returncode == 0
    assert (tmp_path / "elsewhere.png").read_text() == "mine"
    assert not (heat / "0.png").is_symlink()
    assert (heat / f"{long}.png").is_file()
    assert list(heat.glob(".*")) == []


@pytest.mark.parametrize("command", [["score", TINY], ["inspect", TINY]])
def test_output_that_cannot_be_written(pictures: Path, command: list[str | Path]) -> None:
    arguments = [*command, *([pictures] if "score" in command else [])]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "edged", *map(os.fspath, arguments)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr.startswith("edged: ")
    assert "No space left" in done.stderr
    assert "Traceback" not in done.stderr
    closed = edged(*arguments, prefix=("sh", "-c", '"$@" >&-', "sh"))
    assert (closed.returncode, closed.stderr.count("Traceback")) == (0, 0)


def test_an_empty_argument_is_not_the_current_folder(pictures: Path) -> None:
    done = edged("score", TINY, "", cwd=pictures)
    assert (done.returncode, done.stdout) == (2, "")
    assert "an argument is empty" in done.stderr


def test_a_folder_that_this_user_may_not_see(pictures: Path, tiny_copy: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("takes root to be another user")
    (pictures / "locked").mkdir()
    shutil.copytree(tiny_copy, pictures / "locked" / "bundle")
    (pictures / "locked").chmod(0o000)
    for arguments in (("inspect", pictures / "locked" / "bundle"), ("score", TINY, pictures / "locked" / "x.png")):
        done = edged(*arguments, prefix=AS_ORDINARY_USER)
        assert done.returncode == 2, done.stderr
        assert "cannot be read: Permission denied" in done.stderr
        assert "Traceback" not in done.stderr


def test_a_reader_that_has_seen_enough(pictures: Path) -> None:
    for number in range(300):
        shutil.copy(pictures / "0.png", pictures / f"copy-{number}.png")
    command = [sys.executable, "-m", "edged", "score", str(TINY), str(pictures), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        told = process.stderr.read()
        assert process.wait(timeout=60) == 141
    assert b"Traceback" not in told
    assert b"BrokenPipe" not in told


def test_ctrl_c(pictures: Path) -> None:
    for number in range(3000):
        os.link(pictures / "0.png", pictures / f"copy-{number}.png")
    command = [sys.executable, "-m", "edged", "score", str(TINY), str(pictures), "--json"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits "ignored"
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in told


# Calibrate, inspect, denoise, sample.


def test_calibrate(tiny_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for value in range(20):  # scores of (1 + value)/64 + 0.01
        (folder / f"{value:02}.png").write_bytes(encode(Image.new("L", (32, 32), 129 + value)))
    (folder / "again.png").write_bytes((folder / "00.png").read_bytes())
    (folder / "broken.png").write_bytes(b"x")
    before = (tiny_copy / "manifest.json").read_bytes()
    done = edged("calibrate", tiny_copy, "--good", folder, "--target-fpr", "0.1")
    assert done.returncode == 1  # one picture was broken
    expected = 19 / 64 + 0.01  # the ceil(21 x 0.9) = 19th of 20
    assert f"threshold 0.5000 -> {expected:.4f}, from 20 pictures" in done.stdout
    assert "broken.png" in done.stderr
    assert "counted once, as repetitions of others: 1 of these pictures" in done.stderr
    calibration = json.loads((tiny_copy / "calibration.json").read_text())
    assert calibration["scores"] == pytest.approx([(1 + value) / 64 + 0.01 for value in range(20)])
    assert (calibration["n"], calibration["target_fpr"]) == (20, 0.1)
    assert (tiny_copy / "manifest.json").read_bytes() == before
    again = edged("score", tiny_copy, folder / "19.png", "--target-fpr", "0.1", "--json")
    assert json.loads(again.stdout)["threshold"] == pytest.approx(expected)


def test_calibrate_leaves_out_pictures_that_were_fitted_and_score_marks_them(tiny_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for value in range(20):
        (folder / f"{value:02}.png").write_bytes(encode(Image.new("L", (32, 32), 129 + value)))
    assert "was fitted on" not in edged("calibrate", tiny_copy, "--good", folder).stderr
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    known = [hashlib.sha256((folder / f"{value:02}.png").read_bytes()).hexdigest()[:32] for value in range(7)]
    (tiny_copy / "manifest.json").write_text(json.dumps({**manifest, "fitted": known}))
    done = edged("calibrate", tiny_copy, "--good", folder)
    assert done.returncode == 0
    assert "the model was fitted on 7 of these pictures, which score lower than new ones do; left out" in done.stderr
    assert json.loads((tiny_copy / "calibration.json").read_text())["n"] == 13
    scored = edged("score", tiny_copy, folder)
    assert [line.endswith("  (fitted)") for line in scored.stdout.splitlines()] == [True] * 7 + [False] * 13
    assert "fitted: 7 of these pictures; such score lower than new ones do" in scored.stderr
    as_json = edged("score", tiny_copy, folder, "--json")
    assert [json.loads(line).get("fitted") for line in as_json.stdout.splitlines()] == [True] * 7 + [None] * 13
    for value in range(7, 20):
        (folder / f"{value:02}.png").unlink()
    done = edged("calibrate", tiny_copy, "--good", folder)
    assert done.returncode == 2
    assert "none is left, and the calibration is as it was" in done.stderr
    assert json.loads((tiny_copy / "calibration.json").read_text())["n"] == 13


def test_calibrate_refuses_scores_that_are_not_above_zero(tiny_copy: Path, pictures: Path) -> None:
    before = (tiny_copy / "calibration.json").read_bytes()
    scorer = registry.load_one(tiny_copy, "cpu")
    records = [replace(record, score=0.0) for record in scoring.score(scorer, scoring.find([pictures], ["*.png"]))]
    with pytest.raises(ConfigError, match="gives scores that are not above 0; the calibration is as it was"):
        recalibration.calibrate(scorer, records, None)
    assert (tiny_copy / "calibration.json").read_bytes() == before


def test_calibrate_on_nothing_changes_nothing(tiny_copy: Path, tmp_path: Path) -> None:
    before = (tiny_copy / "calibration.json").read_bytes()
    (tmp_path / "broken.png").write_bytes(b"x")
    done = edged("calibrate", tiny_copy, "--good", tmp_path / "broken.png")
    assert done.returncode == 2
    assert "none of the pictures could be scored" in done.stderr
    assert (tiny_copy / "calibration.json").read_bytes() == before


def test_calibrate_goes_back_to_the_calibration_before(tiny_copy: Path, pictures: Path) -> None:
    before = (tiny_copy / "calibration.json").read_bytes()
    none = edged("calibrate", tiny_copy, "--restore")
    assert none.returncode == 2
    assert "there is no previous calibration; give --good DIR" in none.stderr
    assert edged("calibrate", tiny_copy, "--good", pictures).returncode in {0, 1}
    newer = (tiny_copy / "calibration.json").read_bytes()
    assert newer != before
    done = edged("calibrate", tiny_copy, "--restore")
    assert done.returncode == 0
    assert "-> 0.5000, from 99 pictures" in done.stdout
    assert (tiny_copy / "calibration.json").read_bytes() == before
    assert edged("calibrate", tiny_copy, "--restore").returncode == 0  # and forth
    assert (tiny_copy / "calibration.json").read_bytes() == newer


@pytest.mark.parametrize("options", [[], ["--restore", "--good", "."]])
def test_calibrate_is_told_one_thing(tiny_copy: Path, options: list[str]) -> None:
    done = edged("calibrate", tiny_copy, *options)
    assert done.returncode == 2
    assert "give --good DIR for a new calibration, or --restore for the previous one" in done.stderr


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three seconds of 25 frames that grow brighter by one each, with a step of ten from one second to the next."""
    levels = (129 + number % 25 + 35 * (number // 25) for number in range(75))
    frames = (np.full((32, 32), level, np.uint8) for level in levels)
    return write_video(tmp_path_factory.mktemp("film") / "shift.mkv", frames)


def raw(*levels: int) -> NDArray[np.float64]:
    """What the tiny model makes of pictures of one brightness each."""
    return (np.array(levels) - 128) / 64 + 0.01


def test_frames_of_a_stretch_are_one_case(tiny_copy: Path, film: Path) -> None:
    words = [word for start in (0, 1, 2) for word in ("--good", f"{film}:{start}-{start + 1}")]
    done = edged("calibrate", tiny_copy, *words, "--target-fpr", "0.1")
    assert done.returncode == 0, done.stderr
    scores = raw(*(129 + step * 35 + 5 * number for step in range(3) for number in range(5)))
    margin = margin_of(scores, members_of([*"aaaaabbbbbccccc"]))
    assert margin > 1.1
    assert "from 15 pictures in 3 groups" in done.stdout
    assert "least like the others: shift/2-3 scores 1.28 where it was not learnt, the others " in done.stdout
    assert f"few-groups: 3 groups that differ so much say little of the next one, so the threshold is {margin:.2f}" in (
        done.stderr
    )
    calibration = json.loads((tiny_copy / "calibration.json").read_text())
    assert calibration["scores"] == pytest.approx(sorted(scores * margin), rel=1e-5)
    assert (calibration["n"], calibration["groups"]) == (15, 3)
    assert "15 good pictures in 3 groups that nothing was fitted on" in edged("inspect", tiny_copy).stdout


def test_a_lone_stretch_calibrates_in_ten_pieces_and_fitted_frames_do_not(
    tiny_copy: Path, film: Path, tmp_path: Path
) -> None:
    frames.write([Stretch(film, 0, 1)], tmp_path, fps=5)
    known = [hashlib.sha256(file.read_bytes()).hexdigest()[:32] for file in tmp_path.rglob("*.png")]
    manifest = json.loads((tiny_copy / "manifest.json").read_text())
    (tiny_copy / "manifest.json").write_text(json.dumps({**manifest, "fitted": known}))
    done = edged("calibrate", tiny_copy, "--good", film, "--fps", "10")
    assert done.returncode == 0, done.stderr
    assert "the model was fitted on 5 of these pictures" in done.stderr
    assert "from 25 pictures in 10 groups" in done.stdout
    assert "--good: one stretch alone says nothing of other times" in done.stderr
    done = edged("calibrate", tiny_copy, "--good", f"{film}:0-1", "--good", f"{film}:1-2")
    assert done.returncode == 2
    assert "--good: all 5 that can be counted are in one group, shift/1-2, and say nothing of the" in done.stderr
    assert json.loads((tiny_copy / "calibration.json").read_text())["groups"] == 10


def test_pictures_that_belong_together_calibrate_as_groups(tiny_copy: Path, tmp_path: Path) -> None:
    levels = {"a": (130, 131), "b": (140, 141), "c": (160, 161)}
    for name, values in levels.items():
        (tmp_path / name).mkdir()
        for value in values:
            (tmp_path / name / f"{value}.png").write_bytes(encode(Image.new("L", (32, 32), value)))
    (tmp_path / "a" / "broken.png").write_bytes(b"x")
    scores = raw(130, 131, 140, 141, 160, 161)
    expected = sorted(scores * margin_of(scores, members_of([*"aabbcc"])))
    done = edged("calibrate", tiny_copy, "--good", tmp_path, "--groups", "folder")
    assert done.returncode == 1  # one was broken
    assert "from 6 pictures in 3 groups" in done.stdout
    assert json.loads((tiny_copy / "calibration.json").read_text())["scores"] == pytest.approx(expected, rel=1e-5)
    done = edged("calibrate", tiny_copy, "--good", tmp_path / "b", "--groups", "folder")
    assert done.returncode == 2
    assert "--groups folder: all 2 pictures are in one group" in done.stderr


def test_what_good_may_not_name(tiny_copy: Path, film: Path, pictures: Path) -> None:
    before = (tiny_copy / "calibration.json").read_bytes()
    for words, said in (
        (["--good", film, "--good", pictures], f"--good {pictures} is no video; name one folder, or videos alone"),
        (["--good", pictures, "--good", pictures], "is no video; name one folder, or videos alone"),
        (["--good", film, "--groups", "folder"], "--groups: each stretch of a video is a group; leave it out"),
        (["--good", pictures, "--fps", "2"], f"--fps: is of videos, and {pictures} is none"),
        (["--good", f"{film}:2-1"], "write seconds, or minutes:seconds"),
        (["--good", f"{film}:50-60"], "there are no frames from 50-60 s; correct the times"),
        (["--good", f"{film}x"], "there is no such file or folder"),
    ):
        done = edged("calibrate", tiny_copy, *words)
        assert done.returncode == 2
        assert said in done.stderr
    assert (tiny_copy / "calibration.json").read_bytes() == before


def test_a_reader_of_results_that_has_seen_enough(tmp_path: Path) -> None:
    site = Site(tmp_path)
    journal = Journal(site.state)
    for number in range(2000):  # more than a pipe holds
        journal.commit([entry_of(record(id=f"{number}"), Fingerprint(1, 1, number))])
    journal.close()
    command = [sys.executable, "-m", "edged", "results", "-c", str(site.config)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(timeout=60)) == (b"", 141)


def test_dead_letters_are_shown(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "state")
    journal.add_sink("plc")
    one = record(path="/in/a\x1b.png")
    journal.commit([entry_of(one)])
    journal.set_dead("plc", 1, one, "no such\nrecipe")
    journal.close()
    config = tmp_path / "edged.toml"
    config.write_text(f'[service]\nstate_dir = "{tmp_path}/state"\n')
    table = edged("results", "-c", config, "--dead-letters").stdout
    assert table.endswith(f"  plc  {one.id}  no such\\nrecipe\n")
    (line,) = edged("results", "-c", config, "--dead-letters", "--format", "json").stdout.splitlines()
    assert json.loads(line)["record"]["id"] == one.id
    (row,) = csv.DictReader(io.StringIO(edged("results", "-c", config, "--dead-letters", "--format", "csv").stdout))
    assert (row["sink"], row["error"]) == ("plc", "no such\\nrecipe")
    assert json.loads(row["record"])["id"] == one.id


def test_inspect(tiny_copy: Path) -> None:
    done = edged("inspect", tiny_copy)
    assert done.returncode == 0
    for part in (
        "tiny: ae on pixels, fp32",
        "32x32 px, 1 channel(s), stretch, bilinear",
        "file: model.onnx, 593 bytes, intact",
        "calibration: 99 good pictures that nothing was fitted on (split conformal), ",
        "threshold 0.5000 at a false-positive rate of 0.01",
        "golden check: passed on CPUExecutionProvider: 3 pictures",
        "licence: weights: Apache-2.0",
    ):
        assert part in done.stdout, done.stdout
    data = bytearray((tiny_copy / "model.onnx").read_bytes())
    data[100] ^= 1
    (tiny_copy / "model.onnx").write_bytes(data)
    done = edged("inspect", tiny_copy)
    assert (done.returncode, done.stdout) == (2, "")
    assert "model.onnx is damaged" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["denoise", "{tiny}", ".", "--out", "o"], ["sample", "{tiny}", "--out", "o.png"]]
)
def test_what_this_model_cannot_do(arguments: list[str], pictures: Path) -> None:
    done = edged(*[part.replace("{tiny}", str(TINY)) for part in arguments], cwd=pictures)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert not (pictures / "o.png").exists()


# Check and results.


def test_init_writes_what_check_accepts_and_run_runs(tmp_path: Path) -> None:
    done = edged("init", "--model", TINY, "--inbox", "in", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "next: edged run -c edged.toml" in done.stdout
    assert edged("check", "-c", tmp_path / "edged.toml").returncode == 0
    tables = tomllib.loads((tmp_path / "edged.toml").read_text())
    assert tables["sources"][0]["path"] == str(tmp_path / "in")
    assert tables["models"] == {"tiny": {"path": str(TINY)}}
    assert {path.name for path in tmp_path.iterdir()} == {"edged.toml", "edged-state", "in", "in-done"}


def test_init_writes_over_nothing(tmp_path: Path) -> None:
    (tmp_path / "edged.toml").write_text("mine")
    done = edged("init", tmp_path / "edged.toml", "--model", TINY, "--inbox", tmp_path / "in")
    assert done.returncode == 2
    assert "exists and is left as it is" in done.stderr
    assert (tmp_path / "edged.toml").read_text() == "mine"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--inbox", "in"), "--model: is not given, and there is nobody to ask"),
        (("--model", TINY), "--inbox: is not given, and there is nobody to ask"),
        (("--model", "nowhere", "--inbox", "in"), "there is no bundle"),
        (("--model", TINY, "--inbox", "in", "--name", "a b"), "sources.a b.name"),
    ],
)
def test_init_says_what_it_lacks(tmp_path: Path, options: tuple[str | Path, ...], message: str) -> None:
    done = edged("init", *options, cwd=tmp_path, stdin=subprocess.DEVNULL)
    assert done.returncode == 2
    assert message in done.stderr
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_init_asks_who_sits_there(tmp_path: Path) -> None:
    ours, its = os.openpty()
    command = [sys.executable, "-P", "-m", "edged", "init"]
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, cwd=tmp_path) as process:
        os.close(its)
        os.write(ours, f"{TINY}\nin\n".encode())
        said = b""
        with contextlib.suppress(OSError):  # EIO: it has ended
            while chunk := os.read(ours, 4096):
                said += chunk
    os.close(ours)
    assert process.returncode == 0, said
    assert b"The folder to watch" in said
    assert (tmp_path / "edged.toml").exists()


def test_check(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(model="target_fpr = 0.05")
    done = edged("check", "-c", site.config)
    assert done.returncode == 0, done.stderr
    shown = tomllib.loads(done.stdout)
    assert shown["models"]["tiny"] == {"path": str(TINY), "device": "cpu", "target_fpr": 0.05, "threads": 0}
    assert shown["sources"][0]["rescan_seconds"] == 60.0
    assert shown["limits"]["max_bytes"] == 100_000_000
    site.config.write_text(done.stdout)
    again = edged("check", "-c", site.config)  # what it prints is a configuration
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert not site.state.exists()


def test_check_names_every_problem(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.configure(listen="0.0.0.0:1", source="colour = 1", bundle=Path("/nowhere"))
    done = edged("check", "-c", site.config)
    assert done.returncode == 2
    for part in ("http.listen:", "sources.line1.colour: unknown key", "models.tiny.path: /nowhere: there is no bundle"):
        assert part in done.stderr, done.stderr
    assert done.stdout == ""


@pytest.fixture
def history(tmp_path: Path) -> tuple[Path, list[Record]]:
    site = Site(tmp_path)
    now = time.time()
    rows = [
        record(id="1", scored_at=now - 100_000),
        record(id="2", scored_at=now - 1000, is_anomaly=True, score=2.0),
        quarantined(id="3", scored_at=now - 10, path=os.fsdecode(b"/in/\xff\n.png")),
    ]
    journal = Journal(site.state)
    journal.commit([entry_of(row, Fingerprint(1, 1, 1)) for row in rows])
    journal.close()
    return site.config, rows


def test_results(history: tuple[Path, list[Record]]) -> None:
    config, rows = history
    by_id = {row.id: row.to_dict() for row in rows}
    for options, expected in (
        ([], ["1", "2", "3"]),
        (["--since", "2h"], ["2", "3"]),
        (["--since", "60s"], ["3"]),
        (["--anomalies"], ["2"]),
        (["--quarantined"], ["3"]),
        (["--anomalies", "--quarantined"], ["2", "3"]),
        (["--since", "2020-01-01T00:00:00Z"], ["1", "2", "3"]),
        (["--since", "2999-01-01"], []),
    ):
        done = CliRunner().invoke(app, ["results", "-c", str(config), "--format", "json", *options])
        assert (done.exit_code, done.stderr) == (0, "")
        assert [json.loads(line) for line in done.stdout.splitlines()] == [by_id[id_] for id_ in expected], options


def test_results_as_table_and_csv(history: tuple[Path, list[Record]]) -> None:
    config, _ = history
    table = edged("results", "-c", config).stdout.splitlines()
    assert len(table) == 4
    assert "/in/\\udcff\\n.png" in table[3]
    lines = edged("results", "-c", config, "--format", "csv").stdout.splitlines()
    assert len(lines) == 4
    assert lines[0].split(",") == list(labels.CSV_COLUMNS)  # before anybody has said something, too


@pytest.mark.parametrize("output", ["table", "json", "csv"])
def test_an_empty_journal_prints_nothing(tmp_path: Path, output: str) -> None:
    site = Site(tmp_path)
    done = edged("results", "-c", site.config, "--format", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    Journal(site.state).close()
    done = edged("results", "-c", site.config, "--format", output)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_results_without_the_right_to_write(history: tuple[Path, list[Record]]) -> None:
    # An operator reads the journal of a daemon that has stopped, in a folder that is not the operator's.
    config, _ = history
    state = config.parent / "state"
    for path in (*state.iterdir(), state):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        done = edged("results", "-c", config, "--format", "json", prefix=AS_ORDINARY_USER if os.geteuid() == 0 else ())
    finally:
        state.chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_a_damaged_journal_is_an_error(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.state.mkdir()
    (site.state / "journal.sqlite").write_bytes(b"no database" * 100)
    done = edged("results", "-c", site.config)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


# The rest.


def test_version_and_help() -> None:
    assert edged("--version").stdout == f"edged {__version__}\n"
    shown = edged("--help").stdout
    for command in ("run", "check", "score", "denoise", "sample", "calibrate", "results", "inspect"):
        assert f" {command} " in shown
        assert "Example: edged " + command in CliRunner().invoke(app, [command, "--help"]).stdout


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 1_000_000 - 90),
        ("30m", 1_000_000 - 1800),
        ("2h", 1_000_000 - 7200),
        ("3d", 1_000_000 - 259_200),
        ("1w", 1_000_000 - 604_800),
        ("1970-01-02T00:00:00Z", 86_400),
        ("1970-01-02T01:00:00+01:00", 86_400),
        ("1970-01-02", 86_400),
    ],
)
def test_parse_time(text: str, seconds: float) -> None:
    assert parse_time(text, datetime.fromtimestamp(1_000_000, UTC)) == seconds


@pytest.mark.parametrize("text", ["", "2", "h", "2y", "-2h", "yesterday", "2.5h", "2h3m", "9999999d"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        parse_time(text)


def test_what_is_read_is_never_written_over(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.png").write_bytes(good(1))
    before = (tmp_path / "a" / "x.png").read_bytes()
    (tmp_path / "link").symlink_to(tmp_path / "a")
    for heatmaps in ("a", "link"):
        done = edged("score", TINY, tmp_path / "a", "--heatmaps", tmp_path / heatmaps)
        assert done.returncode == 2
        assert "is one of the pictures" in done.stderr
        assert (tmp_path / "a" / "x.png").read_bytes() == before
    done = edged("score", TINY, tmp_path / "a", tmp_path / "b", "--heatmaps", tmp_path / "maps")
    assert done.returncode == 2
    assert "for two pictures" in done.stderr
    assert not (tmp_path / "maps").exists()


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    done = edged("score", tmp_path, TINY)
    assert done.returncode == 2
    assert "is no bundle" in done.stderr

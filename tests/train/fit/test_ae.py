"""`python -m train ae`, whole: a folder of pictures -> a run directory."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from tests.train.plates import folder, part
from train import run
from train.__main__ import main

TINY = ["--set", "backbone=pixels", "--set", "size=32", "--set", "channels=1", "--set", "width=8", "--set", "latent=4"]
QUICK = [*TINY, "--set", "epochs=4", "--set", "target_fpr=0.1"]


def train(good, out, *more):
    return main(["ae", "--good", str(good), "--out", str(out), *more])


def scores(trained, pictures):
    image = np.stack([np.repeat(picture[..., None], trained.config.channels, axis=2) for picture in pictures])
    return trained.detector(torch.from_numpy(image))[0].numpy()


def test_a_run_holds_everything_that_export_needs(tmp_path):
    bad = folder(tmp_path / "bad", 5, first=900, blot=True)
    assert train(folder(tmp_path / "good", 60), tmp_path / "run", *QUICK, "--bad", str(bad)) == 0
    loaded = run.load(tmp_path / "run")
    counts = {name: len(loaded.part(name)) for name in ("fit", "statistics", "calibration", "bad")}
    assert counts == {"fit": 43, "statistics": 8, "calibration": 9, "bad": 5}
    assert loaded.facts["kind"] == "ae"
    assert loaded.facts["packages"]["torch"] == torch.__version__
    metrics = [json.loads(line) for line in (tmp_path / "run" / run.METRICS).read_text().splitlines()]
    assert [line["event"] for line in metrics] == ["epoch"] * 4 + ["head"]
    assert metrics[-2]["loss_statistics"] < metrics[0]["loss_statistics"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["bad", "good", "run"]


def test_it_tells_a_blot_from_a_good_part(tmp_path):
    assert train(folder(tmp_path / "good", 60), tmp_path / "run", *QUICK) == 0
    loaded = run.load(tmp_path / "run")
    good = scores(loaded, [part(500 + index, size=32) for index in range(20)])
    bad = scores(loaded, [part(600 + index, size=32, blot=True) for index in range(20)])
    assert (good > 0).all()
    assert np.mean(bad[:, None] > good) > 0.95


def test_the_same_seed_gives_the_same_run(tmp_path):
    good = folder(tmp_path / "good", 40)
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        assert train(good, tmp_path / name, *QUICK, "--set", f"seed={seed}") == 0
    one, two, other = (
        torch.load(tmp_path / name / "weights.pt", weights_only=True) for name in ("one", "two", "other")
    )
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert not torch.equal(one["head.mean"], other["head.mean"])


@pytest.mark.parametrize(
    ("prepare", "more", "message"),
    [
        (lambda root: None, [], "there is no such folder"),
        (lambda root: folder(root / "good", 3), [], "training takes 10"),
        (lambda root: [folder(root / "good", 12), (root / "run").mkdir()], [], "exists already"),
        (lambda root: folder(root / "good", 12), ["--set", "epoch=2"], "did you mean epochs"),
        (lambda root: folder(root / "good", 12), ["--bad", "nowhere"], "nowhere: there is no such folder"),
        (lambda root: folder(root / "good", 12), ["--good", "x" * 300], "good is no video; name one folder, or videos"),
        (lambda root: folder(root / "good", 12), ["--out", "x" * 300], "File name too long; choose another --out"),
        (
            lambda root: folder(root / "good", 12),
            ["--set", "batch_size=1"],
            "batch_size: must be a whole number from 2",
        ),
        (lambda root: folder(root / "good", 12), ["--set", "epochs=true"], "epochs: must be a whole number from 1"),
        (lambda root: folder(root / "good", 12), ["--set", "epochs=" + "9" * 5000], "epochs: must be a whole number"),
        (lambda root: folder(root / "good", 12), ["--set", "epochs=" + "[" * 5000], "epochs: must be a whole number"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(tmp_path, capsys, prepare, more, message):
    prepare(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert train(tmp_path / "good", tmp_path / "run", *QUICK, *more) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_warnings_are_shown_and_kept(tmp_path, capsys):
    good = folder(tmp_path / "good", 30)
    (good / "broken\x1b[31m.png").write_bytes(b"x")
    assert train(good, tmp_path / "run", *QUICK, "--set", "target_fpr=0.01") == 0
    shown = capsys.readouterr().err
    assert "warning: unreadable: 1 of 31" in shown
    assert "\x1b" not in shown
    assert "next: python -m export" in shown
    assert [line.split(":")[0] for line in run.load(tmp_path / "run").facts["warnings"]] == ["unreadable", "too-few"]


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    root = tmp_path_factory.mktemp("small")
    assert train(folder(root / "good", 20), root / "run", *QUICK) == 0
    return root / "run"


@pytest.mark.parametrize("name", ["config.json", "pictures.json", "weights.pt", "run.json"])
@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b'"x"', b"\x80\x02", None], ids=repr)
def test_a_damaged_run_is_refused(tmp_path, small_run, name, damage):
    shutil.copytree(small_run, tmp_path / "run")
    if damage is None:
        (tmp_path / "run" / name).unlink()
    else:
        (tmp_path / "run" / name).write_bytes(damage)
    with pytest.raises(run.TrainError, match="train again"):
        run.load(tmp_path / "run")


def test_facts_that_are_missing_are_named(tmp_path, small_run):
    shutil.copytree(small_run, tmp_path / "run")
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps({key: facts[key] for key in facts if key != "warnings"}))
    with pytest.raises(run.TrainError, match=r"run.json lacks warnings\); train again"):
        run.load(tmp_path / "run")


def test_what_would_block_or_is_no_file_is_skipped(tmp_path, capsys):
    good = folder(tmp_path / "good", 20)
    os.mkfifo(good / "fifo.png")
    (good / "folder.png").mkdir()
    assert train(good, tmp_path / "run", *QUICK) == 0
    assert "fifo.png (not a regular file)" in capsys.readouterr().err


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_without_a_trace(tmp_path, stop):
    good = folder(tmp_path / "good", 20)
    endless = ["--set", "epochs=10000", "--set", "patience=10000"]
    command = [
        sys.executable,
        "-m",
        "train",
        "ae",
        "--good",
        str(good),
        "--out",
        str(tmp_path / "run"),
        *QUICK,
        *endless,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        metrics = lambda: list(tmp_path.glob(f".run.*.part/{run.METRICS}"))  # noqa: E731
        deadline = time.monotonic() + 120
        while not (metrics() and metrics()[0].stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(stop)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 128 + stop
    assert "interrupted; nothing was written" in told
    assert [item.name for item in tmp_path.iterdir()] == ["good"]


@pytest.mark.parametrize(
    ("n", "limit"), [(200, 50_000), (200, 300_000), (12, 30_000)], ids=["pixels", "features", "weights"]
)
def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, n, limit):
    """A file-size limit stands in for the disk: the system refuses room for a file in the same calls."""
    good = folder(tmp_path / "good", n)
    command = [sys.executable, "-m", "train", "ae", "--good", str(good), "--out", str(tmp_path / "run"), *QUICK]
    command += ["--set", "latent=512"]

    def cramped():
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=cramped, check=False, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "File too large; nothing was written" in done.stderr
    assert "Traceback" not in done.stderr
    assert [item.name for item in tmp_path.iterdir()] == ["good"]


def test_the_next_command_is_one_that_works(tmp_path, capsys):
    out = tmp_path / "Prüfstand 3"
    assert train(folder(tmp_path / "good", 20), out, *QUICK) == 0
    told = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("next: "))
    assert shlex.split(told)[1:] == ["python", "-m", "export", str(out), "--out", "bundles/Prufstand-3"]

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from edged.journal import labels
from edged.journal.journal import Journal
from tests.edged.daemons import Site
from tests.edged.making import BAD_SCORE, bad, encode, good, until


def edged(site: Site, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "edged", *arguments, "-c", str(site.config)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=site.root)


@pytest.mark.parametrize("after", ["keep", "move"])
def test_files_are_found_wherever_they_are(site: Site, after: str) -> None:
    site.configure(f'after = "{after}"', settle_seconds=0)
    site.start()
    (site.inbox / "sub").mkdir()
    contents = {"a.png": bad(1), "sub/b.png": good(2), "broken.png": b"no picture", "c.png": good(3)}
    for name, content in contents.items():
        (site.inbox / name).write_bytes(content)
    rows = {str(Path(row.path).relative_to(site.inbox)): row for row in site.wait_for_rows(4)}
    until(lambda: site.owed() == 0, "the files to leave")
    site.stop()
    journal = Journal(site.state)
    for name, label in {"a.png": "real", "sub/b.png": "false_alarm", "broken.png": "unsure", "c.png": "unsure"}.items():
        assert labels.put(journal, rows[name].id, label, "=schräg") == "line1"
    journal.close()
    (site.inbox / "c.png" if after == "keep" else site.done / "c.png").unlink()
    done = edged(site, "labels", "export", str(site.root / "out"))
    assert done.returncode == 1
    assert f"{rows['c.png'].id}: " in done.stderr
    assert "is gone, or has changed" in done.stderr
    for name, label in {"a.png": "real", "sub/b.png": "false_alarm", "broken.png": "unsure"}.items():
        assert (site.root / "out" / label / f"{rows[name].id}.png").read_bytes() == contents[name]
    with (site.root / "out" / "labels.csv").open(encoding="utf-8", newline="") as table:
        told = {row["id"]: (row["label"], row["note"], row["file"]) for row in csv.DictReader(table)}
    assert told[rows["a.png"].id] == ("real", "'=schräg", f"real/{rows['a.png'].id}.png")
    assert told[rows["c.png"].id][2] == ""
    assert edged(site, "labels", "export", str(site.root / "out")).returncode == 2


def test_labels_are_in_what_results_print(site: Site) -> None:
    site.configure(settle_seconds=0)
    site.start()
    (site.inbox / "a.png").write_bytes(bad(1))
    (site.inbox / "b.png").write_bytes(good(2))
    first, second = site.wait_for_rows(2)
    site.stop()
    assert edged(site, "results", "--format", "csv").stdout.splitlines()[0] == ",".join(labels.CSV_COLUMNS)
    journal = Journal(site.state)
    labels.put(journal, second.id, "real", "a note")
    journal.close()
    one, two = map(json.loads, edged(site, "results", "--format", "json").stdout.splitlines())
    assert one == first.to_dict()
    assert {key: two["label"][key] for key in ("label", "note")} == {"label": "real", "note": "a note"}
    rows = list(csv.DictReader(edged(site, "results", "--format", "csv").stdout.splitlines()))
    assert [(row["label"], row["note"]) for row in rows] == [("", ""), ("real", "a note")]


def test_false_alarms_calibrate_beside_good_pictures(site: Site, tiny_copy: Path, tmp_path: Path) -> None:
    folder = tmp_path / "good"
    folder.mkdir()
    for value in range(20):  # scores of (1 + value)/64 + 0.01
        (folder / f"{value:02}.png").write_bytes(encode(Image.new("L", (32, 32), 129 + value)))
    site.configure('after = "move"', settle_seconds=0, bundle=tiny_copy)
    site.start()
    contents = {"1.png": bad(1), "2.png": bad(2), "3.png": bad(3), "4.png": bad(4), "gone.png": bad(5)}
    for name, content in contents.items():
        (site.inbox / name).write_bytes(content)
    rows = {Path(row.path).name: row.id for row in site.wait_for_rows(5)}
    until(lambda: site.owed() == 0, "the files to leave")
    site.stop()
    calibrate = (
        "calibrate",
        str(tiny_copy),
        "--good",
        str(folder),
        "--target-fpr",
        "0.1",
        "--labels",
        str(site.config),
    )
    command = [sys.executable, "-P", "-m", "edged", *calibrate]
    alone = 19 / 64 + 0.01  # the ceil(21 x 0.9) = 19th of 20
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"-> {alone:.4f}, from 20 pictures" in done.stdout
    assert "there is no false alarm of this model" in done.stderr
    journal = Journal(site.state)
    for name, label in {"1.png": "false_alarm", "2.png": "false_alarm", "3.png": "real", "4.png": "unsure"}.items():
        labels.put(journal, rows[name], label)
    labels.put(journal, rows["gone.png"], "false_alarm")
    (site.done / "gone.png").unlink()
    journal.close()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert f"-> {BAD_SCORE:.4f}, from 22 pictures" in done.stdout  # the ceil(23 x 0.9) = 21st of 22
    assert "the files of 1 false alarms are gone" in done.stderr
    assert "false alarms among them: 2, chosen because they had been flagged" in done.stderr
    assert f"({alone:.4f} without)" in done.stderr
    calibration = json.loads((tiny_copy / "calibration.json").read_text())
    assert (calibration["n"], calibration["confirmed"]) == (22, 2)
    inspected = subprocess.run(
        [sys.executable, "-P", "-m", "edged", "inspect", str(tiny_copy)], capture_output=True, text=True, check=False
    )
    assert (
        "22 good pictures that nothing was fitted on (split conformal), 2 of them confirmed false" in inspected.stdout
    )


def test_false_alarms_alone_are_no_calibration(site: Site, tiny_copy: Path) -> None:
    command = [
        sys.executable,
        "-P",
        "-m",
        "edged",
        "calibrate",
        str(tiny_copy),
        "--restore",
        "--labels",
        str(site.config),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--labels: false alarms alone are no calibration" in done.stderr

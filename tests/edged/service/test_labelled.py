import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edged.journal import labels
from edged.journal.journal import Journal
from edged.results import COLUMNS
from tests.edged.daemons import Site
from tests.edged.making import bad, good, until


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
        assert labels.put(journal, rows[name].id, label, "=note") == "line1"
    journal.close()
    (site.inbox / "c.png" if after == "keep" else site.done / "c.png").unlink()
    done = edged(site, "labels", "export", str(site.root / "out"))
    assert done.returncode == 1
    assert f"{rows['c.png'].id}: " in done.stderr
    assert "is gone, or has changed" in done.stderr
    for name, label in {"a.png": "real", "sub/b.png": "false_alarm", "broken.png": "unsure"}.items():
        assert (site.root / "out" / label / f"{rows[name].id}.png").read_bytes() == contents[name]
    with (site.root / "out" / "labels.csv").open(newline="") as table:
        told = {row["id"]: (row["label"], row["note"], row["file"]) for row in csv.DictReader(table)}
    assert told[rows["a.png"].id] == ("real", "'=note", f"real/{rows['a.png'].id}.png")
    assert told[rows["c.png"].id][2] == ""
    assert edged(site, "labels", "export", str(site.root / "out")).returncode == 2


def test_labels_are_in_what_results_print(site: Site) -> None:
    site.configure(settle_seconds=0)
    site.start()
    (site.inbox / "a.png").write_bytes(bad(1))
    (site.inbox / "b.png").write_bytes(good(2))
    first, second = site.wait_for_rows(2)
    site.stop()
    assert edged(site, "results", "--format", "csv").stdout.splitlines()[0] == ",".join(COLUMNS)
    journal = Journal(site.state)
    labels.put(journal, second.id, "real", "a note")
    journal.close()
    one, two = map(json.loads, edged(site, "results", "--format", "json").stdout.splitlines())
    assert one == first.to_dict()
    assert {key: two["label"][key] for key in ("label", "note")} == {"label": "real", "note": "a note"}
    rows = list(csv.DictReader(edged(site, "results", "--format", "csv").stdout.splitlines()))
    assert [(row["label"], row["note"]) for row in rows] == [("", ""), ("real", "a note")]

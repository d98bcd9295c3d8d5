"""The daemon and its journal: damage, requests, retention, as a user sees them."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.journal import damage
from edged.journal.journal import Journal
from edged.journal.schema import FILE
from edged.models import runtime
from edged.models.runtime import runtime_version
from edged.sources.folder.files import Fingerprint
from edged.sources.folder.ledger import Ledger
from tests.edged.daemons import Site
from tests.edged.journal.test_salvage import opened, pages_of, zero
from tests.edged.making import drop, entry_of, good, record, until


def score_many(site: Site, count: int) -> None:
    """Fills inbox and journal as if the daemon had scored that many files."""
    journal = Journal(site.state)
    journal.add_sink("lines")
    entries = []
    for number in range(count):
        path = site.inbox / f"{number:04}.png"
        drop(path, good(number % 5))
        entries.append(
            entry_of(
                record(path=str(path), sha256=f"{number:064x}", scored_at=time.time()), Fingerprint.of(path.lstat())
            )
        )
    journal.commit(entries)
    journal.delivered("lines", count)
    journal.close()


def test_damage_found_in_the_background_ends_it_and_the_next_start_salvages(site: Site) -> None:
    score_many(site, 600)
    leaves = pages_of(site.state / FILE, "results")
    zero(site.state / FILE, *leaves[len(leaves) // 2 : len(leaves) // 2 + 3])
    site.start()  # it is ready before anything is found
    assert site.process is not None
    assert site.process.wait(timeout=60) == 1
    assert "salvages what can be read" in site.log.read_text()
    site.start()
    (told,) = site.said("the journal was salvaged; files whose results were lost are scored again where they still are")
    lost = told["results_lost"]
    assert 0 < lost < 100
    assert told["kept_files_to_score_again"] == lost
    rows = site.wait_for_rows(600)
    assert len({row.path for row in rows}) == 600
    metrics = site.metrics()
    assert metrics['edged_images_total{outcome="ok",source="line1"}'] == lost
    assert metrics["edged_journal_damaged_files"] == 1
    assert len(site.wait_for_lines(lost)) == lost
    for file in site.state.glob("*.damaged-*"):
        file.unlink()
    assert site.metrics()["edged_journal_damaged_files"] == 0
    assert site.stop() == 0


def test_lost_marks_do_not_score_a_file_twice(site: Site) -> None:
    site.start()
    for number in range(20):
        drop(site.inbox / f"{number}.png", good(number))
    site.wait_for_rows(20)
    site.stop()
    (page,) = pages_of(site.state / FILE, "kept")
    zero(site.state / FILE, page)
    site.start()
    assert site.said("the journal is damaged; what can be read of it is salvaged")
    drop(site.inbox / "new.png", good(99))
    site.wait_for_rows(21)
    site.wait_for_lines(21)
    until(lambda: site.metrics()['edged_queue_items{source="line1"}'] == 0, "all to be looked at")
    journal = site.stop() or Journal(site.state)
    try:
        assert all(size > 0 for _, size, _ in Ledger(journal, "line1").kept())  # each was looked at, and known again
    finally:
        journal.close()
    assert len(site.rows()) == 21


def test_an_empty_journal_file_is_told_and_kept_files_are_scored_again(site: Site) -> None:
    site.start()
    for number in range(5):
        drop(site.inbox / f"{number}.png", good(number))
    site.wait_for_rows(5)
    site.stop()
    os.truncate(site.state / FILE, 0)
    site.start()
    assert site.said("the journal is damaged; what can be read of it is salvaged")[0]["damage"] == "it is empty"
    site.wait_for_rows(5)
    assert site.metrics()["edged_journal_damaged_files"] == 1


def test_a_journal_of_a_newer_edged_is_refused(site: Site) -> None:
    site.start()
    site.stop()
    with sqlite3.connect(site.state / FILE) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    site.start(wait=False)
    assert site.process is not None
    assert site.process.wait(timeout=60) == 2
    assert "install that one again" in site.log.read_text()


def test_a_noted_damage_is_salvaged_once(site: Site) -> None:
    score_many(site, 50)
    damage.note_damage(site.state / FILE, "a test")
    site.start()
    assert site.said("the journal was salvaged; files whose results were lost are scored again where they still are")
    site.stop()
    site.start()
    assert not site.said("the journal is damaged; what can be read of it is salvaged")
    until(lambda: site.get("/readyz").status_code == 200, "ready")
    assert len(site.rows()) == 50


# Requests of people.


def ask(site: Site, *ids: str) -> subprocess.CompletedProcess[str]:
    arguments = [sys.executable, "-P", "-m", "edged", "results", "-c", str(site.config), "--requeue", *ids]
    return subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=60, cwd=site.root)


def test_a_kept_file_is_scored_again_when_asked(site: Site) -> None:
    site.configure("rescan_seconds = 0.3")
    site.start()
    drop(site.inbox / "a.png", good(0))
    drop(site.inbox / "b.png", good(1))
    first = {Path(row.path).name: row for row in site.wait_for_rows(2)}
    done = ask(site, first["a.png"].id, first["a.png"].id)
    assert (done.returncode, done.stdout) == (0, "")
    assert "is scored again" in done.stderr
    again = site.wait_for_rows(3)[-1]
    assert Path(again.path).name == "a.png"
    assert again.id != first["a.png"].id
    assert again.score == first["a.png"].score
    assert len(site.wait_for_lines(3)) == 3
    old = ask(site, first["a.png"].id)
    assert (old.returncode, "ask for the latest result" in old.stderr) == (1, True)
    (site.inbox / "b.png").unlink()
    gone = ask(site, first["b.png"].id, "no-such-id", again.id)  # those that can be done are
    assert gone.returncode == 1
    assert f"{first['b.png'].id}: its file {site.inbox}/b.png cannot be found" in gone.stderr
    assert "no-such-id: there is no such result" in gone.stderr
    site.wait_for_rows(4)
    assert site.stop() == 0
    site.start()  # and what was done is not done again
    drop(site.inbox / "c.png", good(3))
    site.wait_for_rows(5)


@pytest.mark.parametrize("running", [True, False])
def test_a_quarantined_file_goes_back_and_is_scored_again(site: Site, running: bool) -> None:
    site.configure('after = "move"\nrescan_seconds = 0.3')
    site.start()
    drop(site.inbox / "a.png", b"no picture")
    (row,) = site.wait_for_rows(1)
    until(lambda: (site.quarantine / "a.png.json").exists() and not (site.inbox / "a.png").exists(), "it to leave")
    if running:
        until(lambda: ask(site, row.id).returncode == 0, "its way to be noted")
    else:
        site.stop()
        assert ask(site, row.id).returncode == 0
        site.start()
    again = site.wait_for_rows(2)[-1]
    assert (again.path, again.sha256, again.reason) == (row.path, row.sha256, "undecodable")
    until((site.quarantine / "a.png.json").exists, "it to be in quarantine again")
    until((site.quarantine / "a.png").exists, "the file to be there too")
    assert json.loads((site.quarantine / "a.png.json").read_text())["id"] == again.id
    assert sorted(path.name for path in site.quarantine.iterdir() if path.name != ".edged") == ["a.png", "a.png.json"]
    refused = ask(site, row.id)
    assert refused.returncode == 1
    assert "deleted, or taken away" in refused.stderr
    assert list((site.state / "requeue").iterdir()) == []


def test_a_file_goes_back_beside_another_of_its_name(site: Site) -> None:
    site.configure('after = "move"', retry_seconds=0)
    site.start()
    (site.inbox / "sub").mkdir()
    drop(site.inbox / "sub" / "a.png", b"no picture")
    (row,) = site.wait_for_rows(1)
    until((site.quarantine / "sub" / "a.png.json").exists, "it to be in quarantine")
    site.stop()
    drop(site.inbox / "sub" / "a.png", good(1))
    assert ask(site, row.id).returncode == 0
    site.start()
    rows = site.wait_for_rows(3)
    assert {Path(one.path).name for one in rows[1:]} == {"a.png", f"a.{row.id}.png"}
    until((site.done / "sub" / "a.png").exists, "the other to be done")


def test_a_done_file_goes_back_and_one_that_was_changed_does_not(site: Site) -> None:
    site.configure('after = "move"')
    site.start()
    for number in range(2):
        drop(site.inbox / f"{number}.png", good(number))
    rows = {Path(row.path).name: row for row in site.wait_for_rows(2)}
    until(lambda: len(list(site.done.glob("*.png"))) == 2, "both to be done")
    site.stop()
    (site.done / "1.png").write_bytes(good(5))
    done = ask(site, rows["0.png"].id, rows["1.png"].id)
    assert done.returncode == 1
    assert f"{rows['1.png'].id}: its file is not in {site.done} any more, or was changed" in done.stderr
    site.start()
    assert [Path(row.path).name for row in site.wait_for_rows(3)][2:] == ["0.png"]
    until((site.done / "0.png").exists, "it to be done again")


# A full disk.


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a few MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "edged-test", str(folder)], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting a small disk is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_and_waited_for(site: Site, small_disk: Path) -> None:
    site.state = small_disk / "state"
    site.configure('after = "move"', jsonl=small_disk / "results.jsonl")
    site.jsonl = small_disk / "results.jsonl"
    site.start()
    drop(site.inbox / "first.png", good(0))
    site.wait_for_rows(1)
    site.wait_for_lines(1)
    ballast = small_disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    for number in range(200):
        drop(site.inbox / f"{number}.png", good(number))
    until(lambda: "cannot be made durable" in site.get("/readyz").text, "the trouble to be told")
    metrics = site.metrics()
    assert metrics["edged_ready"] == 0
    assert metrics['edged_queue_items{source="line1"}'] > 0
    assert len(list(site.inbox.glob("*.png"))) >= 200 - len(site.rows())  # what has no result is where it was
    ballast.unlink()
    rows = site.wait_for_rows(201)
    assert len({row.path for row in rows}) == 201
    until(lambda: site.get("/readyz").status_code == 200, "the end of the trouble")
    until(lambda: len(list(site.done.glob("*.png"))) == 201, "all to be done")
    lines = site.wait_for_lines(201)
    assert list(dict.fromkeys(line["id"] for line in lines)) == [row.id for row in rows]
    assert site.stop() == 0
    assert opened(site.state).salvaged is None


def test_a_start_that_fails_after_the_journal_was_opened_is_no_crash(site: Site) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        site.configure(listen=f"127.0.0.1:{taken.getsockname()[1]}")
        site.start(wait=False)
        assert site.process is not None
        assert site.process.wait(timeout=60) == 2
        assert (site.state / FILE).exists()
    site.configure()
    site.start()
    assert site.said("the last run was cut off, and its write-ahead log is gone: its last results may be lost") == []
    assert site.stop() == 0


def test_an_onnxruntime_of_another_distribution_is_named_by_its_module(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    assert runtime_version() == f"onnxruntime {onnxruntime.__version__}"
    monkeypatch.setattr(runtime.metadata, "distribution", not_found)  # of no name that edged knows
    assert runtime_version() == f"onnxruntime {onnxruntime.__version__}"


def not_found(name: str) -> None:
    raise runtime.metadata.PackageNotFoundError(name)

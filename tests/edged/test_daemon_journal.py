"""The daemon and its journal: damage, requests, retention, as a user sees them."""

import os
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edged import salvage
from edged.arrivals import Entry, Stamps
from edged.journal import FILE, Journal
from tests.edged.daemons import Site
from tests.edged.making import drop, good, record, until
from tests.edged.test_salvage import pages_of, zero


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path)
    yield one
    one.clean_up()


def score_many(site: Site, count: int) -> None:
    """Fills inbox and journal as if the daemon had scored that many files."""
    journal = Journal(site.state)
    journal.add_sink("lines")
    entries = []
    for number in range(count):
        path = site.inbox / f"{number:04}.png"
        drop(path, good(number % 5))
        entries.append(
            Entry(record(path=str(path), sha256=f"{number:064x}", scored_at=time.time()), Stamps.of(path.lstat()))
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
        assert all(size > 0 for _, size, _ in journal.kept("line1"))  # each was looked at, and known again
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
    salvage.note(site.state / FILE, "a test")
    site.start()
    assert site.said("the journal was salvaged; files whose results were lost are scored again where they still are")
    site.stop()
    site.start()
    assert not site.said("the journal is damaged; what can be read of it is salvaged")
    until(lambda: site.get("/readyz").status_code == 200, "ready")
    assert len(site.rows()) == 50

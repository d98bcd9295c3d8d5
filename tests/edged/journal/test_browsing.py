from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.journal.browsing import Wanted, after, browse, find
from edged.journal.journal import Entry, Journal
from tests.edged.making import record


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path)
    yield one
    one.close()


def test_a_needle_in_a_haystack_is_found_over_several_pages(journal: Journal, tmp_path: Path) -> None:
    needle = record(source="rare")
    journal.commit([Entry(needle)])
    for _ in range(12):
        journal.commit([Entry(record()) for _ in range(1000)])
    page, pages = browse(tmp_path, Wanted("rare"), seconds=0), 1
    while not page.results:
        assert page.following is not None
        page, pages = browse(tmp_path, Wanted("rare"), before=page.following, seconds=0), pages + 1
    assert [one for _, one in page.results] == [needle]
    assert (page.following, pages) == (None, 3)
    patient = browse(tmp_path, Wanted("rare"), seconds=60)
    assert [one for _, one in patient.results] == [needle]


def test_pruned_rows_are_no_obstacle(journal: Journal, tmp_path: Path) -> None:
    old, new = record(scored_at=1.0), record()
    journal.commit([Entry(old)])
    for _ in range(6):
        journal.commit([Entry(record(scored_at=2.0)) for _ in range(1000)])
    journal.commit([Entry(new)])
    with journal.transaction() as db:
        db.execute("DELETE FROM results WHERE scored_at = 2.0")
    page = browse(tmp_path, Wanted(), limit=2)
    assert ([one for _, one in page.results], page.following) == ([new, old], None)


def test_what_came_after_a_row(journal: Journal, tmp_path: Path) -> None:
    records = [record() for _ in range(5)]
    journal.commit([Entry(one) for one in records])
    assert after(tmp_path, 2, 10) == [(3, records[2]), (4, records[3]), (5, records[4])]
    assert after(tmp_path, 0, 2) == [(4, records[3]), (5, records[4])]
    assert after(tmp_path, 5, 10) == []


def test_one_by_its_id(journal: Journal, tmp_path: Path) -> None:
    one = record()
    journal.commit([Entry(one)])
    assert find(tmp_path, one.id) == one
    assert find(tmp_path, "0" * 26) is None
    assert find(tmp_path / "nowhere", one.id) is None

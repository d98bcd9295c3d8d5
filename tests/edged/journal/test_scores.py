from pathlib import Path

import pytest

from edged.journal import labels, scores
from edged.journal.journal import Entry, Journal
from edged.journal.reading import opened
from tests.edged.making import record


def test_what_people_said_is_read_without_a_look_at_every_result(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.commit([Entry(one := record(score=0.7, scored_at=3.0)), Entry(record(score=0.2, scored_at=3.0))])
    labels.put(journal, one.id, "real")
    with opened(tmp_path) as db:
        assert db is not None
        plan = [row[3] for row in db.execute("EXPLAIN QUERY PLAN " + scores._LABELLED, (0.0, "m", "s", 10))]
    assert plan[0] == "SCAN labels"
    assert plan[1].startswith("SEARCH results")
    assert "(id=?)" in plan[1]
    found = scores.read(tmp_path, one.model, one.model_sha256, since=1.0)
    assert found.labelled["real"].tolist() == pytest.approx([0.7])
    assert found.all.tolist() == pytest.approx([0.2, 0.7])
    journal.close()

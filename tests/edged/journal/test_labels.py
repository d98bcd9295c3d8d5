from collections.abc import Iterator
from pathlib import Path

import pytest

from edged.journal import labels
from edged.journal.journal import Entry, Journal
from edged.journal.salvage import salvage
from edged.journal.schema import FILE
from tests.edged.making import record


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path)
    yield one
    one.close()


def test_only_results_are_labelled(journal: Journal, tmp_path: Path) -> None:
    assert labels.put(journal, "0" * 26, "real") is None
    with pytest.raises(ValueError, match="is no label"):
        labels.put(journal, "0" * 26, "good")
    assert labels.read(tmp_path) == {}
    assert labels.read(tmp_path / "nowhere") == {}


def test_a_label_goes_with_its_result(journal: Journal, tmp_path: Path) -> None:
    old, new = record(scored_at=1.0), record(scored_at=3.0)
    journal.commit([Entry(old), Entry(new)])
    labels.put(journal, old.id, "real")
    labels.put(journal, new.id, "unsure")
    assert journal.prune(2.0, []) == 1
    assert set(labels.read(tmp_path)) == {new.id}


def test_labels_are_salvaged(journal: Journal, tmp_path: Path) -> None:
    one = record()
    journal.commit([Entry(one)])
    labels.put(journal, one.id, "real", "a note")
    journal.close()
    assert salvage(tmp_path / FILE, "on purpose").whole
    assert labels.read(tmp_path)[one.id].note == "a note"

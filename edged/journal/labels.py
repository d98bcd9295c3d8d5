"""What people said of results: false alarm, real, or unsure, with a note. It stays as long as the result does."""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

from edged.journal.journal import Journal
from edged.journal.reading import opened
from edged.results import COLUMNS, Record, rfc3339

LabelWord = Literal["false_alarm", "real", "unsure"]
LABELS: Final[tuple[LabelWord, ...]] = get_args(LabelWord)
LONGEST_NOTE: Final = 1000
"""Characters."""
CSV_COLUMNS: Final = (*COLUMNS, "label", "note")
"""Of results with what people said of them, as CSV: the same ones whether anybody said something or not."""


@dataclass(frozen=True, slots=True)
class Label:
    """What a person said of a result.

    Attributes:
        label: one of `LABELS`.
        note: in their own words; may be empty.
        labelled_at: seconds since 1970.
    """

    label: str
    note: str
    labelled_at: float

    def to_dict(self) -> dict[str, Any]:
        """As the API and the exports tell it."""
        return {"label": self.label, "note": self.note, "labelled_at": rfc3339(self.labelled_at)}


def csv_row(record: Record, label: Label | None) -> tuple[Any, ...]:
    """A result in `CSV_COLUMNS`."""
    about = record.to_dict()
    return (*(about[column] for column in COLUMNS), *((label.label, label.note) if label else ("", "")))


def put(journal: Journal, id_: str, label: str | None, note: str = "") -> str | None:
    """Labels a result, or takes its label away; durable when it returns.

    Args:
        journal: with the result.
        id_: of the result.
        label: one of `LABELS`; None for no label.
        note: in a person's own words, up to `LONGEST_NOTE`.

    Returns:
        The source of the result; None when there is no such result, and nothing was done.

    Raises:
        JournalError: the disk refuses.
    """
    if label is not None and label not in LABELS:
        raise ValueError(f"{label!r} is no label")
    with journal.transaction() as db:
        row = db.execute("SELECT source FROM results WHERE id = ?", (id_,)).fetchone()
        if row is None:
            return None
        if label is None:
            db.execute("DELETE FROM labels WHERE id = ?", (id_,))
        else:
            values = (id_, label, note[:LONGEST_NOTE], time.time())
            db.execute("INSERT OR REPLACE INTO labels VALUES (?, ?, ?, ?)", values)
    return str(row[0])


def read(state_dir: Path, ids: Iterable[str] | None = None) -> dict[str, Label]:
    """The labels of these results, or all that there are, by the id of the result.

    Raises:
        JournalError: the journal cannot be read.
        SchemaError: it is of a newer edged.
    """
    with opened(state_dir) as db:
        return {} if db is None or not _has_labels(db) else dict(_rows(db, ids))


def _rows(db: sqlite3.Connection, ids: Iterable[str] | None) -> Iterator[tuple[str, Label]]:
    query = "SELECT id, label, note, labelled_at FROM labels"
    if ids is None:
        found = db.execute(f"{query} ORDER BY labelled_at").fetchall()
    else:
        found = [row for id_ in ids for row in db.execute(f"{query} WHERE id = ?", (id_,))]
    for id_, *values in found:
        yield id_, Label(*values)


def _has_labels(db: sqlite3.Connection) -> bool:
    """Whether the journal is not of an edged before there were labels."""
    return db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'labels'").fetchone() is not None

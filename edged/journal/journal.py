"""The journal: one SQLite file that holds results, what is done, and what is still owed to files and sinks.

A result, what its source remembers of it and its place before every sink's cursor are one transaction: the rows of
`results` are the outbox, and a sink is a cursor in them.

    results        one row an arrival, in the order of commits; an event is one row, which moves to the end as it closes
    sinks          name -> the last row that it was given
    dead_letters   records that a sink refused for good
    labels         what people said of results; see `labels`

The other tables are the sources' own, such as `sources/folder/ledger.py`.

`database` is the file that they are in, `schema` makes the tables, `rows` says what stands in a row, `damage` and
`salvage` are for a journal that is damaged. One process writes (it holds the `lock` beside the journal); any number
read, with `reading`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from edged import failpoints
from edged.errors import JournalError
from edged.journal.damage import UNREADABLE
from edged.journal.database import Database
from edged.journal.rows import INSERT, REPLACE, SELECT, UPDATE, of_record, to_record
from edged.results import Record

_PAGE: Final = 1000

MAX_DEAD_LETTERS: Final = 10_000
"""Of a sink; the oldest beyond them go."""

Statement = tuple[str, Sequence[Any]]
"""SQL and its values: what a source remembers, in the transaction of a record."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What becomes durable together: a record, if there is one, and what its source remembers of it."""

    record: Record | None
    statements: Sequence[Statement] = ()


def remember(source: str, key: str, value: bytes) -> Statement:
    """What a source without a table of its own makes durable; see `Journal.remembered`."""
    return "INSERT OR REPLACE INTO remembered VALUES (?, ?, ?)", (source, key, value)


class Journal(Database):
    """The one writer. Its methods may be called from any thread."""

    def commit(self, entries: Sequence[Entry]) -> None:
        """Makes records durable together with what their sources remember of them: all of it or none.

        May be repeated with the same entries when it failed: an id that is there already is not added again. That of
        an event is updated; sinks are given the event as it opens, and again as it closes.

        Raises:
            JournalError: the disk refuses (it is full, say); nothing was added.
        """
        with self.transaction() as db:
            records = [entry.record for entry in entries if entry.record is not None]
            db.executemany(INSERT, [of_record(record) for record in records if record.event is None])
            for record in records:
                if record.event is not None:
                    db.execute(UPDATE if record.event.state == "open" else REPLACE, of_record(record))
            for entry in entries:
                for query, values in entry.statements:
                    db.execute(query, values)
            failpoints.reach("committing")

    def absent(self, ids: Sequence[str]) -> set[str]:
        """Those of `ids` that no result has."""
        return {id_ for id_ in ids if not self.fetch("SELECT 1 FROM results WHERE id = ?", (id_,))}

    def add_sink(self, name: str) -> None:
        """Gives a sink its cursor: a new one starts after the rows that are there.

        Where damage took the cursors of sinks, one that seems new is given all rows again.
        """
        with self.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO sinks SELECT ?, iif(EXISTS (SELECT 1 FROM state WHERE name = 'resend'), 0, "
                "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'results'), 0))",
                (name,),
            )

    def undelivered(self, sink: str, limit: int) -> list[tuple[int, Record]]:
        """The next rows that a sink has not been given, in order, each with its number."""
        query = f"{SELECT} WHERE seq > (SELECT delivered_seq FROM sinks WHERE name = ?) ORDER BY seq LIMIT ?"
        found = self.fetch(query, (sink, limit))
        self.check_order([row[0] for row in found])
        try:
            return [(row[0], to_record(row)) for row in found]
        except UNREADABLE as error:
            raise JournalError(f"{self.path} cannot be read: {error}") from error

    def delivered(self, sink: str, seq: int) -> None:
        """Moves a sink's cursor on: every row up to `seq` has reached it.

        The next commit makes it durable; a power cut before that gives the sink the same rows again.
        """
        with self.transaction(durable=False) as db:
            db.execute("UPDATE sinks SET delivered_seq = ? WHERE name = ?", (seq, sink))

    def backlog(self, sink: str) -> int:
        """How many rows a sink has not been given; 0 for one that has no cursor yet."""
        query = (
            "SELECT coalesce((SELECT max(seq) FROM results), 0) - max(delivered_seq, coalesce((SELECT value FROM state "
            "WHERE name = 'pruned_seq'), 0)) FROM sinks WHERE name = ?"
        )
        rows = self.fetch(query, (sink,))
        return max(0, int(rows[0][0])) if rows else 0

    def drop_backlog(self, sink: str, most: int) -> int:
        """Moves a sink's cursor on where more than `most` rows wait for it; how many it will never be given."""
        dropped = self.backlog(sink) - most
        if dropped <= 0:
            return 0
        with self.transaction() as db:
            db.execute(
                "UPDATE sinks SET delivered_seq = (SELECT max(seq) FROM results) - ? WHERE name = ?", (most, sink)
            )
        return dropped

    def set_dead(self, sink: str, seq: int, record: Record, error: str) -> None:
        """Sets a row aside that a sink refused for good, and moves its cursor over it; the oldest beyond a bound go."""
        with self.transaction() as db:
            db.execute(
                "INSERT OR REPLACE INTO dead_letters VALUES (?, ?, ?, ?, ?)",
                (sink, seq, time.time(), error, record.to_json()),
            )
            db.execute(
                "DELETE FROM dead_letters WHERE sink = ? AND seq NOT IN "
                "(SELECT seq FROM dead_letters WHERE sink = ? ORDER BY seq DESC LIMIT ?)",
                (sink, sink, MAX_DEAD_LETTERS),
            )
            db.execute("UPDATE sinks SET delivered_seq = ? WHERE name = ?", (seq, sink))

    def dead_letters(self, sink: str) -> int:
        """How many records are set aside that a sink refused for good."""
        return int(self.fetch("SELECT count(*) FROM dead_letters WHERE sink = ?", (sink,))[0][0])

    def remembered(self, source: str, key: str) -> bytes | None:
        """What a source made durable under a key, with `remember`."""
        rows = self.fetch("SELECT value FROM remembered WHERE source = ? AND key = ?", (source, key))
        return rows[0][0] if rows else None

    def prune(self, older_than: float, sinks: Sequence[str], *, limit: int = _PAGE) -> int:
        """Removes up to `limit` results that were scored before `older_than` (seconds) and reached all of `sinks`.

        The cursors of other sinks stay, for one that is configured again, but hold nothing back. Marks of kept files
        stay: a kept file is not scored again because its result has become old.
        """
        marks = ", ".join("?" * len(sinks))
        reached = f"coalesce((SELECT min(delivered_seq) FROM sinks WHERE name IN ({marks})), 9e18)"
        return self._prune(f"scored_at < ? AND seq <= {reached}", (older_than, *sinks), limit)

    def prune_oldest(self, sinks: Sequence[str], *, limit: int = _PAGE) -> tuple[int, dict[str, int]]:
        """Removes up to `limit` of the oldest results, whether `sinks` were given them or not; marks stay.

        Returns:
            How many went, and how many of them each sink will never be given.
        """
        oldest = self.fetch("SELECT seq FROM results ORDER BY seq LIMIT ?", (limit,))
        if not oldest:
            return 0, {}
        lost = {}
        for sink in sinks:
            rows = self.fetch("SELECT delivered_seq FROM sinks WHERE name = ?", (sink,))
            if missed := sum(seq > rows[0][0] for (seq,) in oldest) if rows else 0:
                lost[sink] = missed
        return self._prune("seq <= ?", (oldest[-1][0],), limit), lost

    def _prune(self, which: str, values: Sequence[float | str], limit: int) -> int:
        with self.transaction() as db:
            db.execute("DELETE FROM state WHERE name = 'resend'")
            removed = db.execute(
                f"DELETE FROM results WHERE seq IN (SELECT seq FROM results WHERE {which} LIMIT ?) RETURNING seq",
                (*values, limit),
            ).fetchall()
            if removed:
                db.execute("DELETE FROM labels WHERE id NOT IN (SELECT id FROM results)")
                db.execute(
                    "INSERT INTO state VALUES ('pruned_seq', ?) "
                    "ON CONFLICT (name) DO UPDATE SET value = max(value, excluded.value)",
                    (max(row[0] for row in removed),),
                )
                failpoints.reach("pruning")
        if removed:
            failpoints.reach("pruned")
        return len(removed)

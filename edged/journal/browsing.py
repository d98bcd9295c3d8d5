"""Results for people and programs that look around: filtered, the newest first, a page at a time, in bounded time."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from edged.journal.damage import check_order
from edged.journal.reading import opened
from edged.journal.rows import select, to_record
from edged.journal.schema import FILE, read_version
from edged.results import OK, QUARANTINED, Record

OutcomeWord = Literal["ok", "anomaly", "quarantined", "event"]
OUTCOME_WORDS: Final = get_args(OutcomeWord)

_WINDOW: Final = 5000
"""Rows that are looked through at a time."""

_CONDITIONS: Final = {
    "ok": f"status = '{OK}' AND is_anomaly = 0",
    "anomaly": "is_anomaly = 1",
    "quarantined": f"status = '{QUARANTINED}'",
    "event": "event IS NOT NULL",
}
_LONG_AGO: Final = -1e300
_FAR_AWAY: Final = 1e300
_LAST: Final = 1 << 62


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which results are asked for; None: whichever.

    Attributes:
        source: of this source.
        outcome: what became of the picture; events are anomalies too.
        since: scored at or after it, seconds since 1970.
        until: scored before it, seconds since 1970.
    """

    source: str | None = None
    outcome: OutcomeWord | None = None
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class ResultPage:
    """Some results, the newest first.

    Attributes:
        results: each with the number of its row.
        following: before which row to go on; None where there is nothing more.
    """

    results: list[tuple[int, Record]]
    following: int | None


def browse(
    state_dir: Path, wanted: Wanted, *, before: int | None = None, limit: int = 50, seconds: float = 1.0
) -> ResultPage:
    """A page of results. It may hold fewer than `limit`, even none, and yet not be the last one: time is bounded.

    Args:
        state_dir: `service.state_dir`.
        wanted: which results.
        before: only rows before this one; None for the newest.
        limit: how many at most.
        seconds: to look for them; some are looked through in any case.

    Raises:
        JournalError: the journal cannot be read.
        SchemaError: it is of a newer edged.
    """
    deadline = time.monotonic() + seconds
    found: list[tuple[int, Record]] = []
    with opened(state_dir) as db:
        if db is None:
            return ResultPage([], None)
        conditions = "" if wanted.outcome is None else f"AND {_CONDITIONS[wanted.outcome]}"
        query = (
            f"{select(read_version(db, state_dir / FILE))} WHERE seq < ? AND seq >= ? AND scored_at >= ? "
            f"AND scored_at < ? AND (? IS NULL OR source = ?) {conditions} ORDER BY seq DESC LIMIT ?"
        )
        since = _LONG_AGO if wanted.since is None else wanted.since
        until = _FAR_AWAY if wanted.until is None else wanted.until
        upper = _LAST if before is None else before
        while True:
            last = db.execute("SELECT max(seq) FROM results WHERE seq < ?", (upper,)).fetchone()[0]
            if last is None:
                return ResultPage(found, None)
            upper, lower = last + 1, last + 1 - _WINDOW
            rows = db.execute(
                query, (upper, lower, since, until, wanted.source, wanted.source, limit - len(found))
            ).fetchall()
            check_order([row[0] for row in reversed(rows)])
            found += [(row[0], to_record(row)) for row in rows]
            upper = lower
            if len(found) == limit:
                upper = found[-1][0]
            if len(found) == limit or time.monotonic() >= deadline:
                is_more = db.execute("SELECT 1 FROM results WHERE seq < ? LIMIT 1", (upper,)).fetchone()
                return ResultPage(found, upper if is_more else None)


def find(state_dir: Path, id_: str) -> Record | None:
    """One result; None when there is none.

    Raises:
        JournalError: the journal cannot be read.
        SchemaError: it is of a newer edged.
    """
    with opened(state_dir) as db:
        if db is None:
            return None
        query = f"{select(read_version(db, state_dir / FILE))} WHERE id = ?"
        row = db.execute(query, (id_,)).fetchone()
        return None if row is None else to_record(row)


def after(state_dir: Path, seq: int, limit: int) -> list[tuple[int, Record]]:
    """Up to `limit` of the newest results beyond a row, oldest first, each with the number of its row.

    Raises:
        JournalError: the journal cannot be read.
        SchemaError: it is of a newer edged.
    """
    with opened(state_dir) as db:
        if db is None:
            return []
        query = f"{select(read_version(db, state_dir / FILE))} WHERE seq > ? ORDER BY seq DESC LIMIT ?"
        rows = db.execute(query, (seq, limit)).fetchall()[::-1]
        check_order([row[0] for row in rows])
        return [(row[0], to_record(row)) for row in rows]

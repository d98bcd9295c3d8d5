"""Scores of a model's results of late, and of those of which people said something: read in bounded time."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edged.journal.labels import LABELS
from edged.journal.reading import opened

_WINDOW: Final = 5000
"""Rows that are looked through at a time."""
_MOST: Final = 200_000
_MOST_LABELS: Final = 20_000

_RESULTS: Final = """
    SELECT score, model_sha256 = ? FROM results
    WHERE seq > ? AND seq <= ? AND scored_at >= ? AND model = ? AND score IS NOT NULL
"""
# CROSS JOIN: labels are few, and are looked through first; a week's results are not.
_LABELLED: Final = """
    SELECT labels.label, results.score FROM labels CROSS JOIN results USING (id)
    WHERE results.scored_at >= ? AND model = ? AND model_sha256 = ? AND score IS NOT NULL
    ORDER BY labelled_at DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True)
class LateScores:
    """Scores of one model.onnx, ascending: those of another one are no measure for it.

    Attributes:
        all: of every result since `since`, float64 (n,).
        labelled: of those of the whole time that was asked for of which people said something, by the label.
        since: of when the oldest of `all` may be, seconds since 1970.
        is_whole: whether that is all that was asked for; else there were too many.
        others: results under the model's name that another model.onnx gave.
    """

    all: NDArray[np.float64]
    labelled: Mapping[str, NDArray[np.float64]]
    since: float
    is_whole: bool
    others: int


def read(state_dir: Path, model: str, model_sha256: str, *, since: float, seconds: float = 1.0) -> LateScores:
    """The scores of the newest results of a model, as many as time and a limit allow.

    Args:
        state_dir: `service.state_dir`.
        model: its name in the configuration.
        model_sha256: of model.onnx.
        since: scored at or after it, seconds since 1970.
        seconds: to read; a few are read in any case.

    Raises:
        JournalError: the journal cannot be read.
        SchemaError: it is of a newer edged.
    """
    deadline = time.monotonic() + seconds
    scores: list[float] = []
    labelled: dict[str, list[float]] = {label: [] for label in LABELS}
    others, reached, is_whole = 0, since, True
    with opened(state_dir) as db:
        if db is not None:
            for label, score in db.execute(_LABELLED, (since, model, model_sha256, _MOST_LABELS)):
                labelled[label].append(score)
            upper = db.execute("SELECT max(seq) FROM results").fetchone()[0]
            while upper is not None:
                rows = db.execute(_RESULTS, (model_sha256, upper - _WINDOW, upper, since, model)).fetchall()
                scores += [score for score, is_same in rows if is_same]
                others += sum(not is_same for _, is_same in rows)
                before = upper - _WINDOW
                newest = db.execute(
                    "SELECT seq, scored_at FROM results WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (before,)
                ).fetchone()
                if newest is None or newest[1] < since:
                    break
                if len(scores) >= _MOST or time.monotonic() >= deadline:
                    reached, is_whole = newest[1], False
                    break
                upper = newest[0]
    return LateScores(
        all=np.sort(np.asarray(scores, dtype=np.float64)),
        labelled={label: np.sort(np.asarray(found, dtype=np.float64)) for label, found in labelled.items()},
        since=reached,
        is_whole=is_whole,
        others=others,
    )

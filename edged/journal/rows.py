"""Records as rows of the journal and back."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from edged.journal import schema
from edged.results import Event, Record

_COLUMNS: Final = tuple(Record.__dataclass_fields__)


def select(version: int = schema.VERSION) -> str:
    """The query, before a WHERE, of what `to_record` takes; from a journal of this schema."""
    added = schema.ADDED["results"]
    columns = [name if added.get(name, 0) <= version else f"NULL AS {name}" for name in _COLUMNS]
    return f"SELECT seq, {', '.join(columns)} FROM results"


SELECT: Final = select()
"""What `to_record` takes, before a WHERE."""
INSERT: Final = (
    f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)
"""Takes what `of_record` gives."""
UPDATE: Final = (
    INSERT.removesuffix("NOTHING") + "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)
)
"""Likewise; a row that is there keeps its number, so that sinks which were given it are not given it again."""
REPLACE: Final = INSERT.replace("INSERT", "REPLACE").removesuffix(" ON CONFLICT (id) DO NOTHING")
"""Likewise; a row that is there gets a new number, so that sinks are given it again."""


def of_record(record: Record) -> tuple[Any, ...]:
    """The values of `INSERT`."""
    values = {name: getattr(record, name) for name in _COLUMNS}
    values["path"] = os.fsencode(record.path)
    values["timings_ms"] = json.dumps(record.timings_ms)
    values["event"] = None if record.event is None else json.dumps(asdict(record.event))
    return tuple(values.values())


def to_record(row: Sequence[Any]) -> Record:
    """A row of `SELECT`."""
    values = dict(zip(_COLUMNS, row[1:], strict=True))
    values["path"] = os.fsdecode(values["path"])
    values["timings_ms"] = _timings(values["timings_ms"])
    values["event"] = None if values["event"] is None else _event(values["event"])
    if values["is_anomaly"] is not None:
        values["is_anomaly"] = bool(values["is_anomaly"])
    return Record(**values)


def _timings(text: str) -> dict[str, float]:
    """Milliseconds by stage; none where a disk has spoiled them, for the rest of the result is worth having."""
    try:
        values = json.loads(text)
    except (ValueError, TypeError):
        return {}
    if not isinstance(values, dict) or not all(_is_number(value) for value in values.values()):
        return {}
    return values


def _event(text: str) -> Event | None:
    """What a disk has spoiled is a result like others, for the rest of it is worth having."""
    try:
        return Event(**json.loads(text))
    except (ValueError, TypeError):
        return None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

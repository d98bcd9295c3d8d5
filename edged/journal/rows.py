"""Results, disposals and what is in quarantine as rows of the journal and back."""

import json
import math
import os
from collections.abc import Sequence
from typing import Any, Final

from edged.results import Record
from edged.sources.folder.arrivals import Disposal, SetAside, Stamps

_COLUMNS: Final = tuple(Record.__dataclass_fields__)
SELECT: Final = f"SELECT seq, {', '.join(_COLUMNS)} FROM results"
"""What `to_record` takes, before a WHERE."""
INSERT: Final = (
    f"INSERT INTO results ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)
"""Takes what `of_record` gives."""


def of_record(record: Record) -> tuple[Any, ...]:
    """The values of `INSERT`."""
    values = {name: getattr(record, name) for name in _COLUMNS}
    values["path"] = os.fsencode(record.path)
    values["timings_ms"] = json.dumps(record.timings_ms)
    return tuple(values[name] for name in _COLUMNS)


def to_record(row: Sequence[Any]) -> Record:
    """A row of `SELECT`."""
    values = dict(zip(_COLUMNS, row[1:], strict=True))
    values["path"] = os.fsdecode(values["path"])
    values["timings_ms"] = _timings(values["timings_ms"])
    if values["is_anomaly"] is not None:
        values["is_anomaly"] = bool(values["is_anomaly"])
    return Record(**values)


def of_disposal(disposal: Disposal) -> tuple[Any, ...]:
    """The values of a row of `disposals`."""
    stamps = disposal.stamps
    return (
        disposal.id,
        disposal.source,
        disposal.path,
        stamps.inode,
        stamps.size,
        stamps.mtime_ns,
        disposal.action,
        disposal.sidecar,
        disposal.root,
    )


def to_disposal(row: Sequence[Any]) -> Disposal:
    """A row of `disposals`."""
    id_, source, path, inode, size, mtime_ns, action, sidecar, root = row
    return Disposal(id_, source, path, Stamps(inode, size, mtime_ns), action, sidecar, root)


def of_set_aside(one: SetAside) -> tuple[Any, ...]:
    """The values of a row of `quarantine`."""
    return one.id, one.source, one.path, one.stamps.inode, one.stamps.size, one.stamps.mtime_ns, one.moved_at


def to_set_aside(row: Sequence[Any]) -> SetAside:
    """A row of `quarantine`."""
    id_, source, path, inode, size, mtime_ns, moved_at = row
    return SetAside(id_, source, path, Stamps(inode, size, mtime_ns), moved_at)


def _timings(text: str) -> dict[str, float]:
    """Milliseconds by stage; none where a disk has spoiled them, for the rest of the result is worth having."""
    try:
        values = json.loads(text)
    except (ValueError, TypeError):
        return {}
    if not isinstance(values, dict) or not all(_is_number(value) for value in values.values()):
        return {}
    return values


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

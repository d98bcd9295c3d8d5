"""The variables of the OPC UA server: the latest result of all sources and of each, with counters.

Names are after OPC 40100-1, the companion specification for machine vision, where it has one for what is meant, and
`ResultEvaluation` is as OPC 40001-101 has it; the types of these specifications are not there, nor is what they ask for
beside results.
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from edged.results import OK, Record

if TYPE_CHECKING:
    from asyncua import Node, Server

NAMESPACE: Final = "urn:edged:results"
LATEST: Final = "LatestResult"
TYPES: Final = {
    "Source": "String",
    "CreationTime": "DateTime",
    "InternalRecipeId": "String",
    "IsPartial": "Boolean",
    "ResultState": "Int32",
    "ResultEvaluation": "Int32",
    "IsAnomaly": "Boolean",
    "Score": "Double",
    "Threshold": "Double",
    "ResultContent": "String",
    "ResultCount": "UInt32",
    "AnomalyCount": "UInt32",
    "NotDecidableCount": "UInt32",
    "ResultId": "String",
}
"""Every variable, in the order in which they are written: who is told of a new ResultId finds the rest in place."""

COMPLETED, PROCESSING, FAILED = 1, 2, 4
"""ResultState, of OPC 40100-1."""
UNDEFINED, GOOD, NOT_GOOD, NOT_DECIDABLE = 0, 1, 2, 3
"""ResultEvaluation, of OPC 40001-101."""

_ANY: Final[dict[str, Any]] = {
    "String": "",
    "DateTime": datetime(1970, 1, 1, tzinfo=UTC),
    "Boolean": False,
    "Int32": 0,
    "UInt32": 0,
    "Double": 0.0,
}
"""A value of each type, for variables that have none yet."""

_COUNTERS: Final = ("ResultCount", "AnomalyCount", "NotDecidableCount")
_WRAPS: Final = 1 << 32
_REMEMBERED: Final = 1024
"""Records that are not counted again; a sink is given as many at a time at most."""


class VisionSystem:
    """The object VisionSystem of a server; of one loop, but for its making."""

    def __init__(self, sources: Sequence[str]) -> None:
        """Prepares it, with places for these sources; others get theirs with their first record."""
        self._sources = sources
        self._places: dict[str, dict[str, Node]] = {}
        self._counted: dict[str, dict[str, int]] = {}
        self._seen: deque[str] = deque(maxlen=_REMEMBERED)

    async def build(self, server: "Server") -> None:
        """Puts it into a new server."""
        from asyncua import ua

        self._server, self._index = server, await server.register_namespace(NAMESPACE)
        self._places = {}
        parent = server.nodes.objects
        for name in ("VisionSystem", "ResultManagement"):
            parent = await parent.add_object(ua.NodeId(name, self._index), ua.QualifiedName(name, self._index))
        self._management = parent
        self._results = await parent.add_folder(
            ua.NodeId("Results", self._index), ua.QualifiedName("Results", self._index)
        )
        await self._add(LATEST, None)
        for source in self._sources:
            await self._add(_place_of(source), source)

    async def show(self, records: Sequence[Record], ends: float) -> int:
        """Shows records one after the other, until `ends` of the monotonic clock; how many, one at least."""
        for shown, record in enumerate(records):
            if shown and time.monotonic() > ends:
                return shown
            places = (LATEST, _place_of(record.source))
            if places[1] not in self._places:
                await self._add(places[1], record.source)
            values = values_of(record)
            if record.delivery_key not in self._seen:
                self._seen.append(record.delivery_key)
                for place in places:
                    _count(self._counted[place], record)
            for place in places:
                await self._write(place, values | self._counted[place], record.scored_at)
            await asyncio.sleep(0)  # it is the clients' turn
        return len(records)

    async def _add(self, place: str, source: str | None) -> None:
        """An object with every variable: of a source, or of all."""
        from asyncua import ua

        parent = self._management if source is None else self._results
        holder = await parent.add_object(ua.NodeId(place, self._index), ua.QualifiedName(source or place, self._index))
        self._places[place] = {}
        self._counted[place] = dict.fromkeys(_COUNTERS, 0)
        for name, kind in TYPES.items():
            self._places[place][name] = await holder.add_variable(
                ua.NodeId(f"{place}.{name}", self._index),
                ua.QualifiedName(name, self._index),
                _ANY[kind],
                ua.VariantType[kind],
            )
        nothing = dict.fromkeys(TYPES) | {"Source": source, "ResultState": 0, "ResultEvaluation": UNDEFINED}
        await self._write(place, nothing | self._counted[place], time.time(), before=True)

    async def _write(self, place: str, values: dict[str, Any], at: float, *, before: bool = False) -> None:
        """All of one record without a pause, so that nobody reads half of it."""
        from asyncua import ua

        codes = ua.StatusCodes
        none = ua.StatusCode(codes.BadWaitingForInitialData if before else codes.BadNoData)
        when = datetime.fromtimestamp(at, UTC)
        for name, node in self._places[place].items():
            value = values[name]
            shown = (
                ua.DataValue(ua.Variant(), none, SourceTimestamp=when)
                if value is None
                else ua.DataValue(ua.Variant(value, ua.VariantType[TYPES[name]]), SourceTimestamp=when)
            )
            await self._server.write_attribute_value(node.nodeid, shown)


def values_of(record: Record) -> dict[str, Any]:
    """What is shown of a record, by variable; None where it has none."""
    is_open = record.event is not None and record.event.state == "open"
    decided = NOT_GOOD if record.is_anomaly else GOOD
    return {
        "Source": record.source,
        "CreationTime": datetime.fromtimestamp(record.scored_at, UTC),
        "InternalRecipeId": record.model,
        "IsPartial": is_open,
        "ResultState": PROCESSING if is_open else COMPLETED if record.status == OK else FAILED,
        "ResultEvaluation": NOT_DECIDABLE if record.is_anomaly is None else decided,
        "IsAnomaly": record.is_anomaly,
        "Score": record.score,
        "Threshold": record.threshold,
        "ResultContent": record.to_json(),
        "ResultId": record.id,
    }


def _place_of(source: str) -> str:
    return f"Results.{source}"


def _count(counted: dict[str, int], record: Record) -> None:
    """An event is counted as it closes."""
    if record.event is not None and record.event.state == "open":
        return
    for name, counts in zip(_COUNTERS, (True, bool(record.is_anomaly), record.is_anomaly is None), strict=True):
        counted[name] = (counted[name] + counts) % _WRAPS

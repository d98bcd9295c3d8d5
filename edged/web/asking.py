"""What a request asks for, checked: filters and pages of results, ids. Shared by the API and the page."""

import asyncio
import math
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar, cast

import anyio
import anyio.to_thread
from annotated_types import MaxLen
from pydantic import BaseModel, ConfigDict, ValidationError

from edged.errors import EdgedError
from edged.journal.browsing import OUTCOME_WORDS, OutcomeWord, Wanted
from edged.journal.labels import LABELS, LONGEST_NOTE, LabelWord
from edged.web.allowance import Allowance

MOST_RESULTS: Final = 200
DEFAULT_RESULTS: Final = 50
_ID: Final = re.compile(r"[0-9a-f]{26}")
SOURCE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_CURSOR: Final = re.compile(r"[0-9]{1,18}")
_AT_A_TIME: Final = 2
_PATIENCE_S: Final = 2.0
_LONGEST_NUMBER: Final = 40

_T = TypeVar("_T")


class BadRequestError(EdgedError):
    """A request asks for what cannot be; the text says what is wrong with it."""


class LabelGiven(BaseModel):
    """What a person says of a result."""

    model_config = ConfigDict(extra="forbid", strict=True)

    label: LabelWord
    note: Annotated[str, MaxLen(LONGEST_NOTE)] = ""


class Worker:
    """Runs what takes time in a few threads, so that no crowd of clients takes the CPUs from scoring."""

    def __init__(self, allowance: Allowance | None = None) -> None:
        self._places, self._turns = anyio.CapacityLimiter(_AT_A_TIME), asyncio.Semaphore(_AT_A_TIME)
        self._allowance = allowance

    async def run(self, work: Callable[[], _T]) -> _T:
        """What `work` returns, once there is CPU time left for it."""
        if (allowance := self._allowance) is None:
            return await anyio.to_thread.run_sync(work, limiter=self._places)

        def counted() -> _T:
            began_s = time.thread_time()
            try:
                return work()
            finally:
                allowance.spend(time.thread_time() - began_s)

        async with self._turns:  # first, or a crowd that waits for the same moment begins all at once
            await allowance.wait()
            return await anyio.to_thread.run_sync(counted, limiter=self._places)


class Lookup:
    """Looks at disks that may hang, one look at a time: no page waits for long, and no other work does at all."""

    def __init__(self, patience_s: float = _PATIENCE_S) -> None:
        self._patience_s = patience_s
        self._place, self._turn = anyio.CapacityLimiter(1), asyncio.Semaphore(1)

    async def run(self, look: Callable[[], _T]) -> _T:
        """What `look` returns.

        Raises:
            TimeoutError: it takes too long, or one before it still does.
        """
        async with asyncio.timeout(self._patience_s):
            await self._turn.acquire()
            looking = asyncio.ensure_future(anyio.to_thread.run_sync(look, limiter=self._place))
            looking.add_done_callback(self._ended)
            return await asyncio.shield(looking)

    def _ended(self, looking: "asyncio.Future[_T]") -> None:
        self._turn.release()
        if not looking.cancelled():
            looking.exception()  # of one that nobody waits for any more


def is_id(text: str) -> bool:
    """Whether this may be the id of a result; nothing else is ever looked for on a disk."""
    return _ID.fullmatch(text) is not None


def wanted(query: Mapping[str, str]) -> Wanted:
    """The filters of a request: `source`, `outcome`, `since`, `until`; empty ones are none.

    Raises:
        BadRequestError: they make no sense.
    """
    source, outcome = query.get("source") or None, query.get("outcome") or None
    if source is not None and not SOURCE.fullmatch(source):
        raise BadRequestError("source: is letters, digits, _ and -, at most 64")
    if outcome is not None and outcome not in OUTCOME_WORDS:
        raise BadRequestError(f"outcome: is one of {', '.join(OUTCOME_WORDS)}")
    since, until = (_time(name, query.get(name) or None) for name in ("since", "until"))
    return Wanted(source, cast("OutcomeWord | None", outcome), since, until)


def place(query: Mapping[str, str]) -> tuple[int | None, int]:
    """The page of a request: `before`, as the page before it gave it, and `limit`.

    Raises:
        BadRequestError: they make no sense.
    """
    before, limit = query.get("before") or None, query.get("limit") or str(DEFAULT_RESULTS)
    if before is not None and not _CURSOR.fullmatch(before):
        raise BadRequestError("before: is what `next` of the page before says")
    if not _CURSOR.fullmatch(limit) or not 1 <= int(limit) <= MOST_RESULTS:
        raise BadRequestError(f"limit: is a number from 1 to {MOST_RESULTS}")
    return None if before is None else int(before), int(limit)


def threshold(query: Mapping[str, str]) -> float | None:
    """The threshold of a request, `value`; None where it names none.

    Raises:
        BadRequestError: it makes no sense.
    """
    text = query.get("value") or None
    if text is None:
        return None
    try:
        value = float(text) if len(text) <= _LONGEST_NUMBER else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise BadRequestError("value: is a number above 0")
    return value


def seed(query: Mapping[str, str], count: int) -> int:
    """The `seed` of a request, 0 where it names none.

    Raises:
        BadRequestError: it makes no sense.
    """
    text = query.get("seed") or "0"
    if not _CURSOR.fullmatch(text) or int(text) >= count:
        raise BadRequestError(f"seed: is a number from 0 to {count - 1}")
    return int(text)


def label(body: bytes) -> tuple[str, str]:
    """The label and the note of a request, which is JSON.

    Raises:
        BadRequestError: it makes no sense.
    """
    try:
        given = LabelGiven.model_validate_json(body)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors())
        raise BadRequestError(
            f'{told}; send JSON such as {{"label": "{LABELS[0]}", "note": ""}}, label one of {", ".join(LABELS)}'
        ) from error
    return given.label, given.note


def _time(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
        seconds = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise BadRequestError(f"{name}: is a time such as 2026-11-22T14:00:00Z")
    return seconds

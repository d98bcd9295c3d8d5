"""How a sink that gives one record at a time keeps within its time."""

import time
from collections.abc import Callable, Sequence

from edged.errors import SinkError
from edged.results import Record


def one_by_one(records: Sequence[Record], timeout_s: float, give: Callable[[Record, float], None]) -> int:
    """Gives records in order, until one fails or time gets short.

    Args:
        records: one at least.
        timeout_s: for all of them.
        give: gives one within so many seconds, or raises SinkError.

    Returns:
        How many were given.

    Raises:
        SinkError: the first of them cannot be given.
    """
    ends = time.monotonic() + timeout_s
    for given, record in enumerate(records):
        left = ends - time.monotonic()
        if given and left < timeout_s / 2:  # one that is cut off may have arrived, and would come twice
            return given
        try:
            give(record, left)
        except SinkError:
            if not given:
                raise
            return given  # it comes again as the first
    return len(records)

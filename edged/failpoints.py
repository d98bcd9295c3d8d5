"""Places between two durable steps where a test has the daemon die, as by kill -9.

`EDGED_FAILPOINT=held` kills the daemon where it comes by the point `held` for the first time, `held:3` the third time.
It is read once, at the start, and an armed daemon says so in its log. Whoever can set a daemon's environment can kill
it anyway. Without it, a point costs one comparison.
"""

import os
import signal
import threading
from typing import Final

import structlog

from edged.errors import ConfigError

VARIABLE: Final = "EDGED_FAILPOINT"

POINTS: Final = (
    "claimed",  # an arrival was taken from its source's queue
    "opened",  # its file is open, no decoder has it yet
    "decoded",  # a decoder answered
    "drawing",  # an overlay is written under its partial name
    "drawn",  # overlays stand, the result does not
    "committing",  # the rows are in an open transaction
    "committed",  # the result is durable, the source does not know
    "told",  # the source knows, the sinks do not
    "refreshed",  # new fingerprint of a kept file are durable, and nothing else
    "rotating",  # a sink's file is about to become the first of its backups
    "rotated",  # it is, and there is no new one
    "published",  # a sink has lines, the journal does not know
    "delivered",  # the journal knows
    "disposing",  # a file is about to leave its inbox
    "held",  # it has its private name
    "explained",  # a sidecar stands, its file does not yet
    "copied",  # a copy on another file system is whole and durable, under its partial name
    "marked",  # the original is marked as copied
    "placed",  # the copy has its name, and the original is still there
    "linked",  # where a rename without overwriting is a link and an unlink: between the two
    "moved",  # files have left, their folders are not synced
    "synced",  # they are, and the journal does not know
    "struck",  # the journal knows
    "pruning",  # old results are removed in an open transaction
    "pruned",  # a step of that is durable
)

_armed: tuple[str, int] = ("", 0)
_mutex = threading.Lock()


def arm() -> None:
    """Reads the environment.

    Raises:
        ConfigError: it names no point.
    """
    global _armed  # noqa: PLW0603 -- one process, one daemon, and a point must cost nothing
    name, _, count = os.environ.get(VARIABLE, "").partition(":")
    if not name:
        return
    if name not in POINTS or not (count or "1").isdecimal():
        raise ConfigError([f"{VARIABLE}: {name} is no place for a test to crash at; unset it"])
    _armed = (name, int(count or 1))
    structlog.get_logger().warning("armed to kill itself, as only a test should be", failpoint=name)


def reach(name: str) -> None:
    """Dies here, when armed to."""
    global _armed  # noqa: PLW0603
    if name != _armed[0]:
        return
    with _mutex:
        _armed = (name, _armed[1] - 1)
        if _armed[1] <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

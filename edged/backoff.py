"""Pauses between tries: one second, two, four, and so on, up to a minute."""

from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0


class Backoff:
    """Of one thing that is tried again."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """It has worked: the next pause is a short one."""
        self._next_s = FIRST_S

    def pause_s(self) -> float:
        """How long to wait now, seconds; the pause after it is twice as long."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, LONGEST_S)
        return pause_s

"""The pictures of an event: a few before it, in it and after it, small and bounded in number."""

from collections import deque
from typing import Final

import numpy as np
from numpy.typing import NDArray

from edged.results import Frame, Result, Shot

BEFORE, AFTER = 4, 4
IN: Final = 16
"""At most; of a long event every second, fourth, eighth... picture, so at least half as many."""

_SIDE: Final = 256
"""What pictures are larger than, px, is reduced by a whole number."""


class Film:
    """Collects the pictures of one stream: what has just been seen, and from the opening on those of the event."""

    def __init__(self, of_frames: int) -> None:
        """`of_frames`: how far back an event may start when it opens."""
        self._past: deque[Shot] = deque(maxlen=BEFORE + of_frames)
        self._before: list[Shot] = []
        self._in: list[Shot] = []
        self._after: list[Shot] = []
        self._every, self._seen = 1, 0

    def add(self, seconds: float, frame: Frame, result: Result) -> None:
        """A picture while there is no event."""
        self._past.append(_shot(seconds, frame, result))

    def open(self, start: float) -> None:
        """An event has opened, with the picture of this time."""
        self._before = [shot for shot in self._past if shot.seconds < start][-BEFORE:]
        self._in, self._after = [], []
        self._every, self._seen = 1, 0
        for shot in self._past:
            if shot.seconds >= start:
                self._keep(shot)
        self._past.clear()

    def go_on(self, seconds: float, frame: Frame, result: Result, *, is_below: bool) -> None:
        """A picture while there is an event; several below the lower level may be the end of it."""
        if is_below and len(self._after) >= AFTER:
            return
        shot = _shot(seconds, frame, result)
        if is_below:
            self._after.append(shot)
            return
        for one in (*self._after, shot):
            self._keep(one)
        self._after.clear()

    def close(self) -> None:
        """The event has closed; what came after it comes before the next one."""
        self._past.extend(self._after)
        self._before, self._in, self._after = [], [], []

    def shots(self) -> tuple[Shot, ...]:
        """The pictures of the event so far, in their order."""
        return (*self._before, *self._in, *self._after)

    def _keep(self, shot: Shot) -> None:
        if self._seen % self._every == 0:
            self._in.append(shot)
        self._seen += 1
        if len(self._in) > IN:
            self._in, self._every = self._in[::2], 2 * self._every


def _shot(seconds: float, frame: Frame, result: Result) -> Shot:
    step = max(1, max(frame.pixels.shape[:2]) // _SIDE)
    pixels: NDArray[np.uint8] = frame.pixels
    if step > 1:  # a copy, or the large one would be kept
        pixels = pixels[::step, ::step].copy()
    return Shot(seconds, pixels, result.score / max(result.threshold, 1e-30), result.is_anomaly)

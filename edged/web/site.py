"""What the API and the page are given to show."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from edged.models.scorer import Scorer
from edged.results import Record
from edged.web.models import ModelDetail, detail
from edged.web.recent import Point
from edged.web.status import Status

_FRESH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Site:
    """Of a running daemon. Its functions are called from threads of the server.

    Attributes:
        state_dir: with the journal.
        status: how the daemon is.
        overlay: what a sink has drawn of a result, by its id, as it stands on the disk; None when there is nothing.
        label: labels a result by its id, or takes its label (None) away, with a note; whether there is such a result.
        find: where the file of a result is now; None when it is gone.
        scorers: the models that are loaded, by their names.
        peaks: of every stream, by its name, the highest score of each of its last seconds.
    """

    state_dir: Path
    status: Callable[[], Status]
    overlay: Callable[[str], bytes | None]
    label: Callable[[str, str | None, str], bool] = lambda *_: False
    find: Callable[[Record], Path | None] = lambda _: None
    scorers: Callable[[], Mapping[str, Scorer]] = dict
    peaks: Callable[[], Mapping[str, Sequence[Point]]] = dict

    def details(self) -> list[ModelDetail]:
        """The models in full."""
        scorers = self.scorers()
        return [detail(one, scorers[one.name]) for one in self.status().models if one.name in scorers]


class Remembered:
    """A status that is asked for once a second at most, however many look."""

    def __init__(self, status: Callable[[], Status]) -> None:
        self._ask, self._mutex = status, threading.Lock()
        self._last: tuple[float, Status] | None = None

    def __call__(self) -> Status:
        """The status, not older than a second."""
        with self._mutex:
            if self._last is None or time.monotonic() - self._last[0] > _FRESH_S:
                self._last = time.monotonic(), self._ask()
            return self._last[1]

"""A sliding window for each source: whether its pictures and scores drift away from those of calibration."""

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import structlog
from numpy.typing import NDArray

from edged.models import drift
from edged.models.scorer import Scorer
from edged.service.metrics import Metrics

WINDOW: Final = 200
LEAST: Final = 50
"""Pictures in the window before it is compared."""

_A_LOOK_S: Final = 0.1
_A_COMPARISON_S: Final = 1.0


class DriftWatch:
    """Looks at ten pictures a second of one source at most, and compares the last 200 of these once a second."""

    def __init__(
        self,
        source: str,
        scorer: Scorer,
        metrics: Metrics,
        *,
        look_s: float = _A_LOOK_S,
        compare_s: float = _A_COMPARISON_S,
        least: int = LEAST,
    ) -> None:
        """Begins with an empty window: another model, or another calibration, has other scores.

        Args:
            source: its name.
            scorer: of its pictures.
            metrics: where what is found is shown.
            look_s: the shortest time from one picture that is looked at to the next.
            compare_s: the shortest time from one comparison to the next.
            least: pictures in the window before it is compared.
        """
        self._source, self._scorer, self._metrics = source, scorer, metrics
        self._window: deque[tuple[float, float, float, float]] = deque(maxlen=WINDOW)
        self._mutex = threading.Lock()
        self._look_s, self._compare_s, self._least = look_s, compare_s, least
        self._looked = self._compared = 0.0
        self._drifting: set[str] = set()
        self.words = ""
        """What has drifted; empty while nothing has."""

        self._log = structlog.get_logger()
        reference = scorer.bundle.manifest.drift_reference
        self._edges = {
            name: edges
            for name in drift.APPEARANCE
            if (edges := drift.edges_of(reference.quantiles, getattr(reference, name))) is not None
        }
        self._score_edges = drift.edges_of_scores(scorer.calibration)
        metrics.forget_drift(source)
        metrics.drift(source, scorer.name, dict.fromkeys(self._edges, 0.0), index=0.0, p_value=1.0)

    def is_of(self, scorer: Scorer) -> bool:
        """Whether it compares with what this scorer was calibrated on."""
        return self._scorer.identity == scorer.identity

    def observe(self, values: NDArray[Any], score: float) -> None:
        """Takes a picture, uint8 (H, W, C), or a signal, as it was scored, and its score; from any thread."""
        now = time.monotonic()
        if now < self._looked + self._look_s or not self._mutex.acquire(blocking=False):
            return  # another is looked at
        try:
            self._looked = now
            self._window.append((score, *drift.appearance(values)))
            if len(self._window) >= self._least and now >= self._compared + self._compare_s:
                self._compared = now
                self._compare()
        finally:
            self._mutex.release()

    def _compare(self) -> None:
        scores, *looks = np.array(self._window).T
        columns = dict(zip(drift.APPEARANCE, looks, strict=True))
        inputs = {name: drift.stability_index(edges, columns[name]) for name, edges in self._edges.items()}
        index = drift.stability_index(self._score_edges, scores)
        p_value = drift.same_distribution(self._scorer.calibration, scores)
        self._metrics.drift(self._source, self._scorer.name, inputs, index=index, p_value=p_value)
        self._note({**inputs, "score": index})

    def _note(self, indices: Mapping[str, float]) -> None:
        """Takes what has begun or ended to drift, in words; nothing changes in between, where the index is noise."""
        for name, index in indices.items():
            if index > drift.ANOTHER:
                self._drifting.add(name)
            elif index < drift.THE_SAME:
                self._drifting.discard(name)
        if looks := [name for name in drift.APPEARANCE if name in self._drifting]:
            words = f"the pictures look other than the good ones of training ({', '.join(looks)}): light or camera?"
        elif self._drifting:
            words = "the pictures look as ever and score otherwise: the parts?"
        else:
            words = ""
        if words != self.words:
            tell = self._log.warning if words else self._log.info
            tell("drift", source=self._source, model=self._scorer.name, words=words or "it has ended")
        self.words = words

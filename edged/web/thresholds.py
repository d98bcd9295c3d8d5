"""What another threshold would have flagged of the results of the last week. It is only looked at: nothing changes."""

import math
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from edged.journal import scores
from edged.journal.scores import LateScores
from edged.models.scorer import Scorer

WEEK_S: Final = 7 * 86_400.0
STEPS: Final = 60
"""Of the slider, on either side of the threshold in force."""
_REACH: Final = 4.0
"""The slider goes from the threshold in force divided by this to as many times it."""
_FRESH_S: Final = 30.0


class Flagged(BaseModel):
    """Some results, and how many of them are flagged."""

    model_config = ConfigDict(frozen=True)

    results: int
    now: int = Field(description="Above the threshold that is in force now, whatever was in force then.")
    then: int = Field(description="Above the threshold that is asked after.")


class WhatIf(BaseModel):
    """What a threshold would have flagged."""

    model_config = ConfigDict(frozen=True)

    model: str
    model_sha256: str = Field(description="Results of this model.onnx are counted, for others have other scores.")
    in_force: float = Field(description="The threshold of now.")
    threshold: float = Field(description="The one that is asked after.")
    since: datetime = Field(description="From when on results are counted.")
    whole: bool = Field(
        description="Whether that is the whole week; else the newest results alone, for time is bounded."
    )
    other_models: int = Field(description="Results of that time that another model.onnx gave, and are not counted.")
    all: Flagged
    labelled: dict[str, Flagged] = Field(description="Results of the whole week by what people said of them.")
    calibration_pictures: int
    calibration_above: int = Field(description="Good pictures of the calibration above the threshold asked after.")
    line: str = Field(description="For [models.NAME] of edged.toml, in place of target_fpr.")


@dataclass(frozen=True, slots=True)
class Week:
    """The scores of a model's last week, beside the model."""

    name: str
    scorer: Scorer
    late: LateScores

    def what_if(self, threshold: float) -> WhatIf:
        """What that threshold would have flagged."""
        in_force, late, good = self.scorer.threshold.value, self.late, self.scorer.calibration

        def flagged(found: NDArray[np.float64]) -> Flagged:
            return Flagged(results=len(found), now=_above(found, in_force), then=_above(found, threshold))

        return WhatIf(
            model=self.name,
            model_sha256=self.scorer.bundle.model_sha256,
            in_force=in_force,
            threshold=threshold,
            since=datetime.fromtimestamp(late.since, UTC),
            whole=late.is_whole,
            other_models=late.others,
            all=flagged(late.all),
            labelled={label: flagged(found) for label, found in late.labelled.items()},
            calibration_pictures=len(good),
            calibration_above=_above(good, threshold),
            line=f"threshold = {_toml(threshold)}",
        )

    def steps(self) -> list[float]:
        """The thresholds of the slider, ascending, as they can be written; the middle one is in force."""
        in_force = self.scorer.threshold.value
        ratios = _REACH ** (np.arange(-STEPS, STEPS + 1) / STEPS)
        return [in_force if ratio == 1 else float(f"{in_force * ratio:.4g}") for ratio in ratios]

    def heights(self) -> list[float]:
        """How many results lie between a step and the one after it, on a logarithmic scale, 0 to 1."""
        steps = np.asarray([*self.steps(), math.inf])
        counts = np.log1p(np.histogram(self.late.all, steps)[0])
        return [float(height) for height in counts / max(1.0, counts.max(initial=0))]


class Weeks:
    """The last week of each model, read when somebody asks, and not again for a moment."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir, self._mutex = state_dir, threading.Lock()
        self._read: dict[str, tuple[float, Week]] = {}

    def of(self, name: str, scorers: Mapping[str, Scorer]) -> Week | None:
        """The week of a model; None when there is no such model.

        Raises:
            JournalError: the journal cannot be read.
        """
        scorer = scorers.get(name)
        if scorer is None:
            return None
        with self._mutex:
            read_at, week = self._read.get(name, (-_FRESH_S, None))
            if week is None or week.scorer is not scorer or time.monotonic() - read_at > _FRESH_S:
                sha256 = scorer.bundle.model_sha256
                week = Week(name, scorer, scores.read(self._state_dir, name, sha256, since=time.time() - WEEK_S))
                self._read = {one: kept for one, kept in self._read.items() if one in scorers}
                self._read[name] = time.monotonic(), week
            return week


def _above(ascending: NDArray[np.float64], threshold: float) -> int:
    return len(ascending) - int(ascending.searchsorted(threshold, side="right"))


def _toml(value: float) -> str:
    text = repr(value)
    return text if "." in text or "e" in text else text + ".0"

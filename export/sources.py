"""The pictures that a run names, and which of them are still what they were."""

from collections.abc import Callable
from dataclasses import dataclass

from edged.models.calibration import pictures_needed
from train.data.pictures import Part, Picture
from train.data.reader import what_happened
from train.errors import TrainError
from train.run import Run


@dataclass(frozen=True, slots=True)
class Intact:
    """The pictures of a run that are still the same bytes.

    Attributes:
        pictures: of all parts.
        warnings: one line each, naming what has gone or changed.
    """

    pictures: tuple[Picture, ...]
    warnings: tuple[str, ...]

    def part(self, part: Part) -> list[Picture]:
        """The pictures of one part."""
        return [picture for picture in self.pictures if picture.part == part]


def find_intact(run: Run, advance: Callable[[int, int], None]) -> Intact:
    """Hashes every picture of a run again.

    Raises:
        TrainError: so many calibration pictures are lost that the rate cannot be promised any more.
    """
    kept, lost = [], []
    for done, picture in enumerate(run.pictures, start=1):
        problem = what_happened(picture)
        if problem is None:
            kept.append(picture)
        else:
            lost.append((picture, problem))
        advance(done, len(run.pictures))
    intact = Intact(tuple(kept), tuple(f"{p.path}: has {problem} since training ({p.part})" for p, problem in lost))
    had, have = len(run.part(run.calibrates)), len(intact.part(run.calibrates))
    needed = pictures_needed(run.config.target_fpr)
    if have < min(had, needed):
        some = "; ".join(f"{p.path} has {problem}" for p, problem in lost if p.part == run.calibrates)
        raise TrainError(
            f"{run.path}: {have} of {had} calibration pictures are left, and a false-positive rate of "
            f"{run.config.target_fpr:g} takes {needed}: {some[:2000]}. Put them back, or train again"
        )
    return intact

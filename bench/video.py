"""Events of a video, found by a model of some of its normal stretches: which, how soon, and what else is flagged.

    python bench/video.py shift.mp4 --event 5.7-13.6 --event 16-29 --good 0-5.6 --good 13.7-15.7 --out /tmp/video
    python bench/video.py shift.mp4 --event 5.7-13.6 --bundle bundles/belt

Times are seconds; what lies outside every event is normal. A whole `python -m train` and `python -m export`, as
commands; then every frame at `--fps` is scored as the daemon scores it, and goes through the rules of events with their
defaults. It prints for each normal stretch how many of its frames are flagged (those that were trained on are marked),
and for each event by how much it starts late, after how long it is known, and by how much it ends late.
"""

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from edged.media import imaging
from edged.media.frames import Stretch, read
from edged.media.imaging import ImageInput
from edged.models import registry
from edged.models.scorer import Scorer
from edged.results import Frame, Result, make_record, new_id
from edged.sources.contract import Scored
from edged.sources.events import EventRules, Moment, Tracker
from edged.sources.video.table import VideoTable

ROOT: Final = Path(__file__).resolve().parent.parent
_MARGIN_S: Final = 0.2
"""Around an event that is neither normal nor odd: nobody says to the frame when one begins."""

Span = tuple[float, float]


@dataclass
class Found:
    """An event: when it started, was known and ended, seconds from the beginning of the video."""

    start: float
    known: float
    end: float


def main() -> int:
    """Trains, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--event", type=_span, action="append", required=True, metavar="START-END")
    parser.add_argument("--good", type=_span, action="append", default=[], metavar="START-END", help="to train on")
    parser.add_argument("--bundle", type=Path, help="instead of training")
    parser.add_argument("--out", type=Path, help="for run and bundle")
    parser.add_argument("--fps", type=float, default=10.0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of python -m train")
    parser.add_argument("--target-fpr", type=float)
    options = parser.parse_args()
    bundle = options.bundle or _train(options)
    scorer = registry.load_one(bundle, "cpu", target_fpr=options.target_fpr)
    times, ratios, found = _score(scorer, options.video, options.fps)
    print(f"threshold {scorer.threshold.value:.4f} from {scorer.threshold.n} frames; {len(times)} frames scored")

    others, flagged = 0, 0
    above = ratios > 1
    trained = np.zeros(len(times), bool)
    for start, end in options.good:
        trained |= (times >= start) & (times < end)
    for start, end in _normal(options.event, times[-1] + 1):
        inside = (times >= start) & (times < end)
        fresh = inside & ~trained
        for what, some in (("trained on", inside & trained), ("others", fresh)):
            if some.any():
                print(
                    f"normal {start:6.2f} to {end:6.2f}, {what}: {int(above[some].sum())} of {int(some.sum())} "
                    f"flagged, median ratio {np.median(ratios[some]):.2f}, highest {ratios[some].max():.2f}"
                )
        others, flagged = others + int(fresh.sum()), flagged + int((above & fresh).sum())
    share = flagged / max(others, 1)
    print(f"frames of normal stretches that were not trained on: {flagged} of {others} flagged ({share:.1%})")
    left = list(found)
    for start, end in options.event:
        mine = [one for one in left if one.start < end and one.end > start]
        left = [one for one in left if one not in mine]
        said = "; ".join(
            f"starts {one.start - start:+.2f} s, known after {one.known - start:.2f} s, ends {one.end - end:+.2f} s"
            for one in mine
        )
        print(f"event  {start:6.2f} to {end:6.2f}: {said or 'not found'}")
    print(f"false events: {len(left)}" + "".join(f", {one.start:.2f} to {one.end:.2f}" for one in left))
    return 0


def _train(options: argparse.Namespace) -> Path:
    run, bundle = options.out / "run", options.out / "bundle"
    options.out.mkdir(parents=True)
    good = [f"{options.video}:{start:g}-{end:g}" for start, end in options.good]
    settings = [word for assignment in options.set for word in ("--set", assignment)]
    for module, *words in (
        ("train", "ae", "--good", *good, "--fps", options.fps, *settings, "--out", run),
        ("export", run, "--out", bundle),
    ):
        subprocess.run([sys.executable, "-m", module, *map(str, words)], cwd=ROOT, check=True)
    return Path(bundle)


def _score(scorer: Scorer, video: Path, fps: float) -> tuple[np.ndarray, np.ndarray, list[Found]]:
    """Times of the frames, their scores over the threshold, and the events."""
    defaults = VideoTable.model_fields
    tracker = Tracker(
        EventRules(**{name: defaults[name].default for name in EventRules.__dataclass_fields__}), "", is_file=True
    )
    spec = scorer.view.input
    assert isinstance(spec, ImageInput)
    times, ratios, found = [], [], []
    known: dict[str, float] = {}

    def note(records: list) -> None:
        for record in records:
            if record.event.state == "open":
                known[record.id] = seconds
            else:
                found.append(Found(record.event.started_at, known[record.id], record.event.ended_at))

    for image, seconds in read(Stretch(video), fps):
        pixels = np.asarray(imaging.fit(image, spec, image.size), np.uint8).reshape(spec.shape)
        frame = Frame("video", new_id(), seconds, pixels, "")
        result = scorer.score(frame)
        assert isinstance(result, Result)
        record = make_record(
            result,
            id_=frame.frame_id,
            source="video",
            path="",
            sha256=None,
            captured_at=seconds,
            model=scorer.identity,
            decode_seconds=0.0,
        )
        times.append(seconds)
        ratios.append(result.score / result.threshold)
        note(tracker.step(Moment(seconds, seconds), Scored(frame, result, record)))
    note(tracker.end())
    return np.array(times), np.array(ratios), found


def _normal(events: list[Span], end: float) -> list[Span]:
    edges = [0.0, *(edge for start, stop in sorted(events) for edge in (start - _MARGIN_S, stop + _MARGIN_S)), end]
    return [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b > a]


def _span(text: str) -> Span:
    start, end = map(float, text.split("-"))
    return start, end


if __name__ == "__main__":
    sys.exit(main())

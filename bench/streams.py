"""Cameras and videos under hardship: a daemon that is killed in mid-event, many cameras, one that is too fast.

    python bench/streams.py --kills 200
    python bench/streams.py --cameras 20 --seconds 60
    python bench/streams.py --fast bundles/belt --seconds 60

`--kills` reads a file in which events alternate with quiet stretches, and a camera in one long event, kills the daemon
`--kills` reads a file in which events alternate with quiet frames, and a camera in one long event, kills the daemon
frame a second beside a folder that gets five pictures a second. `--fast` has one camera that is to give three times as
many frames as this bundle can score here alone, beside that folder. Both print what came of the frames and of the
folder, and resident memory.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import numpy as np

from edged.media.imaging import ImageInput
from edged.models.scorer import Scorer
from edged.results import Event, Frame, Record
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import children, drop, good, until
from tests.edged.sources.video.making import FPS, Camera, video

_EVENT: Final = 250  # frames of an event, and as many between two
_A_KILL: Final = 120  # frames of the file for each kill, so that it lasts
_PATIENCE_S: Final = 600.0
_FOLDER_EVERY_S: Final = 0.2


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cameras", type=int, default=0)
    parser.add_argument("--fast", type=Path, metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if not (asked.kills or asked.cameras or asked.fast):
        parser.error("give --kills, --cameras or --fast")
    sound = True
    with tempfile.TemporaryDirectory(prefix="edged-streams-") as name:
        for what in ("kills", "cameras", "fast"):
            if getattr(asked, what):
                root = Path(name) / what
                root.mkdir()
                site = Site(root)
                try:
                    sound &= kills(site, asked) if what == "kills" else load(site, asked, fast=what == "fast")
                finally:
                    site.clean_up()
    print("all is well" if sound else "NOT all is well")
    return 0 if sound else 1


def kills(site: Site, asked: argparse.Namespace) -> bool:
    """Kills the daemon so many times; whether the events are those of the file, and that of the camera one."""
    frames = max(4, asked.kills * _A_KILL // (2 * _EVENT)) * 2 * _EVENT
    bad = [range(start, start + _EVENT) for start in range(_EVENT, frames, 2 * _EVENT)]
    file, camera = video(site.root / "v.mkv", frames, bad), Camera(site.root)
    camera.show("bad")
    site.configure(rest=_source("film", file) + _source("cam", camera.url))
    times, inside, ids = random.Random(asked.seed), 0, set()
    try:
        for _ in range(asked.kills):
            site.start()
            time.sleep(times.uniform(0.0, 3.0))
            site.kill()
            seen = _events(site)
            inside += any(_event(row).state == "open" for row in seen if row.source == "film")
            ids |= {row.id for row in seen}
        site.start()
        until(lambda: not _in_state(site, "film"), "the file to be read", _PATIENCE_S)
        camera.show("good")
        until(lambda: all(_event(row).state == "closed" for row in _events(site)), "every event to close", _PATIENCE_S)
        rows = _events(site)
        closed = {row.id for row in rows}
        until(
            lambda: {line["id"] for line in site.lines() if line["state"] == "closed"} == closed,
            "the sink",
            _PATIENCE_S,
        )
    finally:
        camera.kill()
    of_file = [_event(row) for row in rows if row.source == "film"]
    starts = [round((event.offset_s or 0.0) * FPS) for event in of_file]
    whole = sum(event.frames == _EVENT for event in of_file)
    of_camera = sum(row.source == "cam" for row in rows)
    print(
        f"{asked.kills} kills, {inside} of them in the middle of an event of the file; {len(bad)} events in it, "
        f"{len(of_file)} found, {len(set(starts))} of them different, {whole} with all their frames; the camera's one "
        f"event: {of_camera}; events that were seen and are gone: {len(ids - closed)}"
    )
    return starts == [one.start for one in bad] and whole == len(bad) and of_camera == 1 and ids <= closed


def load(site: Site, asked: argparse.Namespace, *, fast: bool) -> bool:
    """Cameras beside a folder; whether all are live and every picture of the folder has its result in time."""
    cameras: list[Camera] = []
    bundle, rate = (asked.fast, 3 * _rate(asked.fast)) if fast else (TINY, 1.0)
    try:
        for number in range(1 if fast else asked.cameras):
            place = site.root / f"camera{number}"
            place.mkdir()
            cameras.append(Camera(place, fps=rate))
        names = [f"cam{number}" for number in range(len(cameras))]
        sources = "".join(_source(name, one.url) for name, one in zip(names, cameras, strict=True))
        site.configure(rest=sources, bundle=bundle)
        site.start()
        until(lambda: all(_in_state(site, name) == "live" for name in names), "all cameras", _PATIENCE_S)
        before, began, memory, dropped = site.metrics(), time.monotonic(), [], 0
        while time.monotonic() - began < asked.seconds:
            drop(site.inbox / f"{dropped:05}.png", good() + str(dropped).encode())
            dropped += 1
            memory.append(_memory_mb(site.pid))
            time.sleep(max(0.0, began + dropped * _FOLDER_EVERY_S - time.monotonic()))
        seconds, after = time.monotonic() - began, site.metrics()
        until(lambda: len(_of_folder(site)) >= dropped, "the results of the folder", _PATIENCE_S)
        rows = _of_folder(site)
        states = {_in_state(site, name) for name in names}
    finally:
        for camera in cameras:
            camera.kill()
    of = [f'edged_images_total{{outcome="{how}",source="{name}"}}' for name in names for how in _OUTCOMES]
    scored = sum(_grown(before, after, one) for one in of)
    passed = sum(_grown(before, after, f'edged_stream_frames_dropped_total{{source="{name}"}}') for name in names)
    waits = np.array([row.scored_at - row.captured_at for row in rows])
    quarter = max(1, len(memory) // 4)
    print(
        f"{len(cameras)} cameras at {rate:.1f} frames a second: {scored / seconds:.1f} a second scored, "
        f"{passed / seconds:.1f} passed over, {sorted(states)}; folder: {dropped} pictures, {len(rows)} results, "
        f"p50 {np.median(waits):.2f} s, p95 {np.quantile(waits, 0.95):.2f} s; resident memory "
        f"{np.median(memory[:quarter]):.0f} MB in the first quarter, {np.median(memory[-quarter:]):.0f} in the last"
    )
    return states == {"live"} and len(rows) == dropped and (not fast or passed > 0)


_OUTCOMES: Final = ("ok", "anomaly")


def _source(name: str, url: str | Path) -> str:
    return f'\n[[sources]]\nname = "{name}"\ntype = "video"\nurl = "{url}"\nmodel = "tiny"\n'


def _of_folder(site: Site) -> list[Record]:
    return [row for row in site.rows() if row.source == "line1"]


def _events(site: Site) -> list[Record]:
    return [row for row in site.rows() if row.event is not None]


def _event(row: Record) -> Event:
    assert row.event is not None
    return row.event


def _in_state(site: Site, source: str) -> str:
    found = site.metrics()
    states = ("connecting", "live", "stalled", "frozen", "backoff")
    return "".join(state for state in states if found[f'edged_source_state{{source="{source}",state="{state}"}}'])


def _rate(bundle: Path) -> float:
    """Frames a second that it scores here, alone."""
    scorer = Scorer.load(bundle, device="cpu")
    spec = scorer.view.input
    assert isinstance(spec, ImageInput)
    frame = Frame("rate", "0", 0.0, np.zeros(spec.shape, np.uint8))
    scorer.score(frame)
    began = time.monotonic()
    for _ in range(20):
        scorer.score(frame)
    return 20 / (time.monotonic() - began)


def _grown(before: dict[str, float], after: dict[str, float], name: str) -> float:
    return after.get(name, 0.0) - before.get(name, 0.0)


def _memory_mb(pid: int) -> float:
    """Of the daemon and its children, resident."""
    pages = 0
    for one in (pid, *children(pid)):
        try:
            pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        except OSError:  # it has ended meanwhile
            continue
    return pages * 4096 / 1e6


if __name__ == "__main__":
    sys.exit(main())

"""Cameras and videos under hardship: a daemon that is killed in mid-event, many cameras, one that is too fast.

    python bench/streams.py --kills 200
    python bench/streams.py --cameras 20 --seconds 60
    python bench/streams.py --rtsp 20 --seconds 3600
    python bench/streams.py --fast bundles/belt --seconds 60

`--kills` reads a file in which events alternate with quiet frames, and a camera in one long event, kills the daemon
again and again at random, and counts the events that the journal has at the end. `--cameras` has so many of MJPEG at
one frame a second beside a folder that gets five pictures a second. `--rtsp` has as many of H.264 from a real RTSP
server, with an event a minute, and one more whose server is killed every three minutes. `--fast` has one camera that is
to give three times as many frames as this bundle can score here alone. They print what came of the frames and of the
folder, and how memory, threads and open files went.
"""

import argparse
import contextlib
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from slopes import eighths, slope

from edged.media.imaging import ImageInput
from edged.models.scorer import Scorer
from edged.results import Event, Frame, Record
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import children, drop, good, until
from tests.edged.sources.video.making import FPS, Camera, RtspCamera, picture, video, write_h264

_EVENT: Final = 250  # frames of an event, and as many between two
_A_KILL: Final = 120  # frames of the file for each kill, so that it lasts
_PATIENCE_S: Final = 600.0
_FOLDER_EVERY_S: Final = 0.2
_RTSP_FPS: Final = 5  # that it shows; one a second is taken
_RESTART_S: Final = 180.0
_AWAY_S: Final = 10.0
_SAMPLES: Final = 720
_MEASURED: Final = (
    "Pss of the daemon, MB",
    "anonymous memory of the daemon, MB",
    "Pss of its children, MB",
    "anonymous memory of its children, MB",
    "threads",
    "open files",
)
"""Pss counts shared pages by shares, and so falls where another program begins to use the same libraries."""


def main() -> int:
    """Runs what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--cameras", type=int, default=0)
    parser.add_argument("--rtsp", type=int, default=0)
    parser.add_argument("--fast", type=Path, metavar="BUNDLE")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    if not (asked.kills or asked.cameras or asked.rtsp or asked.fast):
        parser.error("give --kills, --cameras, --rtsp or --fast")
    sound = True
    with tempfile.TemporaryDirectory(prefix="edged-streams-") as name:
        for what in ("kills", "cameras", "rtsp", "fast"):
            if getattr(asked, what):
                root = Path(name) / what
                root.mkdir()
                site = Site(root)
                try:
                    sound &= kills(site, asked) if what == "kills" else load(site, asked, what)
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


def load(site: Site, asked: argparse.Namespace, what: str) -> bool:
    """Cameras beside a folder; whether all are live and every picture of the folder has its result in time."""
    bundle, rate = (asked.fast, 3 * _rate(asked.fast)) if what == "fast" else (TINY, 1.0)
    samples: list[tuple[float, ...]] = []
    restarts = 0
    with contextlib.ExitStack() as stack:
        cameras, urls = _cameras(site.root, stack, asked, what, rate)
        names = [f"cam{number}" for number in range(len(urls))]
        keys = "fps = 1" if what == "rtsp" else ""
        sources = "".join(_source(name, url, keys) for name, url in zip(names, urls, strict=True))
        site.configure(rest=sources, bundle=bundle)
        site.start()
        until(lambda: all(_in_state(site, name) == "live" for name in names), "all cameras", _PATIENCE_S)
        before, began, dropped = site.metrics(), time.monotonic(), 0
        sample_due, restart_due = began, began + _RESTART_S
        while (now := time.monotonic()) - began < asked.seconds:
            drop(site.inbox / f"{dropped:06}.png", good() + str(dropped).encode())
            dropped += 1
            if now >= sample_due:
                samples.append((now - began, *_measure(site.pid)))
                sample_due = now + max(1.0, asked.seconds / _SAMPLES)
            if what == "rtsp" and now >= restart_due:
                cameras[-1].start() if restarts % 2 else cameras[-1].kill()
                restarts += 1
                restart_due = now + (_RESTART_S if restarts % 2 == 0 else _AWAY_S)
            time.sleep(max(0.0, began + dropped * _FOLDER_EVERY_S - time.monotonic()))
        if restarts % 2:
            cameras[-1].start()
        seconds, after = time.monotonic() - began, site.metrics()
        until(lambda: len(_of_folder(site)) >= dropped, "the results of the folder", _PATIENCE_S)
        until(lambda: all(_in_state(site, name) == "live" for name in names), "all cameras again", _PATIENCE_S)
        rows, events = _of_folder(site), len(_events(site))
        clean = site.stop() == 0
    of = [f'edged_images_total{{outcome="{how}",source="{name}"}}' for name in names for how in _OUTCOMES]
    scored = sum(_grown(before, after, one) for one in of)
    passed = sum(_grown(before, after, f'edged_stream_frames_dropped_total{{source="{name}"}}') for name in names)
    waits = np.array([row.scored_at - row.captured_at for row in rows])
    print(
        f"{len(names)} cameras, {seconds / 60:.1f} minutes: {scored / seconds:.1f} frames a second scored, "
        f"{passed / seconds:.1f} passed over, {events} events, {restarts // 2} restarts of a camera; folder: {dropped} "
        f"pictures, {len(rows)} results, p50 {np.median(waits):.2f} s, p95 {np.quantile(waits, 0.95):.2f} s"
    )
    values = np.array(samples)
    for column, name in enumerate(_MEASURED, 1):
        print(f"{name + ', in eighths':48}{eighths(values[:, column])}")
        print(f"{name + ' / hour':48}{slope(values[:, 0] / 3600, values[:, column])}")
    return clean and len(rows) == dropped and (what != "fast" or passed > 0)


def _cameras(
    root: Path, stack: contextlib.ExitStack, asked: argparse.Namespace, what: str, rate: float
) -> tuple[Sequence[Camera | RtspCamera], list[str]]:
    """The servers, of which the last is the one to be restarted, and the address of every camera."""
    places = [root / f"camera{number}" for number in range({"cameras": asked.cameras, "rtsp": 2, "fast": 1}[what])]
    film = _film(root / "film.mkv", asked.seconds) if what == "rtsp" else None
    cameras: list[Camera | RtspCamera] = []
    for place in places:
        place.mkdir()
        cameras.append(Camera(place, fps=rate) if film is None else RtspCamera(place, film))
        stack.callback(cameras[-1].kill)
    urls = [camera.url for camera in cameras]
    return cameras, urls if film is None else [urls[0]] * asked.rtsp + [urls[1]]


def _film(path: Path, seconds: float) -> Path:
    """What an RTSP camera shows, for as long and some time more: an event ends every minute."""
    minute = range(60 * _RTSP_FPS)
    pictures = [picture(number, is_bad=number >= 50 * _RTSP_FPS) for number in minute]
    return write_h264(path, pictures * (int((seconds + _PATIENCE_S) / 60) + 1), _RTSP_FPS)


_OUTCOMES: Final = ("ok", "anomaly")


def _source(name: str, url: str | Path, keys: str = "") -> str:
    return f'\n[[sources]]\nname = "{name}"\ntype = "video"\nurl = "{url}"\nmodel = "tiny"\n{keys}\n'


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


def _measure(pid: int) -> tuple[float, ...]:
    """What `_MEASURED` names."""
    threads, files = (len(os.listdir(f"/proc/{pid}/{kind}")) for kind in ("task", "fd"))
    own, all_children = _memory_mb(pid), np.array([(0.0, 0.0), *map(_memory_mb, children(pid))])
    return *own, *all_children.sum(axis=0), threads, files


def _memory_mb(pid: int) -> tuple[float, float]:
    """Pss and anonymous memory; none of a process that has ended meanwhile."""
    try:
        lines = [line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()]
    except OSError:
        return 0.0, 0.0
    kilobytes = {words[0]: int(words[1]) for words in lines if words[-1] == "kB"}
    return kilobytes["Pss:"] * 1024 / 1e6, kilobytes["Anonymous:"] * 1024 / 1e6


if __name__ == "__main__":
    sys.exit(main())

"""Videos through a real daemon: files, a camera that is a real server, and what happens to either."""

import os
import random
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from edged.results import Record
from tests.edged.daemons import Site
from tests.edged.making import children, until
from tests.edged.sources.video.making import (
    FPS,
    Camera,
    RtspCamera,
    has_rtsp,
    picture,
    video,
    write_h264,
    write_video,
)

BAD = (range(50, 100), range(150, 200))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    one = Site(tmp_path)
    yield one
    one.clean_up()


@pytest.fixture
def camera(tmp_path: Path) -> Iterator[Camera]:
    one = Camera(tmp_path)
    yield one
    one.kill()


def configure(site: Site, url: str | Path, keys: str = "") -> None:
    site.configure(
        rest=f"""
[[sinks]]
name = "overlays"
type = "images"
dir = "{site.overlays}"
[[sources]]
name = "cam"
type = "video"
url = "{url}"
model = "tiny"
{keys}
"""
    )


def events(site: Site) -> list[Record]:
    return [row for row in site.rows() if row.event is not None]


def closed(site: Site, count: int) -> list[Record]:
    """Waits for so many events to have closed."""
    until(lambda: [row.event.state for row in events(site)] == ["closed"] * count, f"{count} events", 120)  # type: ignore[union-attr]
    return events(site)


def spans(rows: list[Record]) -> list[tuple[float, float, int]]:
    """Start and end, in frames from the beginning of the file, and how many frames."""
    found = []
    for row in rows:
        assert row.event is not None
        assert row.event.offset_s is not None
        length = row.event.ended_at - row.event.started_at
        found.append((row.event.offset_s * FPS, (row.event.offset_s + length) * FPS, row.event.frames))
    return found


def told(site: Site) -> dict[str, Any]:
    """What the API says of the video."""
    (about,) = [one for one in site.get("/api/v1/status").json()["sources"] if one["name"] == "cam"]
    return dict(about)


def state(site: Site) -> str:
    found = site.metrics()
    states = ("connecting", "live", "stalled", "frozen", "backoff")
    return "".join(one for one in states if found[f'edged_source_state{{source="cam",state="{one}"}}'])


def test_a_file_becomes_events_and_no_rows_of_frames(site: Site, tmp_path: Path) -> None:
    configure(site, video(tmp_path / "v.mkv", 300, BAD))
    site.start()
    rows = closed(site, 2)
    assert spans(rows) == [(pytest.approx(50), pytest.approx(99), 50), (pytest.approx(150), pytest.approx(199), 50)]
    until(lambda: site.metrics()['edged_images_total{outcome="ok",source="cam"}'] == 200, "all frames")
    found = site.metrics()
    assert found['edged_images_total{outcome="anomaly",source="cam"}'] == 100
    assert found['edged_stream_frames_dropped_total{source="cam"}'] == 0
    lines = site.wait_for_lines(4) if len(site.lines()) > 2 else site.wait_for_lines(2)
    assert {line["id"] for line in lines} == {row.id for row in rows}
    assert [line["state"] for line in lines if line["id"] == rows[0].id][-1] == "closed"
    assert all(line["kind"] == "event" for line in lines)
    for row in rows:
        with Image.open(site.overlays / f"{row.id}.png") as drawn:
            assert drawn.text["score"] == f"{row.score:.6g}"  # type: ignore[attr-defined]
    until(lambda: state(site) == "", "the file to be read")
    assert site.get("/readyz").status_code == 200
    assert site.stop() == 0
    site.start()
    until(lambda: state(site) == "", "the file to be known")
    assert events(site) == rows
    assert not children(site.pid)


@pytest.mark.parametrize("store", ["events", "frames"])
def test_the_page_shows_the_highest_score_of_each_second_without_a_row_of_it(
    site: Site, tmp_path: Path, store: str
) -> None:
    film = video(tmp_path / "v.mkv", 300, [range(110, 111), range(160, 165)])
    os.utime(film, (1_700_000_012, 1_700_000_012))  # twelve whole seconds, of which one frame of the fifth is bad
    configure(site, film, f'store = "{store}"\nopen_frames = 5')
    site.start()
    until(lambda: told(site)["last_minute"] > 10, "frames of the last minute")
    rows = closed(site, 1)
    said = "The highest score of each second: 2 of the last 12 above the threshold"
    until(lambda: said in site.get("/").text, "the chart of all seconds")
    dots = re.findall(r'class="dots( odd)?" d="([^"]*)"', site.get("/").text)
    assert re.findall(r"M(\d+)", dict(dots)[" odd"]) == ["112", "114"]
    assert len(re.findall(r"M(\d+)", dict(dots)[""])) == 10
    until(lambda: (told(site)["ok"], told(site)["anomaly"]) == (294, 6), "the counts of all frames")
    frames = [row for row in site.rows() if row.event is None]
    assert len(frames) == (300 if store == "frames" else 0)
    assert events(site) == rows
    assert site.stop() == 0
    site.start()
    until(lambda: state(site) == "", "the file to be known")
    assert "highest score of each second" not in site.get("/").text


def test_an_event_at_the_end_of_a_file_closes_with_it(site: Site, tmp_path: Path) -> None:
    configure(site, video(tmp_path / "v.mkv", 80, [range(60, 80)]), "fps = 5")
    site.start()
    (row,) = closed(site, 1)
    assert row.event is not None
    assert (row.event.offset_s, row.event.frames) == (2.4, 4)


@pytest.mark.parametrize("store", ["events", "frames"])
def test_killed_at_any_time_a_file_gives_the_same_events_and_rows(site: Site, tmp_path: Path, store: str) -> None:
    bad = [range(start, start + 100) for start in range(50, 1000, 200)]
    configure(site, video(tmp_path / "v.mkv", 1050, bad), f'store = "{store}"')
    pauses, ids = random.Random(1), set()
    for _ in range(6):
        site.start()
        time.sleep(pauses.uniform(0.2, 1.2))
        site.kill()
        ids |= {row.id for row in events(site)}
    site.start()
    rows = closed(site, len(bad))
    assert [span[:2] for span in spans(rows)] == [
        (pytest.approx(one.start), pytest.approx(one.stop - 1)) for one in bad
    ]
    assert [span[2] for span in spans(rows)] == [100] * len(bad)
    assert ids <= {row.id for row in rows}
    until(lambda: state(site) == "", "the file to be read")
    paths = sorted(row.path for row in site.rows() if row.event is None)
    assert len(paths) == len(set(paths)) == (1050 if store == "frames" else 0)
    until(
        lambda: {line["id"] for line in site.lines() if line.get("state") == "closed"} == {row.id for row in rows}, ""
    )


def test_a_camera_that_is_killed_stopped_and_frozen_says_so_and_comes_back(site: Site, camera: Camera) -> None:
    configure(site, camera.url.replace("//", "//user:secret@"), "stall_seconds = 1\nfrozen_seconds = 1")
    site.start()
    until(lambda: state(site) == "live", "the camera")
    camera.show("bad")
    until(lambda: events(site), "the event")
    (opened,) = events(site)
    assert opened.event is not None
    assert opened.event.offset_s is None
    assert opened.path == camera.url
    until(lambda: site.wait_for_lines(1), "the sink to have it")
    site.kill()
    site.start()
    until(lambda: state(site) == "live", "the camera")
    camera.show("good")
    (row,) = closed(site, 1)
    assert row.id == opened.id
    until(lambda: [line["state"] for line in site.lines()][-1:] == ["closed"], "the sink to have it")
    assert {line["id"] for line in site.lines()} == {row.id}

    camera.show("frozen")
    until(lambda: state(site) == "frozen", "the picture to be seen as frozen")
    assert "frozen" in site.get("/readyz").text
    until(lambda: '<span class="tag bad">frozen</span>' in site.get("/").text, "the page to say so")
    states = {source["name"]: source["state"] for source in site.get("/api/v1/status").json()["sources"]}
    assert states == {"line1": None, "cam": "frozen"}
    camera.show("good")
    until(lambda: state(site) == "live", "another picture")
    until(lambda: '<span class="tag good">live</span>' in site.get("/").text, "the page to say so")

    os.kill(camera.process.pid, signal.SIGSTOP)
    until(lambda: state(site) == "stalled", "the silence to be noticed")
    assert site.get("/readyz").status_code == 503
    os.kill(camera.process.pid, signal.SIGCONT)
    until(lambda: state(site) == "live", "the camera to be back")
    assert site.get("/readyz").status_code == 200

    camera.kill()
    until(lambda: state(site) == "backoff", "the end to be noticed")
    assert site.metrics()['edged_source_up{source="cam"}'] == 0
    camera.start()
    until(lambda: state(site) == "live", "the camera to be back", 60)
    assert len(events(site)) == 1
    assert b"secret" not in site.log.read_bytes()
    began = time.monotonic()
    assert site.stop() == 0
    assert time.monotonic() - began < 10


def test_garbage_costs_no_more_than_itself(site: Site, camera: Camera) -> None:
    camera.show("garbage")
    configure(site, camera.url, "stall_seconds = 1")
    site.start()
    until(lambda: state(site) not in {"connecting", "live"}, "the garbage to be noticed", 30)
    camera.show("good")
    until(lambda: state(site) == "live", "the camera", 60)
    assert events(site) == []


def test_a_file_that_is_no_video_says_so(site: Site, tmp_path: Path) -> None:
    file = tmp_path / "v.mp4"
    file.write_bytes(b"no video" * 1000)
    configure(site, file)
    site.start()
    until(lambda: state(site) == "backoff", "the failure")
    (said, *_) = site.said("the stream is not what it should be; it is tried again")
    assert "Invalid data" in said["why"]
    assert site.stop() == 0


def test_what_looks_alike_is_not_scored_and_keeps_its_verdict(site: Site, tmp_path: Path) -> None:
    pictures: list[Any] = [picture(0, is_bad=50 <= number < 100) for number in range(150)]
    configure(site, write_video(tmp_path / "v.mkv", pictures), "on_change = 0.5")
    site.start()
    (row,) = closed(site, 1)
    assert spans([row]) == [(pytest.approx(50), pytest.approx(99), 50)]
    found = site.metrics()
    assert found['edged_images_total{outcome="ok",source="cam"}'] == 2
    assert found['edged_images_total{outcome="anomaly",source="cam"}'] == 1


def test_an_rtsp_camera_that_is_stopped_and_killed_says_so_and_comes_back(site: Site, tmp_path: Path) -> None:
    if not has_rtsp():
        if os.environ.get("CI"):
            pytest.fail("no RTSP server is installed; CI installs it")
        pytest.skip("no RTSP server is installed (Debian: apt install gir1.2-gst-rtsp-server-1.0 and .ci/run's others)")
    shown = (picture(0, is_bad=50 <= number % 250 < 100) for number in range(60 * FPS))
    camera = RtspCamera(tmp_path, write_h264(tmp_path / "camera.mkv", shown))
    try:
        configure(site, camera.url, "stall_seconds = 2")
        site.start()
        until(lambda: state(site) == "live", "the camera")
        until(lambda: [row.event.state for row in events(site)][:1] == ["closed"], "the first event")  # type: ignore[union-attr]
        (first, *_) = events(site)
        assert first.event is not None
        assert first.event.ended_at - first.event.started_at == pytest.approx(2.0, abs=0.5)

        os.kill(camera.process.pid, signal.SIGSTOP)
        until(lambda: state(site) in {"stalled", "backoff"}, "the silence to be noticed")
        os.kill(camera.process.pid, signal.SIGCONT)
        until(lambda: state(site) == "live", "the camera to be back", 60)
        camera.kill()
        until(lambda: state(site) == "backoff", "the end to be noticed")
        camera.start()
        until(lambda: state(site) == "live", "the camera to be back", 60)
    finally:
        camera.kill()


def test_frames_that_are_too_large_are_refused(site: Site, tmp_path: Path) -> None:
    configure(site, video(tmp_path / "v.mkv", 10, []))
    site.config.write_text(site.config.read_text() + "[limits]\nmax_pixels = 1000\n")
    site.start()
    until(lambda: state(site) == "backoff", "the failure")
    (said, *_) = site.said("the stream is not what it should be; it is tried again")
    assert said["why"] == "its frames are 32x32 px, more than limits.max_pixels = 1000"


def test_a_capture_has_a_bound_on_its_memory_and_is_the_first_to_go(site: Site, camera: Camera) -> None:
    configure(site, camera.url)
    site.start()
    until(lambda: state(site) == "live", "the camera")
    captures = [pid for pid in children(site.pid) if b"capture" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(captures) == 1
    about = Path(f"/proc/{captures[0]}")
    (bound,) = [line for line in (about / "limits").read_text().splitlines() if line.startswith("Max address space")]
    assert 1e9 < int(bound.split()[3]) < 4e9
    assert int((about / "oom_score_adj").read_text()) >= 500

"""Frames of videos as files: which, of what time, and that training sees in them what the daemon sees."""

import threading
from pathlib import Path

import numpy as np
import pytest

from edged.errors import ConfigError
from edged.media import imaging
from edged.media.capture import END, FRAME, Job
from edged.media.frames import Rate, Stretch, read, stretch_of, write
from edged.media.imaging import ImageInput, Limits
from edged.sources.video.child import Capture
from tests.edged.sources.video.making import FPS, picture, video, write_h264


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return video(tmp_path / "shift.mkv", 100, [])


def test_frames_of_a_stretch_at_a_rate(film: Path) -> None:
    found = list(read(Stretch(film, 1.0, 2.0), 5))
    assert [round(seconds, 3) for _, seconds in found] == [1.0, 1.2, 1.4, 1.6, 1.8]
    for image, seconds in found:
        assert (np.asarray(image)[..., :1] == picture(round(seconds * FPS), is_bad=False)[..., None]).all()
    assert len(list(read(Stretch(film), None))) == 100


def test_a_rate_does_not_drift() -> None:
    rate = Rate(10)
    assert sum(rate.takes(number / 29.97) for number in range(2997)) == 1000


@pytest.mark.parametrize(
    ("times", "start", "end"),
    [("", 0, None), (":1-2.5", 1, 2.5), (":-3", 0, 3), (":1:02-1:00:00", 62, 3600), (":2-", 2, None)],
)
def test_how_a_stretch_is_named(film: Path, times: str, start: float, end: float | None) -> None:
    assert stretch_of(f"{film}{times}") == Stretch(film, start, end)


def test_what_names_no_stretch(film: Path) -> None:
    assert stretch_of(str(film.parent)) is None
    assert stretch_of(f"{film}.absent:1-2") is None
    for times in ("3-2", "2-2", "1..2-3", ":-:"):
        with pytest.raises(ConfigError, match="write seconds, or minutes:seconds"):
            stretch_of(f"{film}:{times}")


def test_each_stretch_is_a_folder_and_a_lone_one_becomes_ten(film: Path, tmp_path: Path) -> None:
    stretches = [Stretch(film, 0, 1), Stretch(film, 2, 3.0)]
    assert write(stretches, tmp_path / "two", fps=5) == 10
    files = sorted((tmp_path / "two").rglob("*.png"))
    assert [str(file.relative_to(tmp_path / "two")) for file in files[4:6]] == [
        "shift/0-1/000000.800.png",
        "shift/2-3/000002.000.png",
    ]
    apart = files[5].stat().st_mtime - files[4].stat().st_mtime
    assert apart == pytest.approx(1.2, abs=0.01)
    assert write([Stretch(film)], tmp_path / "one", fps=5) == 20
    assert len({file.parent for file in (tmp_path / "one").rglob("*.png")}) == 10


def test_what_is_no_video_or_has_no_such_frames_says_so(film: Path, tmp_path: Path) -> None:
    no_video = tmp_path / "v.mp4"
    no_video.write_bytes(b"no video" * 100)
    with pytest.raises(ConfigError, match="cannot be read as a video"):
        write([Stretch(no_video)], tmp_path / "out", fps=5)
    with pytest.raises(ConfigError, match="no frames from 60-70 s"):
        write([Stretch(film, 60, 70)], tmp_path / "out", fps=5)


def test_training_sees_in_a_frame_what_the_daemon_sees(tmp_path: Path) -> None:
    film = write_h264(tmp_path / "v.mkv", (picture(number, is_bad=number % 2 == 0) for number in range(5)))
    spec = ImageInput(40, 56, 3)
    write([Stretch(film, 0, 1)], tmp_path / "out", fps=None)
    files = sorted((tmp_path / "out").rglob("*.png"))
    trained = [imaging.decode(file.read_bytes(), spec, Limits()).pixels for file in files]
    woken = threading.Event()
    capture = Capture(Job(str(film), False, False, None, 0, 5.0, Limits(), spec), woken.set)
    seen = []
    try:
        while (note := capture.notes.get(timeout=60)).what != END:
            assert note.what == FRAME
            seen.append(note.pixels)
            capture.free(note.slot)
    finally:
        capture.close()
    np.testing.assert_array_equal(seen, trained)


def test_without_pyav_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, film: Path, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r'shift\.mkv: needs the package av, .*: pip install "edged\[video\]"'):
        write([Stretch(film)], tmp_path / "out", fps=5)
    assert not (tmp_path / "out").exists()

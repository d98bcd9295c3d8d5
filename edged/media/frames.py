"""Frames of video files as pictures: of which stretches, at which rate, and as files in folders."""

import io
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from edged.errors import ConfigError
from edged.media.imaging import Limits
from edged.settings import missing

if TYPE_CHECKING:
    from PIL import Image

RATE: Final = 5.0
"""Frames a second that are taken unless somebody says otherwise."""

PIECES: Final = 10
"""A stretch that stands alone is cut into so many: pictures are judged without those of their own piece."""

_SOON_S: Final = 1.0 / 1000  # frames of a file at a rate may be so much early: times are rounded
_STRETCH: Final = re.compile(r"(?P<path>.+?):(?P<start>[0-9:.]*)-(?P<end>[0-9:.]*)")
_UNKNOWN_S: Final = 100.0  # of a file that does not say how long it is


class Rate:
    """Which frames to take for so many a second: a rate, not a pause after each, so one that came late delays none."""

    def __init__(self, fps: float | None) -> None:
        """`fps` is None for every frame."""
        self._step, self._due = None if fps is None else 1 / fps, float("-inf")

    def takes(self, seconds: float) -> bool:
        """Whether to take the frame of this time; times only grow."""
        if self._step is None:
            return True
        if seconds < self._due - _SOON_S:
            return False
        self._due = seconds + self._step if seconds - self._due > self._step else self._due + self._step
        return True


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a video file.

    Attributes:
        path: of the file.
        start: seconds from its first frame.
        end: likewise; None for its end.
    """

    path: Path
    start: float = 0.0
    end: float | None = None


def stretch_of(text: str) -> Stretch | None:
    """The stretch that `VIDEO[:START-END]` names, its times as seconds or [H:]M:S; None where VIDEO is no file.

    Raises:
        ConfigError: its times make no sense.
    """
    if _is_file(text):
        return Stretch(Path(text))
    found = _STRETCH.fullmatch(text)
    if found is None or not _is_file(found["path"]):
        return None
    try:
        start, end = (_seconds(found[name]) if found[name] else None for name in ("start", "end"))
    except ValueError:
        start = end = -1.0
    start = start or 0.0
    if start < 0 or (end is not None and end <= start):
        raise ConfigError([f"{text}: write seconds, or minutes:seconds, such as {found['path']}:12.5-1:30"])
    return Stretch(Path(found["path"]), start, end)


def read(stretch: Stretch, fps: float | None, limits: Limits = Limits()) -> Iterator[tuple["Image.Image", float]]:  # noqa: B008
    """The frames of a stretch as RGB pictures, each with its time from the beginning of the file, seconds.

    Raises:
        ConfigError: it cannot be read.
    """
    import av

    rate = Rate(fps)
    try:
        with av.open(str(stretch.path), options={"protocol_whitelist": "file"}) as container:
            if not container.streams.video:
                raise ConfigError([f"{stretch.path}: there is no video in it"])
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            first = next((frame.time for frame in container.decode(stream) if frame.time is not None), 0.0)
            container.seek(round((first + stretch.start) / float(stream.time_base or 1)), stream=stream)
            for frame in container.decode(stream):
                seconds = None if frame.time is None else frame.time - first
                if seconds is None or seconds < stretch.start - _SOON_S:
                    continue
                if stretch.end is not None and seconds >= stretch.end - _SOON_S:
                    return
                if frame.width * frame.height > limits.max_pixels:
                    raise ConfigError([f"{stretch.path}: a frame of {frame.width}x{frame.height} px is too large"])
                if rate.takes(seconds):
                    yield frame.to_image(), seconds  # type: ignore[no-untyped-call]
    except (av.error.FFmpegError, OSError) as error:
        raise ConfigError([f"{stretch.path}: cannot be read as a video: {error.strerror or error}"]) from error


@dataclass(frozen=True, slots=True)
class Taken:
    """A frame that was taken of a stretch.

    Attributes:
        image: RGB.
        seconds: from the beginning of the file.
        at: when it was taken, seconds since 1970, as far as the file of the video tells.
        path: of the video.
        group: "VIDEO/START-END", the name of what it was taken with.
    """

    image: "Image.Image"
    seconds: float
    at: float
    path: Path
    group: str

    def png(self) -> bytes:
        """As the bytes of a file, without loss; those of the same frame are the same."""
        buffer = io.BytesIO()
        self.image.save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


def take(
    stretches: Sequence[Stretch], *, fps: float | None, advance: Callable[[int, int], None] = lambda *_: None
) -> Iterator[Taken]:
    """The frames of stretches, each of which is a group; a stretch that stands alone becomes `PIECES` groups.

    Args:
        stretches: to read.
        fps: frames a second; None for every one.
        advance: called with stretches done, and of how many.

    Raises:
        ConfigError: one cannot be read, or has no frames.
    """
    if problems := missing("av", "video", str(stretches[0].path)):
        raise ConfigError(problems)
    names = _names([stretch.path for stretch in stretches])
    for done, stretch in enumerate(stretches, start=1):
        duration = _duration(stretch.path)
        ends = replace(stretch, end=duration if stretch.end is None else stretch.end)
        origin, is_empty = stretch.path.stat().st_mtime - (duration or 0), True
        for image, seconds in read(stretch, fps):
            piece = _piece(ends, seconds) if len(stretches) == 1 else ends
            yield Taken(image, seconds, origin + seconds, stretch.path, f"{names[stretch.path]}/{_called(piece)}")
            is_empty = False
        if is_empty:
            raise ConfigError([f"{stretch.path}: there are no frames from {_called(ends)} s; correct the times"])
        advance(done, len(stretches))


def write(
    stretches: Sequence[Stretch],
    folder: Path,
    *,
    fps: float | None,
    advance: Callable[[int, int], None] = lambda *_: None,
) -> int:
    """Writes the frames of stretches as PNG files, a folder below `folder` for each group; how many.

    The files are of the time at which their frames were taken. The arguments, and what is raised, are those of `take`.
    """
    written = 0
    for frame in take(stretches, fps=fps, advance=advance):
        file = folder / frame.group / f"{frame.seconds:010.3f}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(frame.png())
        os.utime(file, (frame.at, frame.at))
        written += 1
    return written


def _duration(path: Path) -> float | None:
    import av

    try:
        with av.open(str(path), options={"protocol_whitelist": "file"}) as container:
            return None if container.duration is None else container.duration / av.time_base
    except (av.error.FFmpegError, OSError) as error:
        raise ConfigError([f"{path}: cannot be read as a video: {error.strerror or error}"]) from error


def _piece(stretch: Stretch, seconds: float) -> Stretch:
    """The piece of a stretch in which a frame lies."""
    length = (_UNKNOWN_S if stretch.end is None else stretch.end - stretch.start) / PIECES
    start = stretch.start + (seconds - stretch.start) // length * length
    return replace(stretch, start=start, end=start + length)


def _called(stretch: Stretch) -> str:
    return f"{stretch.start:.5g}-{'' if stretch.end is None else f'{stretch.end:.5g}'}"


def _names(paths: Sequence[Path]) -> dict[Path, str]:
    """A name for each file, that no other has."""
    names: dict[Path, str] = {}
    for path in paths:
        if path not in names:
            taken = {*names.values()}
            names[path] = next(
                name for n in range(1, len(paths) + 2) if (name := path.stem + (f"-{n}" if n > 1 else "")) not in taken
            )
    return names


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long, or no name at all
        return False


def _seconds(text: str) -> float:
    """Of seconds, or [H:]M:S."""
    total = 0.0
    for part in text.split(":"):
        total = 60 * total + float(part)
    return total

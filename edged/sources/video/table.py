"""The `[[sources]]` table of type "video"; the manual says what each key means."""

import os
import stat
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from edged.settings import AbsolutePath, Extent, Pixel, Place, SourceTable, denied, missing

_SCHEMES: Final = ("rtsp", "rtsps", "http", "https")


class VideoTable(SourceTable):
    """One video file, or one camera."""

    type: Literal["video"]
    url: str = Field(min_length=1, max_length=4000)
    fps: float | None = Field(default=None, gt=0, le=1000)
    on_change: float | None = Field(default=None, ge=0, le=255)
    store: Literal["events", "frames"] = "events"
    open_frames: int = Field(default=3, ge=1, le=100)
    of_frames: int = Field(default=5, ge=1, le=100)
    close_frames: int = Field(default=5, ge=1, le=1000)
    close_ratio: float = Field(default=0.9, gt=0, le=1)
    merge_seconds: float = Field(default=1.0, ge=0, le=3600)
    stall_seconds: float = Field(default=10.0, ge=0.5, le=600)
    frozen_seconds: float = Field(default=30.0, ge=0.5, le=86_400)
    roi: tuple[Pixel, Pixel, Extent, Extent] | None = None
    mask: AbsolutePath | None = None

    @property
    def is_device(self) -> bool:
        """Whether it is a V4L2 device."""
        try:
            return "://" not in self.url and stat.S_ISCHR(os.stat(self.url).st_mode)
        except OSError:  # one that is not plugged in just now
            return self.url.startswith("/dev/")

    @property
    def is_live(self) -> bool:
        """Whether it is what happens now, and not a file."""
        return "://" in self.url or self.is_device

    @property
    def public_url(self) -> str:
        """The URL without the password in it."""
        if "://" not in self.url:
            return self.url
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def places(self) -> list[Place]:
        """The file, where it is one; several sources may read it."""
        return [] if "://" in self.url or "\0" in self.url else [Place("url", Path(self.url), "input")]

    def problems(self) -> list[str]:
        """Whether there is such a thing, and what reads it is installed."""
        found = missing("av", "video")
        if self.open_frames > self.of_frames:
            found.append(f"open_frames: {self.open_frames} of the last {self.of_frames} cannot be; raise of_frames")
        if "://" in self.url:
            scheme = self.url.partition("://")[0].lower()
            if scheme not in _SCHEMES:
                found.append(f"url: {scheme}:// is none of {', '.join(_SCHEMES)}; for a file give its absolute path")
            elif not _names_a_host(self.url):
                found.append(f"url: names no host, or no port from 1 to 65535; write {scheme}://host:port/…")
        elif not Path(self.url).is_absolute() or "\0" in self.url:
            found.append("url: is neither a URL nor an absolute path; write rtsp://…, http://… or /…")
        elif not self.is_device:
            if refused := denied(Path(self.url)):
                found.append(f"url: {self.url} cannot be read by this user ({refused}); change its owner or mode")
            elif not os.path.isfile(self.url):
                found.append(f"url: {self.url} is not a file; correct the path")
            elif not os.access(self.url, os.R_OK):
                found.append(f"url: {self.url} cannot be read by this user; change its owner or mode")
        return found


def _names_a_host(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is left open
        return False

"""The `[[sources]]` table of type "folder"; the manual says what each key means."""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field

from edged.media.imaging import PATTERNS
from edged.settings import AbsolutePath, Extent, Pixel, Place, SourceTable, denied


class FolderTable(SourceTable):
    """One watched folder."""

    type: Literal["folder"]
    path: AbsolutePath
    patterns: tuple[str, ...] = Field(default=PATTERNS, min_length=1)
    recursive: bool = True
    settle_seconds: float = Field(default=2.0, ge=0, le=3600)
    retry_seconds: float = Field(default=30.0, ge=0, le=86_400)
    rescan_seconds: float = Field(default=60.0, ge=0.1, le=86_400)
    after: Literal["keep", "move", "delete"] = "keep"
    done_dir: AbsolutePath | None = None
    quarantine_dir: AbsolutePath | None = None
    roi: tuple[Pixel, Pixel, Extent, Extent] | None = None
    mask: AbsolutePath | None = None

    def places(self) -> list[Place]:
        """The inbox, and where files of it go."""
        outputs: dict[str, Path | None] = {"done_dir": self.done_dir, "quarantine_dir": self.quarantine_dir}
        return [
            Place("path", self.path, "inbox"),
            *(Place(key, path, "output") for key, path in outputs.items() if path is not None),
        ]

    def problems(self) -> list[str]:
        """Whether the inbox can be read, and emptied where that is asked for."""
        found = []
        if self.after == "move" and self.done_dir is None:
            found.append('done_dir: after = "move" needs a folder to move to; set done_dir')
        if refused := denied(self.path):
            found.append(f"path: {self.path} cannot be read by this user ({refused}); change its owner or mode")
        elif not os.path.isdir(self.path):
            found.append(f"path: {self.path} is not a folder; create it, or correct the path")
        elif not os.access(self.path, os.R_OK | os.X_OK):
            found.append(f"path: {self.path} cannot be read by this user; change its owner or mode")
        elif self.after != "keep" and not os.access(self.path, os.W_OK):
            found.append(f'after: "{self.after}" takes write permission on {self.path}; grant it, or use "keep"')
        return found

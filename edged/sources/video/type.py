"""The row of `SOURCES` for videos. What it makes is imported when it is made: a command that only reads needs none."""

from typing import TYPE_CHECKING, Final

from edged.sources.contract import SourceContext, SourceType
from edged.sources.video.table import VideoTable

if TYPE_CHECKING:
    from edged.sources.video.source import VideoSource


def _make(table: VideoTable, context: SourceContext) -> "VideoSource":
    from edged.sources.video.source import VideoSource

    return VideoSource(table, context)


TYPE: Final = SourceType(VideoTable, _make, is_stream=True)

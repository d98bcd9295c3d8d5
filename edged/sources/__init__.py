"""Where pictures come from: every type of source, by the name that `type` gives it."""

from typing import Final

from edged.sources import mqtt, stdin, uploads
from edged.sources.contract import SourceType
from edged.sources.folder import type as folder
from edged.sources.video import type as video

SOURCES: Final[dict[str, SourceType]] = {
    "folder": folder.TYPE,
    "http": uploads.TYPE,
    "mqtt": mqtt.TYPE,
    "stdin": stdin.TYPE,
    "video": video.TYPE,
}

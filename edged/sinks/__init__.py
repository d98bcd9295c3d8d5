"""Where results go: every type of sink, by the name that `type` gives it."""

from typing import Final

from edged.sinks import csv, images, jsonl
from edged.sinks.contract import SinkType

SINKS: Final[dict[str, SinkType]] = {
    "csv": csv.TYPE,
    "images": images.TYPE,
    "jsonl": jsonl.TYPE,
}

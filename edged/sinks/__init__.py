"""Where results go: every type of sink, by the name that `type` gives it."""

from typing import Final

from edged.sinks import csv, images, jsonl, mqtt, program, webhook
from edged.sinks.contract import SinkType

SINKS: Final[dict[str, SinkType]] = {
    "csv": csv.TYPE,
    "exec": program.TYPE,
    "images": images.TYPE,
    "jsonl": jsonl.TYPE,
    "mqtt": mqtt.TYPE,
    "webhook": webhook.TYPE,
}

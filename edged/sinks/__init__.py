"""Where results go: every type of sink, by the name that `type` gives it."""

from typing import Final

from edged.sinks import alertmanager, csv, images, jsonl, mqtt, opcua, program, webhook
from edged.sinks.contract import SinkType

SINKS: Final[dict[str, SinkType]] = {
    "alertmanager": alertmanager.TYPE,
    "csv": csv.TYPE,
    "exec": program.TYPE,
    "images": images.TYPE,
    "jsonl": jsonl.TYPE,
    "mqtt": mqtt.TYPE,
    "opcua": opcua.TYPE,
    "webhook": webhook.TYPE,
}

"""What Home Assistant is told of a source, so that it shows it by itself (its MQTT discovery)."""

import re
from typing import Any

from edged import __version__

_VERDICT = (
    "{{ none if value_json.is_anomaly is none else "
    "'ON' if value_json.is_anomaly and value_json.state | default('open') == 'open' else 'OFF' }}"
)


def announcements(prefix: str, topic: str, status_topic: str, source: str) -> dict[str, dict[str, Any]]:
    """Two entities of a source: whether its last result is an anomaly, and how bad it is.

    Args:
        prefix: of discovery, "homeassistant" by default there.
        topic: of the sink; below it are the sources' results.
        status_topic: says whether edged lives.
        source: its name.

    Returns:
        Topic -> content of a retained message.
    """
    slug = re.sub(r"[^A-Za-z0-9_-]", "_", topic)
    common = {
        "state_topic": f"{topic}/{source}",
        "availability_topic": status_topic,
        "availability_template": "{{ 'online' if value_json.online else 'offline' }}",
        "device": {
            "identifiers": [f"edged_{slug}"],
            "name": topic,
            "manufacturer": "edged",
            "sw_version": __version__,
        },
    }
    return {
        f"{prefix}/binary_sensor/{slug}/{source}_anomaly/config": {
            **common,
            "name": f"{source} anomaly",
            "unique_id": f"edged_{slug}_{source}_anomaly",
            "device_class": "problem",
            "value_template": _VERDICT,
            "json_attributes_topic": f"{topic}/{source}",
        },
        f"{prefix}/sensor/{slug}/{source}_score_ratio/config": {
            **common,
            "name": f"{source} score ratio",
            "unique_id": f"edged_{slug}_{source}_score_ratio",
            "state_class": "measurement",
            "value_template": "{{ value_json.score_ratio }}",
        },
    }

"""The text that Prometheus scrapes."""

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder


def exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """The text of all metrics in the format that `accept` (a request's header) asks for, and its content type."""
    try:
        encode, content_type = choose_encoder(accept)
    except (TypeError, ValueError):  # versions that are no numbers
        encode, content_type = choose_encoder("")
    return encode(registry), content_type

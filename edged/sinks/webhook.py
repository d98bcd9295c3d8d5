"""The webhook sink: every result as a POST to an HTTP server."""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Final, Literal

from edged.errors import ConfigError
from edged.results import Record
from edged.settings import AbsolutePath, read_secret
from edged.sinks.contract import SinkType
from edged.sinks.one_by_one import one_by_one
from edged.sinks.posting import Poster, PostingTable


class WebhookTable(PostingTable):
    """Sends every record to an HTTP server, one POST each."""

    type: Literal["webhook"]
    secret_file: AbsolutePath | None = None

    def secret(self) -> bytes | None:
        """The key that signs bodies; None when there is none.

        Raises:
            ConfigError: the file cannot be used.
        """
        return None if self.secret_file is None else read_secret("secret_file", self.secret_file).encode("ascii")

    def problems(self) -> list[str]:
        """Whether the URL can be one, and its secret can be read."""
        found = PostingTable.problems(self)
        try:
            self.secret()
        except ConfigError as error:
            found += error.problems
        return found


class WebhookSink:
    """Sends records one after the other. A record was taken when the receiver has answered 2xx."""

    def __init__(self, table: WebhookTable) -> None:
        self.name, self._secret = table.name, table.secret()
        self._poster = Poster(table.url, table.origin)
        self.close = self._poster.close

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Sends as many as go within the time.

        Raises:
            SinkError: the receiver cannot be reached, or cannot take the first of them now.
            RecordRefusedError: it does not want it.
        """
        return one_by_one(records, timeout_s, self._send)

    def _send(self, record: Record, timeout_s: float) -> None:
        body = record.to_json().encode("ascii")
        self._poster.post(body, self._headers(record, body), timeout_s)

    def _headers(self, record: Record, body: bytes) -> dict[str, str]:
        headers = {"idempotency-key": record.delivery_key}
        if self._secret is not None:
            headers["x-edged-signature"] = f"sha256={hmac.new(self._secret, body, hashlib.sha256).hexdigest()}"
        return headers


TYPE: Final = SinkType(WebhookTable, lambda table, _: WebhookSink(table))

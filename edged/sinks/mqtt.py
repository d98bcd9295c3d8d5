"""The mqtt sink: every result as a message of a broker, which also tells whether edged lives."""

import contextlib
import json
import queue
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import structlog
from pydantic import Field

from edged import __version__
from edged.broker import KEEPALIVE_S, BrokerKeys, make_client, topic_problem
from edged.errors import RecordRefusedError, SinkError
from edged.results import Record
from edged.settings import SinkTable
from edged.sinks.contract import SinkType
from edged.sinks.home_assistant import announcements

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessageInfo

_AHEAD: Final = 20
"""Messages that are sent before the first of them is acknowledged."""
_SHARE: Final = 0.9
"""Of its time that a sink waits; the rest is for saying that it was in vain."""
_PAUSES_S: Final = (1, 5)
_LAST_S: Final = 1.0
_REFUSED: Final = "the broker refuses what edged says of itself"
_NEVER: Final = frozenset({0x90, 0x99})
"""Reasons of MQTT 5 that are about the record: the topic's name is invalid, the payload's format is."""


class MqttSinkTable(SinkTable, BrokerKeys):
    """Publishes every record, and whether edged lives."""

    type: Literal["mqtt"]
    topic: str = Field(default="edged", max_length=900)
    retain: bool = True
    discovery: str | None = Field(default=None, max_length=900)

    @property
    def status_topic(self) -> str:
        """Where it is said whether edged lives; no source can have that name."""
        return f"{self.topic}/$status"

    def problems(self) -> list[str]:
        """What is wrong with the broker's keys, or the topics."""
        found = self.broker_problems() + topic_problem("topic", self.topic, wildcards=False)
        if self.discovery is not None:
            found += topic_problem("discovery", self.discovery, wildcards=False)
        return found


class MqttSink:
    """Is connected as long as it lives, by a thread of the library's, which also sends again what was cut off.

    A record was taken when the broker has acknowledged its message. What it has not is left to the library, and waited
    for when it is given again.
    """

    def __init__(self, table: MqttSinkTable) -> None:
        self.name, self._table = table.name, table
        self._sent: dict[str, int] = {}
        self._acknowledged: dict[int, Any] = {}
        self._answers: queue.SimpleQueue[tuple[int, Any]] = queue.SimpleQueue()
        self._connected = threading.Event()
        self._why = "it has not answered"
        self._announced: set[str] = set()
        self._told: dict[str, MQTTMessageInfo] = {}
        self._since_ms = 0
        self._log = structlog.get_logger().bind(sink=table.name)
        self._client: Client | None = self._begin()

    def publish(self, records: Sequence[Record], timeout_s: float) -> int:
        """Publishes as many as the broker acknowledges within the time.

        Raises:
            SinkError: the broker cannot be reached, does not acknowledge, or does not allow it.
            RecordRefusedError: it does not want the first of them.
        """
        ends = time.monotonic() + _SHARE * timeout_s
        next_keys = {record.delivery_key for record in records[:_AHEAD]}
        self._sent = {key: number for key, number in self._sent.items() if key in next_keys}  # some may be dropped
        left = self._sent.values()
        self._acknowledged = {number: reason for number, reason in self._acknowledged.items() if number in left}
        if not self._connected.wait(_SHARE * timeout_s) or self._client is None:
            raise SinkError(f"{self._table.origin} cannot be reached: {self._why}")
        for taken in range(len(records)):
            for record in records[taken : taken + _AHEAD]:
                if record.delivery_key not in self._sent:
                    self._sent[record.delivery_key] = self._send(self._client, record)
            try:
                self._wait_for(records[taken].delivery_key, ends)
            except SinkError:
                if not taken:
                    raise
                return taken
        return len(records)

    def close(self) -> None:
        """Says that edged lives no longer, and ends the connection."""
        client, self._client = self._client, None
        if client is None:
            return
        if self._connected.is_set():
            farewell = client.publish(*self._status(online=False), qos=1, retain=True)
            with contextlib.suppress(RuntimeError, ValueError):  # it was lost just now
                farewell.wait_for_publish(_LAST_S)
        client.disconnect()
        client.loop_stop()

    # The connection, in the library's thread.

    def _begin(self) -> "Client":
        from paho.mqtt.enums import MQTTProtocolVersion

        table = self._table
        # MQTT 5 says why a message is refused; before it, one that is not allowed is acknowledged and thrown away.
        client = make_client(table, client_id=table.id_as("sink", self.name), protocol=MQTTProtocolVersion.MQTTv5)

        # What is given here is the client, which must not be held: it closes its sockets when it is let go of.
        def connecting(client: "Client", _: Any) -> None:
            if not self._waits(self._told.get(self._table.status_topic)):  # else the birth of before comes again
                self._since_ms = time.time_ns() // 1_000_000
            client.will_set(*self._status(online=False), qos=1, retain=True)

        def connected(client: "Client", _: Any, __: Any, reason: Any, ___: Any) -> None:
            if reason.is_failure:
                self._why = f"it refuses the connection: {reason}"
                return
            self._tell(client, *self._status(online=True))
            for source in tuple(self._announced):  # the broker may have lost what it retained
                self._announce(client, source)
            self._connected.set()

        def disconnected(_: "Client", __: Any, ___: Any, reason: Any, ____: Any) -> None:
            if self._connected.is_set():
                self._why = f"the connection is lost: {reason}"
            self._connected.clear()

        def acknowledged(_: "Client", __: Any, number: int, reason: Any, ___: Any) -> None:
            if not any(told.mid == number and self._waits(told) for told in tuple(self._told.values())):
                self._answers.put((number, reason))
            elif reason.is_failure:
                self._log.warning(_REFUSED, reason=str(reason))

        def failed(_: "Client", __: Any) -> None:
            error = sys.exception()  # the library is about to let it go
            self._why = (isinstance(error, OSError) and error.strerror) or str(error)

        client.on_pre_connect, client.on_connect, client.on_disconnect = connecting, connected, disconnected
        client.on_connect_fail = failed
        client.on_publish = acknowledged
        client.reconnect_delay_set(*_PAUSES_S)
        client.connect_async(*table.address, keepalive=KEEPALIVE_S, clean_start=True)
        client.loop_start()
        return client

    def _status(self, *, online: bool) -> tuple[str, str]:
        """Topic and payload of birth and death; a death is of the birth with the same timestamp (as in Sparkplug 3)."""
        about = {"online": online, "timestamp": self._since_ms, "edged": __version__}
        return self._table.status_topic, json.dumps(about)

    # Messages.

    def _send(self, client: "Client", record: Record) -> int:
        if record.source not in self._announced:
            self._announce(client, record.source)
            self._announced.add(record.source)
        topic = f"{self._table.topic}/{record.source}"
        return client.publish(topic, record.to_json(), qos=1, retain=self._table.retain).mid

    def _announce(self, client: "Client", source: str) -> None:
        if self._table.discovery is None:
            return
        about = announcements(self._table.discovery, self._table.topic, self._table.status_topic, source)
        for topic, payload in about.items():
            self._tell(client, topic, json.dumps(payload))

    def _tell(self, client: "Client", topic: str, payload: str) -> None:
        """Publishes something of edged itself, unless the library has what was said before still to send again."""
        if not self._waits(self._told.get(topic)):
            self._told[topic] = client.publish(topic, payload, qos=1, retain=True)

    @staticmethod
    def _waits(told: "MQTTMessageInfo | None") -> bool:
        """Whether it is not yet acknowledged."""
        try:
            return told is not None and not told.is_published()
        except RuntimeError:  # the connection was lost while it was said; it is said again
            return False

    def _wait_for(self, key: str, ends: float) -> None:
        number = self._sent[key]
        while number not in self._acknowledged:
            try:
                answered, reason = self._answers.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                why = "it has not acknowledged a message in time" if self._connected.is_set() else self._why
                raise SinkError(f"{self._table.origin} does not take results: {why}") from None
            if answered in self._sent.values():
                self._acknowledged[answered] = reason
            elif reason.is_failure:
                self._log.warning(_REFUSED, reason=str(reason))
        del self._sent[key]
        reason = self._acknowledged.pop(number)
        if reason.is_failure:
            refusal = RecordRefusedError if reason.value in _NEVER else SinkError
            raise refusal(f"{self._table.origin} refuses a message: {reason}")


TYPE: Final = SinkType(MqttSinkTable, lambda table, _: MqttSink(table))

"""The mqtt source: pictures that a broker holds until they have their result.

A message is acknowledged once its result is durable, so what edged did not finish comes again, as MQTT says: after a
reconnect, with the number that it had. The broker's window of such messages is what bounds the load.
"""

import contextlib
import hashlib
import io
import json
import os
import secrets
import select
import ssl
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, Literal

import structlog
from pydantic import Field

from edged.broker import KEEPALIVE_S, BrokerKeys, make_client, topic_problem
from edged.errors import PictureError, SourceError
from edged.journal.journal import Entry, Statement, remember
from edged.results import Record, new_id
from edged.settings import SourceTable
from edged.sources.contract import Delivery, Settlement, SourceContext, SourceType, WhenFull

if TYPE_CHECKING:
    from paho.mqtt.client import Client, MQTTMessage

_MOST: Final = 1000
_LOOK_S: Final = 1.0
_LAST_S: Final = 1.0
_SESSION: Final = "session"


class MqttSourceTable(SourceTable, BrokerKeys):
    """Takes pictures that are published to topics of a broker."""

    type: Literal["mqtt"]
    topic: str = Field(max_length=1000)

    def problems(self) -> list[str]:
        """What is wrong with the broker's keys, or the filter of topics."""
        return self.broker_problems() + topic_problem("topic", self.topic, wildcards=True)


class MqttPicture:
    """One message (`sources.contract.Delivery`).

    Attributes:
        number: of the message in its session; None of one that the broker does not wait for.
        content: SHA-256 of its bytes.
        connection: by which it came last; it can be acknowledged over that alone.
        size: bytes that it holds.
    """

    def __init__(self, source: "MqttSource", path: str, data: bytes, number: int | None, content: bytes) -> None:
        self.id, self.source, self.path = new_id(), source.name, path
        self.captured_at, self.found_at = time.time(), time.monotonic()
        self.number, self.content, self.session = number, content, source.session
        self.connection = source.connection
        self._from, self._length = source, len(data)
        self._data = data if len(data) <= source.max_bytes else b""
        self.size = len(self._data)

    def open(self) -> BinaryIO:
        """The bytes.

        Raises:
            PictureError: they are too many, and were not kept.
        """
        if self._length > self._from.max_bytes:
            text = f"{self._length} bytes are more than limits.max_bytes = {self._from.max_bytes}"
            raise PictureError("file_too_large", text)
        return io.BytesIO(self._data)

    def settle(self, sha256: str | None, error: PictureError | None) -> Settlement:  # noqa: ARG002
        """It gets a record, whatever it is: it will not become another."""
        return Settlement.RECORD

    def statements(self, record: Record | None) -> Sequence[Statement]:  # noqa: ARG002
        """That the message of this number and content has its record, should it come again."""
        if self.number is None or self.session != self._from.session:
            return ()
        return [remember(self.source, _key(self.number), self.session + self.content)]

    def acknowledge(self, record: Record | None) -> None:  # noqa: ARG002
        """Has the broker told."""
        self._data = b""
        self._from.done(self)

    def give_back(self) -> None:
        """It is handed over again."""
        self._from.again(self)


class MqttSource:
    """Is connected from its own thread alone; other threads leave word and wake it.

    Attributes:
        max_bytes: of one picture.
        session: what the broker remembers of us is one as long as this is the same.
        connection: how many there have been.
    """

    when_full: WhenFull = "wait"

    def __init__(self, table: MqttSourceTable, context: SourceContext) -> None:
        self._waker = _Waker()
        self.name = table.name
        self.wake: threading.Event = self._waker
        self.max_bytes, self.session, self.connection = context.limits.max_bytes, b"", 0
        self._table, self._observer, self._journal = table, context.observer, context.journal
        self._log = structlog.get_logger().bind(source=table.name)
        self._waiting: deque[MqttPicture] = deque()
        self._done: deque[MqttPicture] = deque()
        self._again: deque[MqttPicture] = deque()
        self._held: dict[str, MqttPicture] = {}
        self._in_flight: dict[int, MqttPicture] = {}
        self._came: set[int] = set()
        self._mutex = threading.Lock()
        self._refusal: str | None = None

    def run(
        self, hand_over: Callable[[Delivery], bool], stop: threading.Event, healthy: Callable[[], None] = lambda: None
    ) -> None:
        """Takes messages and hands them over until `stop`.

        Raises:
            SourceError: the broker cannot be reached, ends the connection, or refuses.
        """
        self._observer.up(self.name, False)
        client = self._connect(healthy)
        try:
            while not stop.is_set():
                self.wake.clear()
                self._settle(client)
                self._hand_over(hand_over)
                self._step(client)
            self._settle(client)
            self._leave(client)
        finally:
            self._observer.up(self.name, False)
            if (link := client.socket()) is not None:
                link.close()

    def pending(self) -> tuple[int, float | None]:
        """As `sources.contract.Source.pending`."""
        with self._mutex:
            oldest = next(iter(self._held.values()), None)
            return len(self._held), None if oldest is None else oldest.found_at

    def done(self, picture: MqttPicture) -> None:
        """A picture has its result; from any thread."""
        self._done.append(picture)
        self.wake.set()

    def again(self, picture: MqttPicture) -> None:
        """A picture was given back; from any thread."""
        self._again.append(picture)
        self.wake.set()

    # The connection, in this source's own thread.

    def _connect(self, healthy: Callable[[], None]) -> "Client":
        from paho.mqtt.enums import MQTTProtocolVersion

        client = make_client(
            self._table,
            client_id=self._table.id_as("source", self.name),
            clean_session=False,
            protocol=MQTTProtocolVersion.MQTTv311,
            manual_ack=True,
        )

        def connected(client: "Client", _: Any, flags: Any, reason: Any, __: Any) -> None:
            if reason.is_failure:
                self._refusal = f"{self._table.origin} refuses the connection: {reason}"
                return
            self._begin(client, is_same=flags.session_present)

        def subscribed(_: Any, __: Any, ___: int, reasons: Any, ____: Any) -> None:
            if any(reason.is_failure for reason in reasons):
                self._refusal = f"{self._table.origin} refuses the subscription to {self._table.topic}"
                return
            self._observer.up(self.name, True)
            healthy()

        client.on_connect, client.on_subscribe, client.on_message = connected, subscribed, self._receive
        self._refusal = None
        self.connection += 1
        self._came.clear()
        try:
            client.connect(*self._table.address, keepalive=KEEPALIVE_S)
        except OSError as error:
            raise SourceError(f"{self._table.origin} cannot be reached: {error.strerror or error}") from error
        return client

    def _begin(self, client: "Client", *, is_same: bool) -> None:
        """Goes on with the session that the broker has of us, or begins one."""
        saved = json.loads(self._journal.remembered(self.name, _SESSION) or b"{}")
        id_ = saved.get("id") if is_same else None
        topic = self._table.topic
        if is_same and saved.get("topic", topic) != topic:
            client.unsubscribe(saved["topic"])
        if id_ is None or saved["topic"] != topic:
            id_ = id_ or secrets.token_hex(8)
            about = json.dumps({"id": id_, "topic": topic}).encode()
            self._journal.commit([Entry(None, [remember(self.name, _SESSION, about)])])
        self.session = bytes.fromhex(id_)
        client.subscribe(topic, qos=1)

    def _step(self, client: "Client") -> None:
        """Reads and writes what can be read and written, or waits for that."""
        link = client.socket()
        reads: list[Any] = [link] if link is not None and self._has_room() else []
        writes: list[Any] = [link] if link is not None and client.want_write() else []
        buffered = bool(reads) and isinstance(link, ssl.SSLSocket) and link.pending() > 0
        readable, writable, _ = select.select([*reads, self._waker], writes, [], 0 if buffered else _LOOK_S)
        result = client.loop_misc()
        if not result and (buffered or link in readable):
            result = client.loop_read()
        if not result and link in writable:
            result = client.loop_write()
        if self._refusal is not None:
            raise SourceError(self._refusal)
        if result or client.socket() is None:
            from paho.mqtt.client import error_string

            why = error_string(result) if result else "it was closed"
            raise SourceError(f"the connection to {self._table.origin} is lost: {why}")

    def _leave(self, client: "Client") -> None:
        """Sends what is still to be sent, for a moment; the broker keeps the session."""
        ends = time.monotonic() + _LAST_S
        while client.want_write() and (link := client.socket()) is not None and (left := ends - time.monotonic()) > 0:
            if not select.select([], [link], [], left)[1] or client.loop_write():
                return
        client.disconnect()

    # Messages, likewise.

    def _receive(self, client: "Client", _: Any, message: "MQTTMessage") -> None:
        data, number = bytes(message.payload), message.mid if message.qos else None
        content = hashlib.sha256(data).digest()
        if message.retain:  # it is as old as may be, and comes with every connection
            self._log.info("a retained message is passed over", topic=_path(message))
            client.ack(message.mid, message.qos)
            return
        if number is not None:
            is_first = number not in self._came  # of its number since the connection was made: it may have come before
            self._came.add(number)
            before = self._in_flight.get(number)
            if before is not None and (before.session, before.content) == (self.session, content):
                before.connection = self.connection  # by which it can be acknowledged now
                return
            if is_first and self._has_record(number, content):
                client.ack(message.mid, message.qos)
                return
        picture = MqttPicture(self, _path(message), data, number, content)
        if number is not None:
            self._in_flight[number] = picture
        with self._mutex:
            self._held[picture.id] = picture
        self._waiting.append(picture)

    def _has_record(self, number: int, content: bytes) -> bool:
        """Whether what had this number last had this content too, in this session, and has its record."""
        return self._journal.remembered(self.name, _key(number)) == self.session + content

    def _settle(self, client: "Client") -> None:
        """Acknowledges what is done, and takes back what was given back."""
        while self._done:
            picture = self._done.popleft()
            with self._mutex:
                self._held.pop(picture.id, None)
            if picture.number is not None and self._in_flight.get(picture.number) is picture:
                del self._in_flight[picture.number]
                if picture.connection == self.connection:
                    client.ack(picture.number, 1)
        while self._again:
            self._waiting.appendleft(self._again.popleft())

    def _hand_over(self, hand_over: Callable[[Delivery], bool]) -> None:
        while self._waiting and hand_over(self._waiting[0]):
            self._waiting.popleft()

    def _has_room(self) -> bool:
        """Whether another message may be read; a broker with a wide window would fill the memory."""
        return len(self._held) < _MOST and sum(picture.size for picture in self._held.values()) < self.max_bytes


class _Waker(threading.Event):
    """An event that `select` sees too."""

    def __init__(self) -> None:
        super().__init__()
        self._descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._descriptor)

    def fileno(self) -> int:
        return self._descriptor

    def set(self) -> None:
        super().set()
        os.eventfd_write(self._descriptor, 1)

    def clear(self) -> None:
        super().clear()
        with contextlib.suppress(BlockingIOError):  # it was not set
            os.eventfd_read(self._descriptor)


def _key(number: int) -> str:
    """Under which the journal remembers what had this number; there are 65,535."""
    return f"message {number}"


def _path(message: "MQTTMessage") -> str:
    """The topic, which is what records call the picture."""
    try:
        return message.topic
    except UnicodeDecodeError:
        return "a topic that is not UTF-8"


TYPE: Final = SourceType(MqttSourceTable, MqttSource)

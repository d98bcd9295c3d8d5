"""A real Mosquitto on loopback, which keeps its sessions across kills, and clients for it."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from tests.edged.making import until

PROGRAM = shutil.which("mosquitto") or "/usr/sbin/mosquitto"


def need_mosquitto() -> None:
    if not os.path.exists(PROGRAM):
        if os.environ.get("CI"):
            pytest.fail("mosquitto is not installed; CI installs it")
        pytest.skip("mosquitto is not installed (Debian: apt install mosquitto)")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Broker:
    """One that may be killed and started again: what it has acknowledged it still knows, if it is `kept`."""

    def __init__(self, folder: Path, rest: str = "allow_anonymous true", *, kept: bool = True) -> None:
        need_mosquitto()
        self.folder, self.port = folder / "broker", free_port()
        self.folder.mkdir()
        self._kept = kept
        self._config = self.folder / "mosquitto.conf"
        keeping = (
            f"persistence true\npersistence_location {self.folder}/\nautosave_interval 1\nautosave_on_changes true"
        )
        self._config.write_text(
            f"""
listener {self.port} 127.0.0.1
{keeping if kept else ""}
max_queued_messages 0
{"user root" if os.geteuid() == 0 else ""}
{rest}
"""
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen([PROGRAM, "-c", str(self._config)], stdout=log, stderr=log)
        until(self._answers, "the broker to answer")

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, (self.folder / "log").read_text()
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            return True
        return False

    def end(self, number: int = signal.SIGKILL) -> None:
        """Kills it, or what else the signal does."""
        assert self.process is not None
        self.process.send_signal(number)
        self.process.wait(timeout=30)
        self.process = None

    def send_signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    @contextlib.contextmanager
    def client(self, **options: Any) -> Iterator[Client]:
        """A client that is connected, for as long as the block."""
        client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311, **options)
        client.reconnect_delay_set(1, 1)
        client.connect("127.0.0.1", self.port)
        client.loop_start()
        try:
            until(client.is_connected, "the client to be connected")
            yield client
        finally:
            client.disconnect()
            client.loop_stop()

    def publish(self, topic: str, *payloads: bytes, qos: int = 1, retain: bool = False) -> None:
        """Publishes, and returns when the broker has all of them: on its disk, if it is `kept`."""
        with self.client() as client:
            for sent in [client.publish(topic, payload, qos=qos, retain=retain) for payload in payloads]:
                sent.wait_for_publish(30)
                assert sent.is_published()
        if self._kept:
            self._save()

    def _save(self) -> None:
        # It acknowledges a message first, and saves it after that: who kills it in between loses the message.
        database = self.folder / "mosquitto.db"
        before = database.stat() if database.exists() else None
        self.send_signal(signal.SIGUSR1)
        until(
            lambda: database.exists() and (before is None or database.stat().st_mtime_ns != before.st_mtime_ns),
            "a save",
        )

    def begin_session(self, client_id: str, topic: str) -> None:
        """Has the broker keep messages for a client that comes later."""
        done = threading.Event()
        with self.client(client_id=client_id, clean_session=False) as client:
            client.on_subscribe = lambda *_: done.set()
            client.subscribe(topic, 1)
            assert done.wait(30)


class Listener:
    """All that comes below a topic, in order."""

    def __init__(self, broker: Broker, *topics: str, client_id: str = "listener") -> None:
        self.messages: list[MQTTMessage] = []
        self._ready = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,  # while the broker or we are away, it keeps what comes
            protocol=MQTTProtocolVersion.MQTTv311,
        )
        self._client.on_connect = lambda client, *_: client.subscribe([(topic, 1) for topic in topics])
        self._client.on_subscribe = lambda *_: self._ready.set()
        self._client.on_message = lambda _, __, message: self.messages.append(message)
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert self._ready.wait(30)

    def payloads(self, topic: str) -> Sequence[bytes]:
        return [bytes(message.payload) for message in self.messages.copy() if message.topic == topic]

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

"""An MQTT broker: the keys of every table that names one, and a client for it that is still to be connected."""

import contextlib
import ipaddress
import os
import socket
import ssl
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from pydantic import Field

from edged.errors import ConfigError
from edged.settings import AbsolutePath, Login, load_certificate, missing

if TYPE_CHECKING:
    from paho.mqtt.client import Client

KEEPALIVE_S: Final = 30
"""A connection over which nothing comes for twice as long is taken for lost."""

_PORTS: Final = {"mqtt": 1883, "mqtts": 8883}
_LONGEST_TOPIC: Final = 1000


class BrokerKeys(Login):
    """Where a broker is, and as whom to connect to it.

    Attributes:
        url: `mqtt://host[:port]`, or `mqtts://` for TLS.
        tls_ca: PEM of the authorities that may vouch for the broker; the system's by default.
        tls_cert: PEM of ours, with `tls_key`, for brokers that want one.
        client_id: what the broker knows us by; two clients with the same throw each other out.
    """

    url: str
    tls_ca: AbsolutePath | None = None
    tls_cert: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    client_id: str | None = Field(default=None, min_length=1, max_length=200)

    @property
    def origin(self) -> str:
        """The URL as it is shown."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.hostname}:{self.address[1]}"

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or _PORTS[parts.scheme]

    def shares_broker(self, other: "BrokerKeys") -> bool:
        """Whether both name the same broker; not of a URL that cannot be used."""
        return self._url_problem() is None and other._url_problem() is None and self._door == other._door

    @property
    def _door(self) -> tuple[str, int | None]:
        """Host and port as far as they tell brokers apart: this machine has several names, TLS a port of its own."""
        (host, port), scheme = self.address, urlsplit(self.url).scheme
        host = host.removesuffix(".")
        with contextlib.suppress(ValueError):
            address = ipaddress.ip_address(host)
            host = "localhost" if address.is_loopback else str(address)
        return host, None if port == _PORTS[scheme] else port

    def id_as(self, role: str, name: str) -> str:
        """`client_id`, or one that no other machine, source or sink has.

        Args:
            role: "source" or "sink".
            name: of the table.
        """
        return self.client_id or f"edged-{socket.gethostname()}-{role}-{name}"

    def tls(self) -> ssl.SSLContext | None:
        """How a connection is secured; None when it is not.

        Raises:
            ConfigError: a file cannot be used.
        """
        if urlsplit(self.url).scheme != "mqtts":
            return None
        try:
            context = ssl.create_default_context(cafile=self.tls_ca)
        except OSError as error:
            raise ConfigError([f"tls_ca: {self.tls_ca} holds no certificate as PEM: {error.strerror}"]) from error
        if self.tls_cert is not None:
            load_certificate(context, "tls_cert", self.tls_cert, self.tls_key)
        return context

    def broker_problems(self) -> list[str]:
        """What is wrong with these keys, and whether the library that they take is there."""
        found = missing("paho", "mqtt")
        if wrong := self._url_problem():
            return [*found, wrong]
        if self.password_file is not None and self.user is None:
            found.append("password_file: takes user, whose password it is")
        if (self.tls_cert is None) != (self.tls_key is None):
            found.append("tls_cert: tls_cert and tls_key belong together; give both")
        files = {"tls_ca": self.tls_ca, "tls_cert": self.tls_cert, "tls_key": self.tls_key}
        given = {key: path for key, path in files.items() if path is not None}
        if given and not self.url.startswith("mqtts:"):
            found.append(f"{next(iter(given))}: is for TLS; write url as mqtts://")
        unread = [key for key, path in given.items() if not os.access(path, os.R_OK)]
        found += [f"{key}: {given[key]} cannot be read; check the path and its permissions" for key in unread]
        for use in (self.password, *(() if found else (self.tls,))):
            try:
                use()
            except ConfigError as error:
                found += error.problems
        return found

    def _url_problem(self) -> str | None:
        parts = _split(self.url)
        if parts is None or not self.url.isascii() or not self.url.isprintable() or " " in self.url:
            return 'url: cannot be used; write it as "mqtt://host:1883", or "mqtts://host:8883" for TLS'
        if "@" in parts.netloc:
            return "url: must not hold a password, which would be shown; give user and password_file"
        if parts.path.strip("/") or parts.query or parts.fragment:
            return "url: is of a broker, and ends with its host and port; the topic has a key of its own"
        return None


def topic_problem(key: str, topic: str, *, wildcards: bool) -> list[str]:
    """What is wrong with a topic, or with a filter of topics, which may have wildcards."""
    levels = topic.split("/")
    usable = bool(topic) and "\0" not in topic and topic.isprintable() and len(topic.encode()) <= _LONGEST_TOPIC
    if not usable:
        return [f"{key}: cannot be used; topics are printable, and at most {_LONGEST_TOPIC} bytes long"]
    if not wildcards and ("+" in topic or "#" in topic or topic.startswith("$") or topic.endswith("/")):
        return [f"{key}: {topic!r} cannot be published to; no + or #, no $ before it and no / behind it"]
    if any(("+" in level and level != "+") or ("#" in level and level != "#") for level in levels):
        return [f"{key}: {topic!r} is no filter of topics; + and # stand for whole levels"]
    if "#" in levels[:-1]:
        return [f"{key}: {topic!r} is no filter of topics; # stands at its end"]
    return []


def takes(topic_filter: str, topic: str) -> bool:
    """Whether who subscribes to a filter is given what is published to a topic, which does not begin with `$`."""
    wanted, given = topic_filter.split("/"), topic.split("/")
    if wanted[0] == "$share":
        del wanted[:2]
    if wanted[-1:] == ["#"]:
        del wanted[-1]
        del given[len(wanted) :]
    return len(wanted) == len(given) and all(one in {"+", level} for one, level in zip(wanted, given, strict=True))


def make_client(keys: BrokerKeys, *, client_id: str, **options: Any) -> "Client":
    """A client, to be connected to `keys.address`.

    Args:
        keys: that have no problems.
        client_id: see `BrokerKeys.id_as`.
        options: of paho's `Client`.

    Raises:
        ConfigError: a file has gone bad since the configuration was read.
    """
    from paho.mqtt.client import Client
    from paho.mqtt.enums import CallbackAPIVersion

    client = Client(CallbackAPIVersion.VERSION2, client_id=client_id, **options)
    if keys.user is not None:
        client.username_pw_set(keys.user, keys.password())
    if (context := keys.tls()) is not None:
        client.tls_set_context(context)
    return client


def _split(url: str) -> SplitResult | None:
    """The parts of a URL that can be one of a broker."""
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in _PORTS and parts.hostname and parts.port != 0 else None
    except ValueError:
        return None

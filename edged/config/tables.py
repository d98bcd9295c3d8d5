"""The whole configuration, and what is wrong with its tables together; `loading` reads it."""

import contextlib
import os
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import Field

from edged.broker import BrokerKeys, takes
from edged.errors import ConfigError
from edged.files import is_network
from edged.journal import lock, schema
from edged.media.imaging import Limits
from edged.settings import (
    AbsolutePath,
    ModelTable,
    Name,
    Place,
    RetentionTable,
    SinkTable,
    SourceTable,
    Table,
    address_of,
    inside,
    load_certificate,
    read_secret,
    same_port,
)
from edged.sinks.mqtt import MqttSinkTable
from edged.sources.mqtt import MqttSourceTable

OWN_FOLDERS: Final = ("quarantine", "requeue", "received", ".edged")
"""Of `state_dir`: where files and requests are put away."""

_OWN_FILES: Final = (*(schema.FILE + end for end in ("", "-wal", "-shm", ".damage", ".salvaged")), lock.FILE)
"""Of `state_dir` too: the journal, what SQLite and a repair put beside it, and the lock."""


class ServiceTable(Table):
    """Where the daemon keeps its state, and how it logs."""

    state_dir: AbsolutePath
    log_format: Literal["auto", "console", "json"] = "auto"


class HttpTable(Table):
    """Where metrics and health are served."""

    listen: str = "127.0.0.1:9108"
    token_file: AbsolutePath | None = None
    tls_cert: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    tls_client_ca: AbsolutePath | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, port, _ = address_of("http.listen", self.listen, example=9108)
        return host, port

    def token(self) -> str | None:
        """The bearer token that `token_file` holds; None when there is none.

        Raises:
            ConfigError: the file cannot be used.
        """
        if self.token_file is None:
            return None
        return read_secret("http.token_file", self.token_file)

    def problems(self) -> list[str]:
        """What is wrong with these keys together."""
        try:
            host, _, loopback = address_of("http.listen", self.listen, example=9108)
        except ConfigError as error:
            return error.problems
        found = []
        if (self.tls_cert is None) != (self.tls_key is None):
            found.append("http.tls_cert: tls_cert and tls_key belong together; give both")
        if self.tls_client_ca is not None and self.tls_cert is None:
            found.append("http.tls_client_ca: client certificates take TLS; give tls_cert and tls_key too")
        if not loopback and self.token_file is None and self.tls_client_ca is None:
            found.append(
                f"http.listen: {host} can be reached from other machines; set token_file (or tls_client_ca with "
                "tls_cert and tls_key), or listen on 127.0.0.1"
            )
        try:
            self.token()
        except ConfigError as error:
            found += error.problems
        files = {"tls_cert": self.tls_cert, "tls_key": self.tls_key, "tls_client_ca": self.tls_client_ca}
        for key, path in files.items():
            if path is not None and not os.access(path, os.R_OK):
                found.append(f"http.{key}: {path} cannot be read; check the path and its permissions")
        return found or self._tls_problems()

    def _tls_problems(self) -> list[str]:
        if self.tls_cert is None or self.tls_key is None:
            return []
        import ssl

        found: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            load_certificate(context, "http.tls_cert", self.tls_cert, self.tls_key)
        except ConfigError as error:
            found += error.problems
        if self.tls_client_ca is not None:
            try:
                context.load_verify_locations(self.tls_client_ca)
            except OSError as error:
                found.append(f"http.tls_client_ca: {self.tls_client_ca} holds no certificate as PEM: {error}")
        return found


class Config(Table):
    """The whole configuration. `sources` and `sinks` are of the tables that their types have."""

    service: ServiceTable
    http: HttpTable = HttpTable()
    models: dict[Name, ModelTable] = Field(min_length=1)
    limits: Limits = Limits()
    sources: tuple[SourceTable, ...] = Field(min_length=1)
    sinks: tuple[SinkTable, ...] = ()
    retention: RetentionTable = RetentionTable()

    def problems(self, file: Path) -> list[str]:
        """What is wrong with keys together, and with the folders that they name; `file` is the configuration's own."""
        found = self.http.problems()
        if is_network(self.service.state_dir):
            found.append(
                f"service.state_dir: {self.service.state_dir} is on a network file system, where SQLite cannot keep "
                "its promises; choose a folder on a local disk"
            )
        if os.path.exists(self.service.state_dir) and not os.path.isdir(self.service.state_dir):
            found.append(f"service.state_dir: {self.service.state_dir} is not a folder; choose another path")
        for name, model in self.models.items():
            if model.target_fpr is not None and model.threshold is not None:
                found.append(f"models.{name}.threshold: give target_fpr or threshold, not both")
        for what, names in (("sources", [s.name for s in self.sources]), ("sinks", [s.name for s in self.sinks])):
            found += [f"{what}.{name}.name: is used twice; names are unique" for name in _repeated(names)]
        for source in self.sources:
            for key, model_name in (("model", source.model), ("denoiser", source.denoiser)):
                if model_name is not None and model_name not in self.models:
                    found.append(
                        f"sources.{source.name}.{key}: there is no [models.{model_name}]; models: "
                        f"{', '.join(self.models)}"
                    )
            found += [f"sources.{source.name}.{problem}" for problem in source.problems()]
        found += [*self._overlaps(), *self._overwrites(file), *self._echoes(), *self._shared_client_ids()]
        for sink in self.sinks:
            found += [f"sinks.{sink.name}.{problem}" for problem in sink.problems()]
        return found + self._shared_ports()

    def _overlaps(self) -> list[str]:
        """Places that would feed edged its own output, or one picture to two sources."""
        found = []
        claims = list(self._claims())
        inboxes = [(key, place) for key, place in claims if place.role == "inbox"]
        state = self.service.state_dir
        outputs = {key: place.path for key, place in claims if place.role == "output"}
        outputs |= {f"models.{name}.path": model.path for name, model in self.models.items()}
        put_away = {f"service.state_dir: its {name}": state / name for name in OWN_FOLDERS}
        for key, inbox in inboxes:
            for other, path in {**outputs, "service.state_dir": state}.items():
                if inside(path, inbox.path):
                    found.append(f"{other}: {path} is in the inbox {inbox.path}; choose a place outside it")
            # An inbox may be beside the journal, but not where files are put away.
            for other, path in {**outputs, **put_away}.items():
                if inside(inbox.path, path) and not inside(path, inbox.path):
                    found.append(f"{key}: {inbox.path} is in {path} ({other}); choose a place outside it")
        for index, (key, inbox) in enumerate(inboxes):
            for other, earlier in inboxes[:index]:
                if inside(inbox.path, earlier.path) or inside(earlier.path, inbox.path):
                    found.append(
                        f"{key}: {inbox.path} and {earlier.path} of {other.rpartition('.')[0]} overlap; each picture "
                        "belongs to one source"
                    )
        paths = [Path(os.path.realpath(place.path)) for sink in self.sinks for place in sink.places()]
        return found + [f"sinks: {path} is used by two sinks; give each its own" for path in _repeated(paths)]

    def _overwrites(self, file: Path) -> Iterator[str]:
        """Places to write to that are, or lie in, what edged itself reads or keeps."""
        claims, state = dict(self._claims()), self.service.state_dir
        outputs = {key: place.path for key, place in claims.items() if place.role == "output"}
        needed = {f"service.state_dir: its {name}": state / name for name in (*OWN_FOLDERS, *_OWN_FILES)}
        needed |= {key: place.path for key, place in claims.items() if place.role == "input"}
        needed |= {key: path for key, path in self._files() if key not in claims}
        needed["the configuration"] = file
        for key, path in {**outputs, "service.state_dir": state}.items():
            for other, theirs in needed.items():
                is_own = key.endswith(".quarantine_dir") and theirs == state / "quarantine"  # which is what it is for
                if inside(path, theirs) and not is_own:
                    yield f"{key}: {path} is, or is in, what edged itself needs ({other}); choose another place"

    def _files(self) -> Iterator[tuple[str, Path]]:
        """Every key that names a file or folder."""
        models = [(f"models.{name}", model) for name, model in self.models.items()]
        tables: list[tuple[str, Table]] = [("http", self.http), *models, *self._named()]
        for name, table in tables:
            yield from ((f"{name}.{key}", value) for key, value in table if isinstance(value, Path))

    def _named(self) -> Iterator[tuple[str, SourceTable | SinkTable]]:
        """Sources and sinks, as the keys below them begin."""
        yield from ((f"sources.{source.name}", source) for source in self.sources)
        yield from ((f"sinks.{sink.name}", sink) for sink in self.sinks)

    def _shared_ports(self) -> list[str]:
        """Ports that two are to listen on, of whom the second would find it taken."""
        sinks = [(f"sinks.{sink.name}.listen", address) for sink in self.sinks if (address := sink.listens())]
        found = []
        for (other, taken), (key, address) in combinations([("http.listen", self.http.listen), *sinks], 2):
            with contextlib.suppress(ConfigError):  # what is no address is reported where it stands
                if same_port(taken, address):
                    found.append(f"{key}: {address} has the port of {other} ({taken}); choose another one")
        return found

    def _echoes(self) -> list[str]:
        """What edged would tell a broker and take from it for pictures, which it would tell again, without an end."""
        sinks = [sink for sink in self.sinks if isinstance(sink, MqttSinkTable)]
        return [
            f"sources.{source.name}.topic: {source.topic} takes what sinks.{sink.name} publishes, for pictures; choose "
            "topics that do not meet"
            for source in self.sources
            if isinstance(source, MqttSourceTable)
            for sink in sinks
            if source.shares_broker(sink)
            and any(takes(source.topic, f"{sink.topic}/{one.name}") for one in self.sources)
        ]

    def _shared_client_ids(self) -> Iterator[str]:
        """Connections to one broker under one name, of which each new one ends the other."""
        clients: list[tuple[str, BrokerKeys, str]] = []
        for key, table in self._named():
            if isinstance(table, BrokerKeys):
                role = "source" if isinstance(table, SourceTable) else "sink"
                clients.append((key, table, table.id_as(role, table.name)))
        for (other, first, taken), (key, second, id_) in combinations(clients, 2):
            if id_ == taken and second.shares_broker(first):
                yield f"{key}.client_id: {id_} is that of {other} at the same broker; choose another one"

    def _claims(self) -> Iterator[tuple[str, Place]]:
        for name, table in self._named():
            yield from ((f"{name}.{place.key}", place) for place in table.places())


def _repeated(items: list[Any]) -> list[Any]:
    return sorted({item for item in items if items.count(item) > 1}, key=str)

"""What the tables of the configuration are made of: their base, the types of their keys, the places that they claim.

`SourceTable` and `SinkTable` hold what is common to every source and every sink; each type adds its own keys beside its
code, and `config` puts the whole together.
"""

import importlib.util
import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from edged.errors import ConfigError

if TYPE_CHECKING:
    import ssl

_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4000
"""Of 4,095 that the system takes, so that there is room for names below."""


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    if "\0" in str(path):
        raise ValueError("must not hold a NUL character")
    if len(os.fsencode(path)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise ValueError(f"must not be longer than {_LONGEST_PATH} bytes, nor a name in it than {_LONGEST_NAME}")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]

NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
Name = Annotated[str, Field(pattern=NAME)]

Pixel = Annotated[int, Field(ge=0, le=100_000)]
Extent = Annotated[int, Field(ge=1, le=100_000)]


class Table(BaseModel):
    """A table of the configuration: unknown keys are errors, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True, slots=True)
class Place:
    """A file or folder that a table claims for itself.

    Attributes:
        key: the key that names it, below the table.
        path: absolute.
        role: pictures come in through it ("inbox"), edged only reads it ("input"), or writes to it ("output").
    """

    key: str
    path: Path
    role: Literal["inbox", "input", "output"]


class SourceTable(Table):
    """What every `[[sources]]` table has."""

    name: Name
    type: str
    model: str
    denoiser: str | None = None

    def places(self) -> list[Place]:
        """What this source reads from and writes to; no two tables may claim places that overlap."""
        return []

    def problems(self) -> list[str]:
        """What is wrong with these keys together and with what they name: `key: what is wrong, what to do`."""
        return []


class SinkTable(Table):
    """What every `[[sinks]]` table has.

    Attributes:
        timeout_seconds: what a sink may take for a try, and for the last one when edged stops.
        max_backlog: records that may wait for this sink; beyond that the oldest are dropped for it, and counted.
        only: which results it is given.
        min_score: it is given none that score less, nor those without a score.
        rate_limit: how many it is given in any minute at most.
    """

    name: Name
    type: str
    timeout_seconds: float = Field(default=10.0, ge=0.1, le=600)
    max_backlog: int = Field(default=1_000_000, ge=1, le=1_000_000_000)
    only: Literal["anomalies", "all"] = "all"
    min_score: float | None = Field(default=None, ge=0)
    rate_limit: int | None = Field(default=None, ge=1, le=100_000)

    def places(self) -> list[Place]:
        """What this sink writes to; see `SourceTable.places`."""
        return []

    def listens(self) -> str | None:
        """The `ADDRESS:PORT` that its key `listen` names; None for a sink that listens nowhere."""
        return None

    def problems(self) -> list[str]:
        """See `SourceTable.problems`."""
        return []


class ModelTable(Table):
    """One `[models.NAME]`: a bundle, what runs it, and its threshold."""

    path: AbsolutePath
    device: Literal["auto", "cpu", "cuda"] = "auto"
    target_fpr: float | None = Field(default=None, gt=0, lt=1)
    threshold: float | None = Field(default=None, gt=0)
    threads: int = Field(default=0, ge=0, le=1024)
    self_test_seconds: float | None = Field(default=None, ge=0.1, le=86_400)


class RetentionTable(Table):
    """How long, and how much, of results, of pictures of results, and of what is in quarantine is kept.

    Without a number of days, age removes nothing.
    """

    results_days: float = Field(default=90, gt=0, le=36_500)
    results_max_bytes: int = Field(default=10_000_000_000, ge=1_000_000)
    quarantine_days: float | None = Field(default=None, gt=0, le=36_500)
    quarantine_max_bytes: int = Field(default=10_000_000_000, ge=0)
    images_days: float = Field(default=90, gt=0, le=36_500)
    images_max_bytes: int = Field(default=2_000_000_000, ge=0)


class Login(Table):
    """Who somebody is to somebody else: a name, and a file with its password."""

    user: str | None = Field(default=None, min_length=1)
    password_file: AbsolutePath | None = None

    def password(self) -> str | None:
        """What `password_file` holds; None when there is none.

        Raises:
            ConfigError: the file cannot be used.
        """
        return None if self.password_file is None else read_secret("password_file", self.password_file)


def read_secret(key: str, path: Path) -> str:
    """The word that a file holds, such as a token or a key; it is never shown.

    Args:
        key: that names the file, for the message.
        path: of the file.

    Raises:
        ConfigError: the file cannot be used.
    """
    try:
        secret = path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "other bytes than ASCII are in it"
        raise ConfigError([f"{key}: {path} cannot be read as ASCII text: {why}"]) from error
    if not secret:
        raise ConfigError([f"{key}: {path} is empty; put a long random word into it"])
    return secret


def address_of(key: str, listen: str, *, example: int) -> tuple[str, int, bool]:
    """Host and port of an `ADDRESS:PORT` to listen on, and whether only this machine reaches it.

    Args:
        key: that holds it, for the message.
        listen: the text.
        example: a port for the message.

    Raises:
        ConfigError: it is none.
    """
    host, _, port = listen.rpartition(":")
    try:
        loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        loopback = host == "localhost"
        if not loopback:
            raise ConfigError(
                [f'{key}: {listen!r} is no address; write it as "127.0.0.1:{example}" or "[::1]:{example}"']
            ) from None
    if not port.isdecimal() or len(port) > 5 or not 0 <= int(port) <= 65535:
        raise ConfigError([f"{key}: {port[:20]!r} is no port; take one from 1 to 65535 (0 lets the system choose)"])
    return host.strip("[]"), int(port), loopback


def same_port(one: str, other: str) -> bool:
    """Whether two of `address_of` cannot be listened on at the same time; port 0 is another one each time.

    Raises:
        ConfigError: one of them is no address.
    """
    (first, port, _), (second, other_port, _) = (address_of("listen", text, example=9108) for text in (one, other))
    if port != other_port or port == 0:
        return False
    pairs = ((mine, its) for mine in _addresses(first) for its in _addresses(second) if mine.version == its.version)
    return any(mine == its or mine.is_unspecified or its.is_unspecified for mine, its in pairs)


def _addresses(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    return [ipaddress.ip_address(one) for one in (("127.0.0.1", "::1") if host == "localhost" else (host,))]


def load_certificate(context: "ssl.SSLContext", key: str, certificate: Path, private_key: Path | None) -> None:
    """Has a context show a certificate.

    Args:
        context: of one end of a connection.
        key: that names the certificate, for the message.
        certificate: in PEM.
        private_key: in PEM.

    Raises:
        ConfigError: they cannot be used.
    """
    try:
        context.load_cert_chain(certificate, private_key, password="")  # else a key with a passphrase has us ask for it
    except OSError as error:
        raise ConfigError(
            [
                f"{key}: {certificate} and {private_key} cannot be used: {error}; give a certificate and its own key, "
                "both as PEM and the key without a passphrase"
            ]
        ) from error


def missing(module: str, extra: str, what: str = "type") -> list[str]:
    """What is wrong with `what` where the library that it takes is not installed."""
    if importlib.util.find_spec(module) is not None:
        return []
    return [f'{what}: needs the package {module}, which is not installed: pip install "edged[{extra}]"']


def denied(path: Path) -> str | None:
    """What the system says where it does not let this user see what stands at a path."""
    try:
        path.stat()
    except PermissionError as error:
        return error.strerror
    except OSError:
        pass
    return None


def inside(path: Path, folder: Path) -> bool:
    """Whether `path` is `folder` or below it, links followed."""
    real, parent = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return real == parent or parent in real.parents

"""TOML and environment -> a validated configuration; every problem is reported at once."""

import difflib
import ipaddress
import os
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from edged.errors import ConfigError
from edged.files import is_network
from edged.media.imaging import PATTERNS

ENVIRONMENT_PREFIX: Final = "EDGED_"

OWN_FOLDERS: Final = ("quarantine", "requeue", ".edged")
"""Of `state_dir`: where files and requests are put away."""

_LONGEST_NAME: Final = 255
_LONGEST_PATH: Final = 4000
"""Of 4,095 that the system takes, so that there is room for names below."""

_TABLES: Final = ("service", "http", "models", "limits", "retention")


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path")
    if "\0" in str(path):
        raise ValueError("must not hold a NUL character")
    if len(os.fsencode(path)) > _LONGEST_PATH or any(len(os.fsencode(part)) > _LONGEST_NAME for part in path.parts):
        raise ValueError(f"must not be longer than {_LONGEST_PATH} bytes, nor a name in it than {_LONGEST_NAME}")
    return path


AbsolutePath = Annotated[Path, AfterValidator(_absolute)]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Service(_Table):
    """Where the daemon keeps its state, and how it logs."""

    state_dir: AbsolutePath
    log_format: Literal["auto", "console", "json"] = "auto"


class Http(_Table):
    """Where metrics and health are served."""

    listen: str = "127.0.0.1:9108"
    token_file: AbsolutePath | None = None
    tls_cert: AbsolutePath | None = None
    tls_key: AbsolutePath | None = None
    tls_client_ca: AbsolutePath | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of `listen`."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)

    def token(self) -> str | None:
        """The bearer token that `token_file` holds; None when there is none.

        Raises:
            ConfigError: the file cannot be used.
        """
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError([f"http.token_file: {self.token_file} cannot be read as ASCII text: {error}"]) from error
        if not token:
            raise ConfigError([f"http.token_file: {self.token_file} is empty; put a long random token into it"])
        return token

    def problems(self) -> list[str]:
        """What is wrong with these keys together."""
        host, _, port = self.listen.rpartition(":")
        try:
            loopback = ipaddress.ip_address(host.strip("[]")).is_loopback
        except ValueError:
            loopback = host == "localhost"
            if not loopback:
                return [f'http.listen: {self.listen!r} is no address; write it as "127.0.0.1:9108" or "[::1]:9108"']
        if not port.isdecimal() or len(port) > 5 or not 0 <= int(port) <= 65535:
            return [f"http.listen: {port[:20]!r} is no port; take one from 1 to 65535 (0 lets the system choose)"]
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

        context, found = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
        try:
            context.load_cert_chain(self.tls_cert, self.tls_key, password="")  # else a key with one is asked for
        except OSError as error:
            found.append(
                f"http.tls_cert: {self.tls_cert} and {self.tls_key} cannot be used: {error}; give a certificate and "
                "its own key, both as PEM and the key without a passphrase"
            )
        if self.tls_client_ca is not None:
            try:
                context.load_verify_locations(self.tls_client_ca)
            except OSError as error:
                found.append(f"http.tls_client_ca: {self.tls_client_ca} holds no certificate as PEM: {error}")
        return found


class Model(_Table):
    """One model bundle and its threshold."""

    path: AbsolutePath
    device: Literal["auto", "cpu", "cuda"] = "auto"
    target_fpr: float | None = Field(default=None, gt=0, lt=1)
    threshold: float | None = Field(default=None, gt=0)
    threads: int = Field(default=0, ge=0, le=1024)
    canary_seconds: float | None = Field(default=None, ge=0.1, le=86_400)


class DecodeLimits(_Table):
    """What is refused before it can cost much."""

    max_bytes: int = Field(default=100_000_000, ge=1, le=2_000_000_000)
    max_pixels: int = Field(default=100_000_000, ge=1, le=2_000_000_000)
    decode_seconds: float = Field(default=20.0, gt=0, le=3600)


class Source(_Table):
    """One watched folder."""

    name: Name
    type: Literal["folder"]
    path: AbsolutePath
    patterns: tuple[str, ...] = Field(default=PATTERNS, min_length=1)
    recursive: bool = True
    settle_seconds: float = Field(default=2.0, ge=0, le=3600)
    retry_seconds: float = Field(default=30.0, ge=0, le=86_400)
    rescan_seconds: float = Field(default=60.0, ge=0.1, le=86_400)
    after: Literal["keep", "move", "delete"] = "keep"
    done_dir: AbsolutePath | None = None
    quarantine_dir: AbsolutePath | None = None
    model: str
    denoiser: str | None = None

    def problems(self, config: "Config") -> list[str]:
        """What is wrong with these keys together, and with the rest of the configuration."""
        where, found = f"sources.{self.name}", []
        if self.model not in config.models:
            found.append(f"{where}.model: there is no [models.{self.model}]; {_known('models', config.models)}")
        if self.denoiser is not None and self.denoiser not in config.models:
            found.append(f"{where}.denoiser: there is no [models.{self.denoiser}]; {_known('models', config.models)}")
        if self.after == "move" and self.done_dir is None:
            found.append(f'{where}.done_dir: after = "move" needs a folder to move to; set done_dir')
        if denied := _denied(self.path):
            found.append(f"{where}.path: {self.path} cannot be read by this user ({denied}); change its owner or mode")
        elif not os.path.isdir(self.path):
            found.append(f"{where}.path: {self.path} is not a folder; create it, or correct the path")
        elif not os.access(self.path, os.R_OK | os.X_OK):
            found.append(f"{where}.path: {self.path} cannot be read by this user; change its owner or mode")
        elif self.after != "keep" and not os.access(self.path, os.W_OK):
            found.append(
                f'{where}.after: "{self.after}" takes write permission on {self.path}; grant it, or use "keep"'
            )
        folders: dict[str, Path | None] = {}
        for other in config.sources:
            folders[f"sources.{other.name}.done_dir"] = other.done_dir
            folders[f"sources.{other.name}.quarantine_dir"] = other.quarantine_dir
        folders |= {"service.state_dir": config.service.state_dir}
        folders |= {f"models.{name}.path": model.path for name, model in config.models.items()}
        folders |= {f"sinks.{sink.name}.{sink.place}": getattr(sink, sink.place) for sink in config.sinks}
        for key, folder in folders.items():
            if folder is not None and _inside(folder, self.path):
                found.append(f"{key}: {folder} is in the inbox {self.path}; choose a place outside it")
        del folders["service.state_dir"]  # an inbox may be beside the journal, but not where files are put away
        folders |= {f"service.state_dir: its {name}": config.service.state_dir / name for name in OWN_FOLDERS}
        for key, folder in folders.items():
            if folder is not None and _inside(self.path, folder) and not _inside(folder, self.path):
                found.append(f"{where}.path: {self.path} is in {folder} ({key}); choose a place outside it")
        return found


class JsonlSink(_Table):
    """Appends every result to a file, one JSON object a line."""

    name: Name
    type: Literal["jsonl"]
    path: AbsolutePath

    @property
    def place(self) -> str:
        """The key that says where it writes."""
        return "path"

    def problems(self) -> list[str]:
        """What is wrong with what is there already."""
        if os.path.lexists(self.path) and not os.path.isfile(self.path):
            return [f"sinks.{self.name}.path: {self.path} is not a file; choose another path"]
        return []


class ImagesSink(_Table):
    """Writes heat-map overlays."""

    name: Name
    type: Literal["images"]
    dir: AbsolutePath
    only: Literal["anomalies", "all"] = "anomalies"

    @property
    def place(self) -> str:
        """The key that says where it writes."""
        return "dir"

    def problems(self) -> list[str]:
        """What is wrong with what is there already."""
        if os.path.lexists(self.dir) and not os.path.isdir(self.dir):
            return [f"sinks.{self.name}.dir: {self.dir} is not a folder; choose another path"]
        return []


Sink = Annotated[JsonlSink | ImagesSink, Field(discriminator="type")]


class Retention(_Table):
    """How long, and how much, of results, of pictures of results, and of what is in quarantine is kept."""

    results_days: float = Field(default=90, gt=0, le=36_500)
    results_max_bytes: int = Field(default=10_000_000_000, ge=1_000_000)
    quarantine_days: float | None = Field(default=None, gt=0, le=36_500)
    quarantine_max_bytes: int = Field(default=10_000_000_000, ge=0)
    images_days: float = Field(default=90, gt=0, le=36_500)
    images_max_bytes: int = Field(default=2_000_000_000, ge=0)


class Config(_Table):
    """The whole configuration."""

    service: Service
    http: Http = Http()
    models: dict[Name, Model] = Field(min_length=1)
    limits: DecodeLimits = DecodeLimits()
    sources: tuple[Source, ...] = Field(min_length=1)
    sinks: tuple[Sink, ...] = ()
    retention: Retention = Retention()

    def problems(self) -> list[str]:
        """What is wrong with keys together, and with the folders that they name."""
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
            found += source.problems(self)
        for index, source in enumerate(self.sources):
            for other in self.sources[:index]:
                if _inside(source.path, other.path) or _inside(other.path, source.path):
                    found.append(
                        f"sources.{source.name}.path: {source.path} and {other.path} of sources.{other.name} overlap; "
                        "each picture belongs to one source"
                    )
        paths = [Path(os.path.realpath(getattr(sink, sink.place))) for sink in self.sinks]
        found += [f"sinks: {path} is used by two sinks; give each its own" for path in _repeated(paths)]
        for sink in self.sinks:
            found += sink.problems()
        return found


def load(path: Path, environment: Mapping[str, str] = os.environ) -> Config:
    """Reads, completes and validates a configuration.

    Args:
        path: of the TOML file.
        environment: `EDGED_SECTION__KEY=value` sets a scalar key of a table.

    Raises:
        ConfigError: with every problem that was found.
    """
    config, problems = examine(path, environment)
    if problems or config is None:
        raise ConfigError(problems)
    return config


def examine(path: Path, environment: Mapping[str, str] = os.environ) -> tuple[Config | None, list[str]]:
    """`load` for those who want to go on in spite of problems.

    Returns:
        What could be made of the configuration, if anything, and every problem that was found.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    tables = _read(path)
    problems = _overlay(tables, environment)
    try:
        config = Config.model_validate(tables)
    except ValidationError as error:
        # A list whose items are wrong is reported as too short as well.
        wrong = [
            item
            for item in error.errors()
            if not (item["type"] == "too_short" and len(item["loc"]) == 1 and tables.get(str(item["loc"][0])))
        ]
        problems += [_explain(item, tables) for item in wrong]
        try:  # without the keys that are wrong, so that what is wrong beside them is reported in the same run
            config = Config.model_validate(_without(tables, [item["loc"] for item in wrong]))
        except ValidationError:
            return None, problems
    return config, problems + config.problems()


def load_service(path: Path, environment: Mapping[str, str] = os.environ) -> Service:
    """Only `[service]`: what reads a journal must not need the folders and bundles of the rest.

    Raises:
        ConfigError: the file or the table is wrong.
    """
    tables = _read(path)
    problems = _overlay(tables, environment)
    try:
        return Service.model_validate(tables.get("service", {}))
    except ValidationError as error:
        located = ({**item, "loc": ("service", *item["loc"])} for item in error.errors())
        raise ConfigError(problems + [_explain(item, tables) for item in located]) from error


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}; give the file with -c"]) from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, and tables as deep, are no TOML
        raise ConfigError([f"{path}: is not TOML: {error}"]) from error


def _overlay(tables: dict[str, Any], environment: Mapping[str, str]) -> list[str]:
    """Puts `EDGED_SECTION__KEY` of the environment into `tables`; returns what is wrong with them."""
    problems = []
    for variable, value in sorted(environment.items()):
        section, *keys = variable.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        if not variable.startswith(ENVIRONMENT_PREFIX) or not keys:
            continue
        if section not in _TABLES or len(keys) != (2 if section == "models" else 1):
            problems.append(
                f"{variable}: is no key; it is EDGED_SECTION__KEY with SECTION one of {', '.join(_TABLES)} "
                "(EDGED_MODELS__NAME__KEY)"
            )
            continue
        table = tables.setdefault(section, {})
        if section == "models" and isinstance(table, dict):
            name = next((name for name in table if name.lower().replace("-", "_") == keys[0]), keys[0])
            table = table.setdefault(name, {})
        if isinstance(table, dict):
            table[keys[-1]] = value
    return problems


def _without(tables: dict[str, Any], locations: Sequence[tuple[int | str, ...]]) -> dict[str, Any]:
    """A copy of `tables` without the keys at these places."""
    copy = deepcopy(tables)
    for location in locations:
        table: Any = copy
        for part in location[:-1]:
            table = table[part] if _has(table, part) else table  # pydantic puts a sink's type in between
        if isinstance(table, dict):
            table.pop(location[-1], None)
    return copy


def _explain(item: Any, tables: dict[str, Any]) -> str:
    parts: list[str] = []
    table: Any = tables
    for part in item["loc"]:
        if isinstance(part, str) and isinstance(table, dict) and part not in table and part in {"jsonl", "images"}:
            continue  # the type of the sink, which pydantic puts in between
        table = table[part] if _has(table, part) else None
        named = isinstance(part, int) and isinstance(table, dict) and isinstance(table.get("name"), str)
        parts.append(table["name"] if named else str(part))
    where = ".".join(parts)
    if item["type"] == "extra_forbidden":
        return f"{where}: unknown key{_suggest(parts)}"
    if item["type"] == "missing":
        return f"{where}: is required; add it"
    if item["type"] == "too_short" and len(item["loc"]) == 1:
        return f"{where}: there is none; add {'a [models.NAME] table' if where == 'models' else f'a [[{where}]] table'}"
    if item["type"] == "union_tag_not_found":
        return f'{where}.type: is required; "jsonl" or "images"'
    if item["type"] == "union_tag_invalid":
        return f'{where}.type: there is no sink type {item["ctx"]["tag"]!r}; "jsonl" or "images"'
    message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if item["type"] == "string_pattern_mismatch":
        message = "is letters, digits, _ and -, at most 64, and begins with a letter or digit"
    given = item["input"]
    return f"{where}: {message}" + (f", not {given!r}" if isinstance(given, str | int | float) else "")


def _has(table: Any, part: Any) -> bool:
    return (isinstance(table, dict) and part in table) or (
        isinstance(table, list) and isinstance(part, int) and part < len(table)
    )


def _suggest(parts: list[str]) -> str:
    models: dict[str, tuple[type[BaseModel], ...]] = {
        "service": (Service,),
        "http": (Http,),
        "models": (Model,),
        "limits": (DecodeLimits,),
        "sources": (Source,),
        "sinks": (JsonlSink, ImagesSink),
        "retention": (Retention,),
    }
    tables = models.get(parts[0], ()) if len(parts) > 1 else (Config,)
    keys = sorted({key for table in tables for key in table.model_fields})
    close = difflib.get_close_matches(parts[-1], keys, n=1)
    return f"; did you mean {close[0]}?" if close else f"; remove it (known here: {', '.join(keys)})"


def _known(what: str, names: Mapping[str, object]) -> str:
    return f"{what}: {', '.join(names)}" if names else f"there are no {what}"


def _repeated(items: list[Any]) -> list[Any]:
    return sorted({item for item in items if items.count(item) > 1}, key=str)


def _denied(path: Path) -> str | None:
    """What the system says where it does not let this user see what stands at a path."""
    try:
        path.stat()
    except PermissionError as error:
        return error.strerror
    except OSError:
        pass
    return None


def _inside(path: Path, folder: Path) -> bool:
    real, parent = Path(os.path.realpath(path)), Path(os.path.realpath(folder))
    return real == parent or parent in real.parents

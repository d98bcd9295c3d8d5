"""TOML and environment -> a validated configuration; every problem is reported at once."""

import contextlib
import difflib
import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, Union

import structlog
from pydantic import Field, ValidationError, create_model
from pydantic_core import from_json

from edged.config.tables import Config, HttpTable, ServiceTable
from edged.errors import ConfigError
from edged.media.imaging import Limits
from edged.settings import NAME, ModelTable, RetentionTable, SourceTable, Table
from edged.sinks import SINKS
from edged.sources import SOURCES

_Table = TypeVar("_Table", bound=Table)

ENVIRONMENT_PREFIX: Final = "EDGED_"

_TABLES: Final = ("service", "http", "models", "limits", "retention")
_OLD_KEYS: Final = {"canary_seconds": "self_test_seconds"}


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
    tables, model = _read(path), _model()
    problems = _overlay(tables, environment)
    _rename_old_keys(tables)
    try:
        config = _validate(model, tables)
    except ValidationError as error:
        # A list whose items are wrong is reported as too short as well.
        wrong = [
            item
            for item in error.errors()
            if not (item["type"] == "too_short" and len(item["loc"]) == 1 and tables.get(str(item["loc"][0])))
        ]
        problems += [_explain(item, tables) for item in wrong]
        try:  # without the keys that are wrong, so that what is wrong beside them is reported in the same run
            config = _validate(model, _without(tables, [item["loc"] for item in wrong]))
        except ValidationError:
            return None, problems
    return config, problems + config.problems(path)


def load_service(path: Path, environment: Mapping[str, str] = os.environ) -> ServiceTable:
    """Only `[service]`: what reads a journal must not need the folders and bundles of the rest.

    Raises:
        ConfigError: the file or the table is wrong.
    """
    return _load_one(path, environment, "service", ServiceTable)


def load_http(path: Path, environment: Mapping[str, str] = os.environ) -> HttpTable:
    """Only `[http]`, for those who ask a running daemon.

    Raises:
        ConfigError: the file or the table is wrong.
    """
    return _load_one(path, environment, "http", HttpTable)


def load_sources(path: Path) -> dict[str, SourceTable]:
    """The sources by their names, without those whose tables are wrong: for those who only look at results.

    Raises:
        ConfigError: the file cannot be read or is not TOML.
    """
    found = {}
    for table in _read(path).get("sources", ()):
        with contextlib.suppress(KeyError, TypeError, ValidationError):
            source = _validate(SOURCES[table["type"]].table, table)
            found[source.name] = source
    return found


def _load_one(path: Path, environment: Mapping[str, str], name: str, model: type[_Table]) -> _Table:
    tables = _read(path)
    problems = _overlay(tables, environment)
    try:
        return _validate(model, tables.get(name, {}))
    except ValidationError as error:
        located = ({**item, "loc": (name, *item["loc"])} for item in error.errors())
        raise ConfigError(problems + [_explain(item, tables) for item in located]) from error


def _validate(model: type[_Table], table: Any) -> _Table:
    """The table, of which no text is taken for a number, nor a number for another type: as JSON, whose types TOML has.

    Raises:
        ValidationError: it is wrong.
    """
    return model.model_validate_json(_as_json(table), strict=True)


def _as_json(table: Any) -> str:
    return json.dumps(table, default=lambda _: [None])  # a date, which JSON has not, is no value of any key


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            tables = tomllib.load(file)
        from_json(_as_json(tables))  # which tables of hundreds of levels are not
        return tables
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
            table[keys[-1]] = _typed(value)
    return problems


def _typed(text: str) -> str | float:
    """What stands in the environment: a number, or true or false, where it is one in TOML; else text."""
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return {"true": True, "false": False}.get(text, text)


def _rename_old_keys(tables: dict[str, Any]) -> None:
    """Keys that had another name are taken for a release, with a warning."""
    models = tables.get("models")
    for name, table in models.items() if isinstance(models, dict) else ():
        for old, new in _OLD_KEYS.items():
            if isinstance(table, dict) and old in table and new not in table:
                structlog.get_logger().warning(f"models.{name}.{old} is called {new} now; rename it")
                table[new] = table.pop(old)


def _model() -> type[Config]:
    """`Config` with the tables of every type of source and sink that there is."""
    sources = _one_of([kind.table for kind in SOURCES.values()])
    sinks = _one_of([kind.table for kind in SINKS.values()])
    return create_model(
        "Config",
        __base__=Config,
        sources=(tuple[sources, ...], Field(min_length=1)),  # type: ignore[valid-type]
        sinks=(tuple[sinks, ...], ()),  # type: ignore[valid-type]
    )


def _one_of(tables: Sequence[type[Table]]) -> Any:
    """The table whose `type` is given; of one alone no choice can be made, nor need be."""
    if len(tables) == 1:
        return tables[0]
    return Annotated[Union[tuple(tables)], Field(discriminator="type")]  # noqa: UP007 -- a list that is not written out


def _without(tables: dict[str, Any], locations: Sequence[tuple[int | str, ...]]) -> dict[str, Any]:
    """A copy of `tables` without the keys at these places."""
    copy = deepcopy(tables)
    for location in locations:
        table: Any = copy
        for part in location[:-1]:
            table = table[part] if _has(table, part) else table  # pydantic puts the type of a source or sink in between
        if isinstance(table, dict):
            table.pop(location[-1], None)
    return copy


def _explain(item: Any, tables: dict[str, Any]) -> str:
    parts: list[str] = []
    table: Any = tables
    for part in item["loc"]:
        if isinstance(part, str) and isinstance(table, dict) and part not in table and part in SOURCES | SINKS:
            continue  # the type of a source or sink, which pydantic puts in between
        table = table[part] if _has(table, part) else None
        named = isinstance(part, int) and isinstance(table, dict) and isinstance(table.get("name"), str)
        parts.append(table["name"] if named else str(part))
    where = ".".join(parts)
    if item["type"] in {"extra_forbidden", "unexpected_keyword_argument"}:
        kind = next((part for part in item["loc"][2:3] if part in SOURCES | SINKS), None)
        return f"{where}: unknown key{_suggest(parts, kind)}"
    if item["type"] == "missing":
        return f"{where}: is required; add it"
    if item["type"] == "too_short" and len(item["loc"]) == 1:
        return f"{where}: there is none; add {'a [models.NAME] table' if where == 'models' else f'a [[{where}]] table'}"
    if item["type"] == "union_tag_not_found":
        return f"{where}.type: is required; {_types(parts[0])}"
    if item["type"] == "union_tag_invalid":
        kind = parts[0].removesuffix("s")
        return f"{where}.type: there is no {kind} type {item['ctx']['tag']!r}; {_types(parts[0])}"
    message = item["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if item["type"] == "string_pattern_mismatch" and item["ctx"]["pattern"] == NAME:
        message = "is letters, digits, _ and -, at most 64, and begins with a letter or digit"
    given = item["input"]
    return f"{where}: {message}" + (f", not {given!r}" if isinstance(given, str | int | float) else "")


def _has(table: Any, part: Any) -> bool:
    return (isinstance(table, dict) and part in table) or (
        isinstance(table, list) and isinstance(part, int) and part < len(table)
    )


def _suggest(parts: list[str], kind: str | None) -> str:
    """What to do about an unknown key; `kind` is the type of its source or sink."""
    types: dict[str, Mapping[str, Any]] = {"sources": SOURCES, "sinks": SINKS}
    kinds: dict[str, type[Table]] = {name: one.table for name, one in types.get(parts[0], {}).items()}
    tables: dict[str, Any] = {
        "service": ServiceTable,
        "http": HttpTable,
        "models": ModelTable,
        "limits": Limits,
        "retention": RetentionTable,
        **({parts[0]: kinds[kind]} if kind in kinds else {}),
    }
    table = tables.get(parts[0]) if len(parts) > 1 else Config
    keys = sorted(getattr(table, "model_fields", None) or _fields_of(table)) if table else []
    others = [f'"{name}"' for name, other in kinds.items() if parts[-1] in other.model_fields]
    if others:
        return f"; remove it (only {parts[0]} of type {' and '.join(others)} have it)"
    close = difflib.get_close_matches(parts[-1], keys, n=1)
    return f"; did you mean {close[0]}?" if close else f"; remove it (known here: {', '.join(keys)})"


def _types(what: str) -> str:
    return ", ".join(f'"{name}"' for name in (SOURCES if what == "sources" else SINKS))


def _fields_of(dataclass: Any) -> list[str]:
    return [field.name for field in fields(dataclass)]

"""Hyper-parameters in words: what `--help` says of each, and what is wrong with a value."""

import difflib
import inspect
import json
from types import UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from train.config.base import PIXELS, ModelConfig
from train.config.signal import SignalConfig

_MOST_SHOWN: Final = 200
_INDENT: Final = " " * 20
_WORDS: Final[dict[Any, str]] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
}


def help_lines(kind: type[ModelConfig | SignalConfig]) -> list[str]:
    """Two lines a hyper-parameter: what it is; its default and what it may be."""
    defaults = kind()
    pixels = kind(backbone=PIXELS) if issubclass(kind, ModelConfig) else defaults
    lines = []
    # What makes the kind special first, and what it shares with others after it.
    for key in dict.fromkeys(key for one in kind.__mro__ for key in inspect.get_annotations(one)):
        if (field := kind.model_fields.get(key)) is None:
            continue
        default, other = (_written(getattr(config, key)) for config in (defaults, pixels))
        value = default if default == other or key == "backbone" else f"{default}, or {other} for pixels"
        lines += [f"  {key:17} {field.description}", f"{_INDENT}default {value}; {allowed(field)}"]
    return lines


def allowed(field: FieldInfo) -> str:
    """What a hyper-parameter may be, in words: `1 to 4096`, `"conv" or "dense"`."""
    return _allowed(field.annotation, field.metadata)


def explain(
    item: Any,
    kind: type[ModelConfig | SignalConfig],
    *,
    file: str | None = None,
    other: type[ModelConfig | SignalConfig] | None = None,
) -> list[str]:
    """One of pydantic's errors as lines for a person, each beginning with the key.

    Args:
        item: of `ValidationError.errors()`.
        kind: that was validated.
        file: where the key stands, when that is no `--set`.
        other: what takes the other `input`; a key of its own is told as such.
    """
    if item["type"] == "default_factory_not_called":  # it depends on a key that has its own line
        return []
    if not item["loc"]:
        return str(item["ctx"]["error"]).splitlines()
    key, known = str(item["loc"][0]), kind.model_fields
    where = key if file is None else f"{file}: {key}"
    if item["type"] == "extra_forbidden":
        if other is not None and key in other.model_fields:
            theirs, ours = (json.dumps(config.model_fields["input"].default) for config in (other, kind))
            return [f"{where}: is for input = {theirs}, and this is input = {ours}"]
        near = difflib.get_close_matches(key, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"the keys are {', '.join(sorted(known))}"
        return [f"{where}: there is no such key; {hint}"]
    annotation = known[key].annotation
    several = any(get_origin(one) is tuple for one in (annotation, *get_args(annotation)))
    meaning = f" ({known[key].description})" if several else ""
    return [f"{where}: must be {allowed(known[key])}, not {_shortened(repr(item['input']))}{meaning}"]


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_SHOWN else text[:_MOST_SHOWN] + "..."


def _allowed(annotation: Any, metadata: list[Any]) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        *others, last = (json.dumps(value) for value in arguments)
        return f"{', '.join(others)} or {last}" if others else last
    if origin is tuple and arguments[-1] is Ellipsis:
        longest = _bound(metadata, "max_length")
        return f"a list{'' if longest is None else f' of up to {longest}'}, each {_allowed(arguments[0], [])}"
    if origin is tuple:
        return f"{len(arguments)} numbers, each {_allowed(arguments[0], [])}"
    if hasattr(annotation, "__metadata__"):  # Annotated
        nested = [item for info in annotation.__metadata__ for item in getattr(info, "metadata", [info])]
        return _allowed(annotation.__origin__, nested)
    if origin in {Union, UnionType}:
        # None is a default that nobody can write: TOML has no null.
        return " or ".join(_allowed(argument, metadata) for argument in arguments if argument is not type(None))
    return _WORDS.get(annotation, str(annotation)) + _range(metadata)


def _range(metadata: list[Any]) -> str:
    least, above, most, below, longest = (_bound(metadata, name) for name in ("ge", "gt", "le", "lt", "max_length"))
    if longest is not None:
        return f" of up to {longest} characters"
    low = f" from {_plain(least)}" if least is not None else f" above {_plain(above)}" if above is not None else ""
    high = f" to {_plain(most)}" if most is not None else f" below {_plain(below)}" if below is not None else ""
    if above is not None and most is not None:
        high = f" up{high}"
    return low + (" and" if low and below is not None else "") + high


def _bound(metadata: list[Any], name: str) -> Any:
    return next((getattr(item, name) for item in metadata if hasattr(item, name)), None)


def _plain(value: float) -> str:
    return f"{value:.0f}" if value == int(value) else f"{value:.3g}"


def _written(value: Any) -> str:
    return "none" if value is None else json.dumps(value)

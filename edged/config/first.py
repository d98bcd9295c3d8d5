"""A first configuration, for one model and one folder: a file that `edged check` accepts, to go on from."""

import json
import os
import tempfile
from pathlib import Path
from typing import Final

from edged.config import loading
from edged.config.tables import Config
from edged.errors import ConfigError, RefusedError
from edged.files import sync

_TEMPLATE: Final = """\
# Written by `edged init`. Every key, with what it does: docs/configuration.md; what is in force: edged check -c FILE.

[service]
# The journal: every result, and what is done. On a local disk.
state_dir = {state}

[http]
# The page, the API, /metrics, /healthz and /readyz.
listen = "127.0.0.1:{port}"

[models.{model_name}]
path = {model}
# The share of good parts that may be flagged: 0.01 is one in a hundred. In place of this: threshold = 3.2
#target_fpr = 0.01

[[sources]]
name = {name}
type = "folder"
path = {inbox}
model = {quoted_model_name}
# A picture goes here once its result is durable. Or after = "keep", "delete".
after = "move"
done_dir = {done}

[[sinks]]
name = "results"
type = "jsonl"
path = {results}

[[sinks]]
# A picture and its heat map, of anomalies.
name = "heatmaps"
type = "images"
dir = {heatmaps}
"""


def write(out: Path, *, model: Path, model_name: str, inbox: Path, state: Path, name: str, port: int) -> Config:
    """Writes a first configuration, and makes the folders that it names.

    Args:
        out: a file that does not exist yet.
        model: a bundle.
        model_name: the bundle's name in the configuration.
        inbox: the folder to watch; what is scored moves to a folder beside it, `INBOX-done`.
        state: for the journal, the results and the heat maps.
        name: of the source.
        port: of the metrics, on loopback.

    Returns:
        What was written, checked.

    Raises:
        RefusedError: `out` exists.
        ConfigError: what was asked for makes no configuration.
        OSError: a folder cannot be made, or the file not be written.
    """
    if os.path.lexists(out):
        raise RefusedError(
            f"{out} exists and is left as it is; name another file, or edit it and: edged check -c {out}"
        )
    model, inbox, state = (path.absolute() for path in (model, inbox, state))
    done = inbox.with_name(f"{inbox.name}-done")
    text = _TEMPLATE.format(
        state=_quoted(state),
        port=port,
        model_name=model_name,
        quoted_model_name=json.dumps(model_name),
        model=_quoted(model),
        name=json.dumps(name),
        inbox=_quoted(inbox),
        done=_quoted(done),
        results=_quoted(state / "results.jsonl"),
        heatmaps=_quoted(state / "heatmaps"),
    )
    for folder in (inbox, done, state):
        folder.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        config, problems = loading.examine(Path(part), environment={})
        if problems or config is None:
            raise ConfigError(problems)
        try:
            os.link(part, out)  # never over a file that has come meanwhile
        except FileExistsError:
            raise RefusedError(f"{out} exists and is left as it is; name another file") from None
    finally:
        os.unlink(part)
    sync(out.parent)
    return config


def _quoted(path: Path) -> str:
    """As a string of TOML, which takes JSON's escapes but no half of a character.

    Raises:
        ConfigError: the name is not UTF-8.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            [f"{os.fsencode(path)!r}: the name is not UTF-8, and a configuration must be; rename it"]
        ) from None
    return json.dumps(str(path), ensure_ascii=False).replace("\x7f", "\\u007f")

"""The Containerfile says nothing that this checkout does not have."""

import json
import re
import shlex
from pathlib import Path

import pytest
from typer.main import get_command

from edged.cli import app

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "Containerfile").read_text().replace("\\\n", " ")


def arguments(instruction: str) -> list[str]:
    """Of every line that begins so."""
    return re.findall(rf"^{instruction} (.*)$", TEXT, flags=re.MULTILINE)


def test_what_it_copies_is_there() -> None:
    copied = [name for line in arguments("COPY") if "--from" not in line for name in shlex.split(line)[:-1]]
    assert {"edged", "pyproject.toml"} <= set(copied)
    assert [name for name in copied if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("instruction", ["CMD", "HEALTHCHECK"])
def test_what_it_runs_is_a_command(instruction: str) -> None:
    (line,) = arguments(instruction)
    words = json.loads(line[line.index("[") :])
    name, *options = words[1:] if words[0] == "edged" else words
    command = get_command(app).commands[name]  # type: ignore[attr-defined]
    assert command.make_context(name, options, resilient_parsing=True).params["config"] == Path("/etc/edged/edged.toml")


def test_it_runs_as_nobody_of_importance() -> None:
    assert arguments("USER") == ["edged"]
    assert json.loads(arguments("ENTRYPOINT")[0]) == ["edged"]
    assert "--uid 9108" in TEXT
    assert "9108" in (ROOT / "docs" / "operations.md").read_text()

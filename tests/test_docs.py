"""The manual says all that there is: every command, option, key, metric, reason, field and exit code."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import typer
from prometheus_client import CollectorRegistry
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from edged.cli import app
from edged.config import loading
from edged.config import tables as config
from edged.errors import REASONS
from edged.media.imaging import Limits
from edged.models import bundle
from edged.results import Record
from edged.service.metrics import OUTCOMES, SKIPPED, STAGES, Metrics
from edged.settings import ModelTable, RetentionTable
from edged.sinks import SINKS
from edged.sources import SOURCES
from tests.conftest import TINY
from tests.edged.sinks.plc import certificate_files

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])

TABLES: dict[str, tuple[type[Any], ...]] = {
    "[service]": (config.ServiceTable,),
    "[http]": (config.HttpTable,),
    "[models.NAME]": (ModelTable,),
    "[limits]": (Limits,),
    "[[sources]]": tuple(kind.table for kind in SOURCES.values()),
    "[[sinks]]": tuple(kind.table for kind in SINKS.values()),
    "[retention]": (RetentionTable,),
}


def fields_of(table: type[Any]) -> dict[str, FieldInfo]:
    if issubclass(table, BaseModel):
        return table.model_fields
    return {one.name: FieldInfo(default=one.default) for one in fields(table)}


KEYS = [
    (table, key, field)
    for table, models in TABLES.items()
    for key, field in {key: field for model in models for key, field in fields_of(model).items()}.items()
]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def page(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


def section(name: str, heading: str) -> str:
    """The part of a page below a heading of the second level, up to the next."""
    parts = re.split(r"^## +(.+)$", page(name), flags=re.MULTILINE)
    found = {title.strip("` "): text for title, text in zip(parts[1::2], parts[2::2], strict=True)}
    assert heading in found, f"docs/{name} has no section {heading}"
    return found[heading]


def parameters() -> Iterator[tuple[str, str]]:
    """Every option and argument of every command, as a person writes it."""
    for name, command in COMMANDS.items():
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            yield from ((name, written) for written in (parameter.opts if is_option else [parameter.metavar]))


def test_there_are_commands_to_look_for() -> None:
    assert {"run", "check", "score", "results"} <= set(COMMANDS)


@pytest.mark.parametrize(("command", "parameter"), list(parameters()))
def test_every_option_and_argument_is_documented(command: str, parameter: str) -> None:
    assert re.search(rf"`{re.escape(parameter)}[`, ]", section("commands.md", f"edged {command}"))


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_every_exit_code_is_documented(code: int) -> None:
    assert re.search(rf"^\| {code} \|", section("commands.md", "Exit codes"), re.MULTILINE)
    assert re.search(rf"^\| {code} \|", (ROOT / "README.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(("table", "key", "field"), KEYS, ids=[f"{table} {key}" for table, key, _ in KEYS])
def test_every_key_is_documented_with_its_default(table: str, key: str, field: Any) -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section("configuration.md", table).splitlines()
        if line.startswith(f"| `{key}` |")
    ]
    assert rows, f"docs/configuration.md, {table}: {key} is missing"
    assert rows[0][2] == _default(field)


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "none"
    if isinstance(field.default, tuple):
        return f"`{list(field.default)}`".replace("'", '"')
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default}`"


@pytest.mark.parametrize(("table", "key", "field"), KEYS, ids=[f"{table} {key}" for table, key, _ in KEYS])
def test_the_configuration_for_operators_shows_every_key(table: str, key: str, field: Any) -> None:
    text = (ROOT / "configs" / "edged.toml").read_text()
    header = re.escape(table).replace("NAME", r"\w+")
    parts = re.findall(rf"^{header}$(.*?)(?=^\[|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    shown = [match for part in parts for match in re.findall(rf"^#?{key} = (.+)$", part, flags=re.MULTILINE)]
    assert shown, f"configs/edged.toml, {table}: {key} is missing"
    values = [tomllib.loads(f"value = {value}")["value"] for value in shown]
    if not field.is_required() and field.default is not None and key not in {"after"}:
        default = list(field.default) if isinstance(field.default, tuple) else field.default
        assert default in values


def test_the_configuration_for_operators_is_valid(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "edged.toml").read_text()
    text = text.replace("/srv/edged", str(tmp_path / "srv")).replace("/var/lib/edged", str(tmp_path / "lib"))
    (tmp_path / "srv" / "line1").mkdir(parents=True)
    shutil.copytree(TINY, tmp_path / "lib" / "models" / "parts")
    file = tmp_path / "edged.toml"
    file.write_text(text)
    loaded = loading.load(file, {})
    assert [source.after for source in loaded.sources] == ["move"]
    assert [sink.type for sink in loaded.sinks] == ["jsonl", "images"]


def test_edged_check_takes_every_example_of_a_source_and_a_sink(tmp_path: Path) -> None:
    """All of them in one configuration, each in folders of its own."""
    examples = [
        text
        for path in sorted(DOCS.glob("*.md"))
        for text in re.findall(r"^```toml\n(\[\[.*?)^```", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    ]
    types = {table["type"] for text in examples for table in tomllib.loads(text).get("sinks", ())}
    assert types == SINKS.keys()
    written = ['[service]\nstate_dir = "STATE/edged"', f'[models.parts]\npath = "{TINY}"\n']
    for number, text in enumerate(examples):
        folder = tmp_path / str(number)
        (folder / "bin").mkdir(parents=True)
        certificate_files(folder, "opcua", "urn:box7:edged")
        for name in ("webhook-secret", "opcua-password", "mqtt-password"):
            (folder / name).write_text("word")
        (folder / "bin" / "reject-part").symlink_to(shutil.which("true") or "/bin/true")
        for place in ("/var/lib/edged", "/etc/edged", "/usr/local", "/srv"):
            text = text.replace(f'"{place}/', f'"{folder}/')  # noqa: PLW2901
        written.append(re.sub(r'^name = "', f'name = "e{number}-', text, flags=re.MULTILINE))
    file = tmp_path / "edged.toml"
    file.write_text("\n".join(written).replace("STATE", str(tmp_path)))
    done = subprocess.run(
        [sys.executable, "-m", "edged", "check", "-c", file], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode == 0, done.stderr


def families() -> dict[str, Any]:
    """Every metric by the name that Prometheus queries."""
    registry = CollectorRegistry()
    Metrics(registry)
    kinds = {"counter": "_total", "info": "_info"}
    return {family.name + kinds.get(family.type, ""): family for family in registry.collect()}


def metrics() -> dict[str, tuple[str, tuple[str, ...]]]:
    """Type and labels of every metric."""
    found = {}
    for metric in vars(Metrics(CollectorRegistry())).values():
        if not hasattr(metric, "_labelnames"):
            continue
        kind = metric._type
        name = metric._name + {"counter": "_total", "info": "_info"}.get(kind, "")
        found[name] = (kind, tuple(metric._labelnames))
    return found


@pytest.mark.parametrize("name", sorted(metrics()))
def test_every_metric_is_documented_with_its_type_and_labels(name: str) -> None:
    kind, labels = metrics()[name]
    (row,) = re.findall(rf"^\| `{name}` \|(.*)$", page("metrics.md"), flags=re.MULTILINE)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[0] == kind
    assert set(labels) <= set(re.findall(r"\w+", cells[1]))


def test_no_metric_is_documented_that_is_not_there() -> None:
    assert set(families()) == set(metrics())
    assert set(re.findall(r"^\| `(edged_\w+)` \|", page("metrics.md"), flags=re.MULTILINE)) == set(metrics())


def test_alerts_and_pages_name_metrics_that_are_there() -> None:
    known = set(metrics()) | {f"{name}_{part}" for name in metrics() for part in ("bucket", "count", "sum")}
    texts = [*PAGES, *(ROOT / "configs" / "prometheus").iterdir(), *(ROOT / "configs" / "grafana").glob("*.*")]
    for text in texts:
        assert set(re.findall(r"(?<![\w:])edged_(?!dataset|\d)\w+", text.read_text())) <= known, text


@pytest.mark.parametrize("word", [*OUTCOMES, *STAGES])
def test_every_outcome_and_stage_is_documented(word: str) -> None:
    assert f"`{word}`" in page("metrics.md")


@pytest.mark.parametrize("reason", REASONS)
def test_every_reason_is_documented(reason: str) -> None:
    assert f"| `{reason}` |" in page("results.md")


@pytest.mark.parametrize("reason", SKIPPED)
def test_every_reason_for_skipping_is_documented(reason: str) -> None:
    assert f"`{reason}`" in page("intake.md")


@pytest.mark.parametrize("field", [field.name for field in fields(Record)])
def test_every_field_of_a_result_is_documented(field: str) -> None:
    assert f"| `{field}` |" in page("results.md")


@pytest.mark.parametrize("key", [*bundle.Manifest.model_fields, *bundle.Calibration.model_fields])
def test_every_key_of_a_bundle_is_documented(key: str) -> None:
    assert f"| `{key}` |" in page("bundle.md")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name) if name else path
        assert linked.exists(), target
        if anchor:
            assert anchor in _anchors(linked), target


def _anchors(path: Path) -> set[str]:
    """Of the headings of a page, by the rule that forges follow."""
    headings = re.findall(r"^#+ +(.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "edged.yml"), ("check", "rules", "alerts.yml"), ("test", "rules", "alerts_test.yml")],
)
def test_prometheus_takes_the_configuration_and_the_alerts(arguments: tuple[str, ...]) -> None:
    program = shutil.which("promtool")
    if program is None:
        if os.environ.get("CI"):
            pytest.fail("promtool is not installed; CI installs it")
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    folder = ROOT / "configs" / "prometheus"
    done = subprocess.run([program, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr

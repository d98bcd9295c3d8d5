"""Which way imports point, and what the runtime never needs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING_ONLY = ("torch", "onnx", "onnxscript", "matplotlib", "train", "export")


def modules(package: str) -> list[str]:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


def imported(path: Path) -> set[str]:
    """Every module that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def reaches(name: str, targets: tuple[str, ...]) -> bool:
    return any(name == target or name.startswith(target + ".") for target in targets)


def test_every_module_of_edged_imports_without_what_only_training_needs() -> None:
    program = f"""
import importlib, json, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {TRAINING_ONLY!r}:
            raise ModuleNotFoundError("walled off: " + name)
sys.meta_path.insert(0, Wall())
for name in {[name for name in modules("edged") if name != "edged.__main__"]!r}:
    importlib.import_module(name)
print(json.dumps(sorted(name for name in sys.modules if name.split(".")[0] in {TRAINING_ONLY!r})))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []
    assert len(modules("edged")) >= 25


@pytest.mark.parametrize(
    ("package", "forbidden"),
    [("edged", TRAINING_ONLY), ("train", ("export",))],
)
def test_imports_point_one_way(package: str, forbidden: tuple[str, ...]) -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(name for name in imported(path) if reaches(name, forbidden))
        for path in (ROOT / package).rglob("*.py")
    }
    assert {path: names for path, names in wrong.items() if names} == {}


LAYERS = (
    {"backoff", "errors", "failpoints", "files"},
    {"results", "settings"},
    {"media", "broker"},
    {"models"},
    {"journal"},
    {"sources", "sinks"},
    {"config"},
    {"service", "web", "scoring", "recalibration", "reports", "progress"},
    {"commands"},
    {"cli"},
)
"""The rooms of `edged`, from the ground up: none imports from one above it, nor from one beside it but where named."""
BESIDE = {("failpoints", "errors"), ("service", "web")}


def test_no_room_of_edged_imports_from_above() -> None:
    height = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    wrong = []
    for path in (ROOT / "edged").rglob("*.py"):
        here = path.relative_to(ROOT / "edged").parts[0].removesuffix(".py")
        if here.startswith("__"):
            continue
        assert here in height, f"{here}: which room does it stand on?"
        for name in imported(path):
            there = name.split(".")[1] if name.startswith("edged.") else here
            if there == here or there.startswith("__"):
                continue
            if height[there] > height[here] or (height[there] == height[here] and (here, there) not in BESIDE):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert wrong == []


def test_one_class_one_name() -> None:
    found: dict[str, list[str]] = {}
    for package in ("edged", "train", "export"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.parse(path.read_bytes()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    found.setdefault(node.name, []).append(str(path.relative_to(ROOT)))
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}


def test_training_shares_data_and_statistics_with_the_runtime_but_not_the_daemon() -> None:
    daemon = (
        "edged.service.daemon",
        "edged.service.pipeline",
        "edged.journal.journal",
        "edged.sources.contract",
        "edged.web",
        "edged.config.tables",
    )
    for package in ("train", "export"):
        for path in (ROOT / package).rglob("*.py"):
            assert not [name for name in imported(path) if reaches(name, daemon)], path


def test_nothing_in_edged_unpickles() -> None:
    for path in (ROOT / "edged").rglob("*.py"):
        names = imported(path)
        assert not [name for name in names if reaches(name, ("pickle", "shelve", "marshal", "dill", "joblib"))], path
        assert "allow_pickle=True" not in path.read_text(), path


def test_decoder_processes_start_without_numpy() -> None:
    program = "import sys, edged.media.decoder, edged.media.decoding; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0


def test_nothing_happens_at_import() -> None:
    program = """
import sys, threading
from prometheus_client import REGISTRY
import edged.cli, edged.service.daemon, edged.service.metrics, edged.scoring, edged.web.server
assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
assert not [name for name in REGISTRY._names_to_collectors if name.startswith("edged")]
assert "onnxruntime" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr

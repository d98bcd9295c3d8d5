"""Whatever bytes come in, nothing but EdgedError comes out.

The same bytes every time, so that a green commit stays green; `make fuzz` looks for new ones, for as long as it takes.
"""

import contextlib
import io
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edged.config import loading as configuration
from edged.errors import REASONS, EdgedError, PictureError
from edged.journal.journal import Journal
from edged.journal.reading import read_results
from edged.journal.schema import FILE
from edged.media import inputs
from edged.media.decoding import DecoderPool
from edged.media.imaging import ImageInput, Limits
from edged.media.signals import SignalInput
from edged.models.scorer import Scorer
from edged.sources.folder.files import FileAction, Fingerprint
from edged.sources.folder.ledger import Ledger
from tests import broken_pictures
from tests.conftest import TINY
from tests.edged.config.test_config import Files
from tests.edged.making import TIMES, entry_of, quarantined, record
from tests.edged.models.test_bundle import reseal

fuzz = settings(
    max_examples=150 * TIMES,
    derandomize=TIMES == 1,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
GREY = ImageInput(32, 32, 1, "stretch", "bilinear")
SIGNAL = SignalInput(channels=2, length=16)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


@st.composite
def hurt(draw: st.DrawFn, data: bytes) -> bytes:
    """Some bytes of `data` changed, removed or added."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 6))):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        how = draw(st.sampled_from(["set", "cut", "insert", "truncate"]))
        if how == "set" and changed:
            changed[place] = draw(st.integers(0, 255))
        elif how == "cut":
            del changed[place : place + draw(st.integers(1, 64))]
        elif how == "insert":
            changed[place:place] = draw(st.binary(max_size=16))
        elif draw(st.integers(0, 5)) == 0:
            del changed[place:]
    return bytes(changed)


def replace_somewhere(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one part of it, at any depth, replaced by another."""
    if isinstance(value, dict) and value and draw(st.integers(0, 3)):
        key = draw(st.sampled_from(sorted(value)))
        if draw(st.integers(0, 9)) == 0:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: replace_somewhere(draw, value[key])}
    if isinstance(value, list) and value and draw(st.booleans()):
        place = draw(st.integers(0, len(value) - 1))
        return [*value[:place], replace_somewhere(draw, value[place]), *value[place + 1 :]]
    return draw(JSON)


@contextlib.contextmanager
def only_our_errors() -> Iterator[None]:
    """Lets EdgedError pass, which says something and gives a known reason, and nothing else."""
    try:
        yield
    except EdgedError as error:
        if not str(error) or (isinstance(error, PictureError) and error.reason not in REASONS):
            raise AssertionError(repr(error)) from error


# The decoder.


def test_broken_pictures_of_every_format() -> None:
    outcomes: Counter[str] = Counter()
    with DecoderPool(2, Limits(max_pixels=1_000_000, max_bytes=1_000_000)) as pool:
        for name, data in broken_pictures.corpus():
            outcome = pool.decode(io.BytesIO(data), GREY)
            if outcome.error is None:
                assert outcome.decoded is not None
                assert outcome.decoded.pixels.shape == (32, 32, 1), name
                outcomes["decoded"] += 1
            else:
                assert outcome.error.reason in REASONS, name
                assert outcome.error.reason != "decoder_crashed", name
                outcomes[outcome.error.reason] += 1
    assert outcomes["undecodable"] > 400
    assert outcomes["decoded"] > 10


def test_there_is_a_broken_picture_of_every_format() -> None:
    made = {name.partition("-")[0] for name, _ in broken_pictures.corpus()}
    # What Pillow opens only with a plug-in of somebody else's, or by the name of its file alone.
    assert {name.lower() for name in broken_pictures.formats()} - made <= {"dummy"}


@fuzz
@given(st.data())
def test_signals(data: st.DataObject) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 16), dtype=data.draw(st.sampled_from(["<f4", "<f8", "<i2", "|u1"]))))
    text = b"1,2\n" * 16
    content = data.draw(
        st.sampled_from([buffer.getvalue(), text]).flatmap(hurt) | st.binary(max_size=200) | hurt(buffer.getvalue())
    )
    with only_our_errors():
        assert inputs.decode(content, SIGNAL, Limits(max_bytes=100_000)).pixels.shape == SIGNAL.shape


# The bundle.


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "bundle"))


def load_whole(path: Path) -> None:
    Scorer.load(path, device="cpu")


@fuzz
@given(st.data())
def test_a_bundle_with_any_json(bundle: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["manifest.json", "calibration.json"]))
    content = json.loads((TINY / name).read_bytes())
    changed = data.draw(st.composite(replace_somewhere)(content))
    (bundle / name).write_text(json.dumps(changed))
    try:
        with only_our_errors():
            load_whole(bundle)
    finally:
        shutil.copy(TINY / name, bundle / name)


@fuzz
@given(st.data())
def test_a_bundle_with_any_bytes(bundle: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["manifest.json", "calibration.json", "golden.npz", "model.onnx"]))
    (bundle / name).write_bytes(data.draw(hurt((TINY / name).read_bytes())))
    if name in {"golden.npz", "model.onnx"} and data.draw(st.booleans()):
        reseal(bundle)  # as somebody would who wants it loaded
    try:
        with only_our_errors():
            load_whole(bundle)
    finally:
        for file in TINY.iterdir():
            shutil.copy(file, bundle / file.name)


# The configuration.


@fuzz
@given(st.data())
def test_a_configuration_of_any_bytes(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    text = (Path(__file__).parents[2] / "configs" / "edged.toml").read_bytes()
    path = tmp_path / "any.toml"
    path.write_bytes(data.draw(hurt(text) | st.binary(max_size=200)))
    with only_our_errors():
        configuration.load(path, {})


@fuzz
@given(st.data())
def test_a_configuration_of_any_values(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "in").mkdir(exist_ok=True)
    files = Files.__new__(Files)
    files.root, files.inbox, files.path = tmp_path, tmp_path / "in", tmp_path / "edged.toml"
    values = {
        "service": {"state_dir": f"{tmp_path}/state", "log_format": "json"},
        "http": {"listen": "127.0.0.1:0"},
        "models": {"tiny": {"path": f"{tmp_path}/bundle", "target_fpr": 0.01}},
        "limits": {"max_bytes": 1000},
        "sources": [{"name": "line1", "type": "folder", "path": f"{tmp_path}/in", "model": "tiny", "patterns": ["*"]}],
        "sinks": [{"name": "lines", "type": "jsonl", "path": f"{tmp_path}/results.jsonl"}],
        "retention": {"results_days": 1.0},
    }
    changed = data.draw(st.composite(replace_somewhere)(values))
    environment = data.draw(st.dictionaries(st.sampled_from(VARIABLES), st.text(max_size=8), max_size=2))
    if not isinstance(changed, dict):
        return
    files.path.write_bytes("\n".join(f"{_toml(key)} = {_toml(value)}" for key, value in changed.items()).encode())
    with only_our_errors():
        configuration.load(files.path, environment)


VARIABLES = ["EDGED_SERVICE__STATE_DIR", "EDGED_LIMITS__MAX_BYTES", "EDGED_MODELS__TINY__DEVICE", "EDGED_X__", "EDGED_"]


def _toml(value: Any) -> str:
    """As TOML; a null, which TOML has not, is left for the parser to refuse."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(key)} = {_toml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    if isinstance(value, float):
        return repr(value)
    text = value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
    return json.dumps(text, ensure_ascii=True)


# The journal.


@pytest.fixture(scope="module")
def journal_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with something in every table."""
    folder = tmp_path_factory.mktemp("journal")
    journal = Journal(folder)
    journal.add_sink("lines")
    for number in range(30):
        one = (quarantined if number % 3 == 0 else record)(path=f"/in/{number}.png")
        fingerprint = Fingerprint(number, 100, 10**18)
        owed = FileAction(one.id, "line1", os.fsencode(one.path), fingerprint, "move") if number % 2 else None
        journal.commit([entry_of(one, fingerprint, owed)])
    journal.close()
    return folder / FILE


def read_everything(folder: Path) -> None:
    list(read_results(folder))
    journal = Journal(folder)
    try:
        journal.undelivered("lines", 100)
        list(Ledger(journal, "line1").kept())
        Ledger(journal, "line1").actions()
        journal.backlog("lines")
        journal.absent(["a"])
        journal.commit([entry_of(record(), Fingerprint(1, 1, 1))])
        journal.prune(1e12, ["lines"])
    finally:
        journal.close()


@settings(fuzz, max_examples=60 * TIMES)
@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 255)), min_size=1, max_size=20), st.integers(0, 60))
def test_a_journal_of_any_bytes(journal_file: Path, changes: list[tuple[int, int]], kept_pages: int) -> None:
    changed = bytearray(journal_file.read_bytes())
    for place, value in changes:
        changed[place % len(changed)] = value
    with tempfile.TemporaryDirectory() as folder:
        # Half of them lose their end as well.
        (Path(folder) / FILE).write_bytes(changed[: 1000 * kept_pages] if kept_pages < 30 else changed)
        with only_our_errors():
            read_everything(Path(folder))


INTEGERS = st.integers(-(2**63), 2**63 - 1)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8) | st.sampled_from(["{}", "[]", "1", "nul"])


@settings(fuzz, max_examples=60 * TIMES)
@given(st.integers(0, 1000), TEXTS, st.binary(max_size=8), st.floats(), INTEGERS)
def test_a_journal_of_any_values(
    journal_file: Path, number: int, text: str, blob: bytes, real: float, integer: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(journal_file, folder)
        with contextlib.closing(sqlite3.connect(Path(folder) / FILE, isolation_level=None)) as db:
            columns = [
                (table, name, kind)
                for table in ("results", "kept", "disposals", "sinks")
                for _, name, kind, *_ in db.execute(f"PRAGMA table_info({table})")
            ]
            table, column, kind = columns[number % len(columns)]
            value = {"TEXT": text, "BLOB": blob, "REAL": real, "INTEGER": integer}[kind]
            with contextlib.suppress(sqlite3.IntegrityError):  # the schema refuses it
                db.execute(f"UPDATE OR IGNORE {table} SET {column} = ?", (value,))
        with only_our_errors():
            read_everything(Path(folder))

"""Journals of older schemas. The builder of version 1 is a copy of how that version was made: it is never changed."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from edged.errors import JournalError
from edged.journal import schema
from edged.journal.journal import Journal
from edged.journal.reading import read_results
from edged.journal.schema import FILE, VERSION
from edged.sources.folder.ledger import Ledger
from tests.edged.making import entry

VERSION_1 = """
PRAGMA journal_mode = WAL;
BEGIN;
CREATE TABLE results (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    sha256 TEXT,
    captured_at REAL NOT NULL,
    scored_at REAL NOT NULL,
    model TEXT NOT NULL,
    model_sha256 TEXT NOT NULL,
    device TEXT NOT NULL,
    score REAL,
    threshold REAL,
    p_value REAL,
    is_anomaly INTEGER,
    status TEXT NOT NULL CHECK (status IN ('ok', 'quarantined')),
    reason TEXT,
    error TEXT,
    timings_ms TEXT NOT NULL
) STRICT;
CREATE INDEX results_scored_at ON results (scored_at);
CREATE TABLE kept (
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    sha256 TEXT,
    PRIMARY KEY (source, path)
) STRICT, WITHOUT ROWID;
CREATE TABLE disposals (
    id TEXT PRIMARY KEY,
    source TEXT NOT NULL,
    path BLOB NOT NULL,
    inode INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    action TEXT NOT NULL CHECK (action IN ('move', 'delete', 'quarantine')),
    sidecar TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE sinks (
    name TEXT PRIMARY KEY,
    delivered_seq INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
PRAGMA application_id = 1701078884;
PRAGMA user_version = 1;
WITH RECURSIVE numbers (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM numbers WHERE n < 300)
INSERT INTO results
SELECT n, printf('%026x', n), 'line1', CAST('/in/' || n || '.png' AS BLOB), 'ab', 1.5, 2.5 + n, 'tiny', 'cd', 'cpu',
    0.25, 0.5, 0.04, 0, 'ok', NULL, NULL, '{"decode": 2.1}' FROM numbers;
INSERT INTO kept SELECT source, path, 100, 7, sha256 FROM results WHERE seq <= 200;
INSERT INTO disposals VALUES ('00000000000000000000000000', 'line1', X'2F696E2FFF', 1, 2, 3, 'move', '');
INSERT INTO sinks VALUES ('lines', 250);
COMMIT;
"""


def build_version_1(state_dir: Path) -> Path:
    path = state_dir / FILE
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(VERSION_1)
    return path


RESULTS = (
    "seq, id, source, path, sha256, captured_at, scored_at, model, model_sha256, device, score, threshold, p_value, "
    "is_anomaly, status, reason, error, timings_ms"
)


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Every table of a journal, as version 1 had them."""
    with closing(sqlite3.connect(path)) as db:
        return {
            table: db.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
            for table, columns in (
                ("results", RESULTS),
                ("kept", "source, path, size, mtime_ns, sha256"),
                ("disposals", "id, source, path, inode, size, mtime_ns, action, sidecar"),
                ("sinks", "*"),
                ("sqlite_sequence", "*"),
            )
        }


def version(path: Path) -> int:
    with closing(sqlite3.connect(path)) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_journal_of_version_1_is_migrated_with_a_backup(tmp_path: Path) -> None:
    path = build_version_1(tmp_path)
    before = content(path)
    Journal(tmp_path).close()
    assert version(path) == VERSION
    assert content(path) == before
    backup = tmp_path / (FILE + ".v1")
    assert version(backup) == 1
    assert content(backup) == before
    journal = Journal(tmp_path)  # and it works, from where it was
    try:
        assert len(list(Ledger(journal, "line1").kept())) == 200
        assert journal.backlog("lines") == 50
        journal.commit([entry(id="next")])
        assert [row.id for _, row in journal.undelivered("lines", 99)][-1] == "next"
        assert [file.name for file in tmp_path.iterdir() if ".part" in file.name] == []
    finally:
        journal.close()


def test_results_of_version_1_can_be_read_before_it_is_migrated(tmp_path: Path) -> None:
    path = build_version_1(tmp_path)
    assert len(list(read_results(tmp_path))) == 300
    assert version(path) == 1


def test_every_step_leads_to_what_a_new_journal_is(tmp_path: Path) -> None:
    schema.create(tmp_path / "new")
    path = build_version_1(tmp_path)
    Journal(tmp_path).close()
    tables = []
    for file in (path, tmp_path / "new"):
        with closing(sqlite3.connect(file)) as db:
            names = [row[0] for row in db.execute("SELECT name FROM sqlite_schema ORDER BY name")]
            tables.append({name: db.execute(f"PRAGMA table_xinfo({name})").fetchall() for name in names})
    assert tables[0] == tables[1]
    assert set(tables[0]) >= schema.TABLES


@pytest.mark.parametrize("number", range(1, VERSION))
def test_a_step_that_is_cut_off_leaves_the_version_before_it_whole(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = build_version_1(tmp_path)
    before = content(path)
    broken = (*schema.STEPS[:number], schema.STEPS[number] + "SELECT no_such_function();")
    with monkeypatch.context() as patch:
        patch.setattr(schema, "STEPS", broken)
        with pytest.raises(JournalError, match="cannot be opened"):
            Journal(tmp_path)
    assert version(path) == number
    assert content(path) == before
    Journal(tmp_path).close()
    assert version(path) == VERSION
    assert content(path) == before


def test_without_room_for_a_backup_nothing_is_migrated(tmp_path: Path) -> None:
    path = build_version_1(tmp_path)
    before = content(path)
    (tmp_path / (FILE + ".v1.part")).mkdir()  # what cannot be written stands in for a full disk
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path)
    assert version(path) == 1
    assert content(path) == before


def test_a_new_journal_is_whole_or_absent(tmp_path: Path) -> None:
    def fail(_: sqlite3.Connection) -> None:
        raise OSError(28, os.strerror(28))

    with pytest.raises(OSError, match="No space"):
        schema.create(tmp_path / FILE, fail)
    assert not (tmp_path / FILE).exists()
    schema.create(tmp_path / FILE)
    assert version(tmp_path / FILE) == VERSION

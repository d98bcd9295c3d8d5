import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from edged.errors import JournalError
from edged.journal import damage, salvage
from edged.journal.journal import Entry, Journal
from edged.journal.reading import read_results
from edged.journal.schema import FILE
from edged.results import Event
from edged.sources.folder.files import FileAction, Fingerprint
from edged.sources.folder.ledger import Ledger
from tests.edged.journal.test_schema import build_version_1
from tests.edged.making import entry, entry_of, record

ROWS = 2000
PAGE = 4096
STAMPS = Fingerprint(7, 100, 10**18)


def build(state_dir: Path) -> Path:
    """A journal of many rows, half of which a sink was given; every file is kept but three, which are owed."""
    journal = Journal(state_dir)
    journal.add_sink("lines")
    for start in range(0, ROWS, 500):
        journal.commit(
            [
                entry_of(record(id=f"{number:026x}", path=f"/in/{number:05}.png", scored_at=float(number)), STAMPS)
                for number in range(start, start + 500)
            ]
        )
    journal.delivered("lines", ROWS // 2)
    journal.commit(
        [
            entry_of(
                record(id=f"{number:026x}"), STAMPS, FileAction(f"{number:026x}", "line1", b"/in/owed", STAMPS, "move")
            )
            for number in range(ROWS, ROWS + 3)
        ]
    )
    journal.close()
    return state_dir / FILE


def pages_of(path: Path, tree: str) -> list[int]:
    """Leaf pages of a table or an index, in order."""
    with closing(sqlite3.connect(path)) as db:
        try:
            query = "SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf' ORDER BY path"
            return [row[0] for row in db.execute(query, (tree,))]
        except sqlite3.OperationalError:
            pytest.skip("this SQLite has no dbstat")


def zero(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(bytes(PAGE))


def zero_in_the_middle(path: Path) -> None:
    leaves = pages_of(path, "results")
    zero(path, *leaves[len(leaves) // 2 : len(leaves) // 2 + 3], leaves[len(leaves) // 4])


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def garble_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(os.urandom(PAGE))


def zero_a_mark(path: Path) -> None:
    leaves = pages_of(path, "kept")
    zero(path, leaves[len(leaves) // 2])


def zero_the_sinks(path: Path) -> None:
    with closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'sinks'").fetchone()
    zero(path, page)


def opened(state_dir: Path) -> Journal:
    journal = Journal(state_dir)
    journal.close()
    return journal


def consistent(state_dir: Path) -> None:
    """What must hold of a salvaged journal, whatever happened to it."""
    journal = Journal(state_dir)
    try:
        assert journal.check() == []
        ids = [row.id for row in read_results(state_dir)]
        assert len(ids) == len(set(ids))
        journal.add_sink("lines")
        given = [seq for seq, _ in journal.undelivered("lines", 10**6)]
        journal.commit([entry(id="new")])
        ((seq, row),) = journal.undelivered("lines", 10**6)[len(given) :]
        assert row.id == "new"
        assert seq > max([0, *given])  # a number that a sink was given is not given out again
    finally:
        journal.close()


@pytest.mark.parametrize(
    ("damage", "met_at_start", "least", "most"),
    [
        (truncate, True, 0, ROWS - 1),
        (garble_header, True, ROWS + 3, ROWS + 3),
        (zero_in_the_middle, False, ROWS - 100, ROWS - 4),
        (zero_a_mark, False, ROWS + 3, ROWS + 3),
        (zero_the_sinks, True, ROWS + 3, ROWS + 3),
    ],
)
def test_what_can_be_read_is_salvaged(
    tmp_path: Path, damage: Callable[[Path], None], met_at_start: bool, least: int, most: int
) -> None:
    path = build(tmp_path)
    damage(path)
    damaged = path.read_bytes()
    journal = Journal(tmp_path)
    if not met_at_start:  # the look at the start is short; the check finds it, and the next start salvages
        assert journal.salvaged is None
        assert journal.check() != []
        assert "quick_check" in str(journal.damage)
        journal.close()
        journal = Journal(tmp_path)
    assert journal.salvaged is not None
    found = journal.salvaged.results
    journal.close()
    assert least <= found <= most
    assert found + journal.salvaged.lost in {ROWS + 3, found}  # where the last number is lost too, nobody knows
    (aside,) = journal.set_aside()
    assert aside.read_bytes() == damaged
    rows = list(read_results(tmp_path))
    assert len(rows) == found
    assert rows == sorted(rows, key=lambda row: row.id)
    consistent(tmp_path)
    assert opened(tmp_path).salvaged is None
    assert not [file.name for file in tmp_path.iterdir() if file.suffix in {".part", ".best", ".other", ".repaired"}]


def test_kept_files_whose_results_are_lost_are_forgotten_and_no_others(tmp_path: Path) -> None:
    path = build(tmp_path)
    zero_in_the_middle(path)
    damage.note_damage(path, "a test")
    journal = Journal(tmp_path)
    report = journal.salvaged
    assert report is not None
    marks = {os.fsdecode(path) for path, _, _ in Ledger(journal, "line1").kept()}
    journal.close()
    rows = {row.path for row in read_results(tmp_path) if row.path != "/in/a.png"}
    assert marks == rows
    assert report.forgotten == report.lost == ROWS - len(rows)


def test_what_retention_removed_is_not_taken_for_lost(tmp_path: Path) -> None:
    path = build(tmp_path)
    journal = Journal(tmp_path)
    journal.delivered("lines", ROWS + 3)
    assert journal.prune(500.0, ["lines"]) == 500
    journal.close()
    damage.note_damage(path, "a test")
    journal = Journal(tmp_path)
    assert journal.salvaged is not None
    assert (journal.salvaged.lost, journal.salvaged.forgotten) == (0, 0)
    assert len(list(Ledger(journal, "line1").kept())) == ROWS
    journal.close()


def test_the_first_number_of_an_event_that_has_closed_is_not_taken_for_lost(tmp_path: Path) -> None:
    event = Event(state="open", started_at=1.0, peak_at=1.0, ended_at=1.0, frames=3, offset_s=None)
    one = record(is_anomaly=True, event=event)
    journal = Journal(tmp_path)
    journal.commit([Entry(one), entry()])
    journal.commit([Entry(replace(one, event=replace(event, state="closed"))), entry()])
    journal.close()
    damage.note_damage(tmp_path / FILE, "told")
    journal = Journal(tmp_path)
    assert journal.salvaged is not None
    assert (journal.salvaged.results, journal.salvaged.lost) == (3, 0)
    journal.close()


def test_lost_marks_come_back_from_results_where_the_file_stands(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    state = tmp_path / "state"
    journal = Journal(state)
    names = [inbox / f"{number:04}.png" for number in range(400)]
    for name in names:
        name.write_bytes(b"x")
        journal.commit([entry_of(record(path=str(name)), Fingerprint.of(name.stat()))])
    journal.close()
    leaves = pages_of(state / FILE, "kept")
    zero(state / FILE, *leaves[1:3])
    names[200].unlink()
    damage.note_damage(state / FILE, "a test")
    journal = Journal(state)
    marks = {os.fsdecode(path): size for path, size, _ in Ledger(journal, "line1").kept()}
    assert set(map(str, names)) - set(marks) <= {str(names[200])}
    assert 1 < sum(size == -1 for size in marks.values()) < 200
    assert Ledger(journal, "line1").kept_sha256(os.fsencode(names[150])) == "ab" * 32
    journal.close()


def test_a_sink_whose_position_is_lost_is_given_everything_again(tmp_path: Path) -> None:
    zero_the_sinks(build(tmp_path))
    journal = Journal(tmp_path)
    journal.add_sink("lines")
    assert journal.backlog("lines") == ROWS + 3
    journal.prune(0.0, ["lines"])
    journal.add_sink("new")  # long after, a sink that is new begins with the next result
    assert journal.backlog("new") == 0
    journal.close()


def test_an_older_journal_without_its_first_page_is_salvaged(tmp_path: Path) -> None:
    garble_header(build_version_1(tmp_path))
    journal = opened(tmp_path)
    assert journal.salvaged is not None
    assert journal.salvaged.results == 300
    assert len(list(read_results(tmp_path))) == 300


def test_an_empty_file_is_no_new_journal(tmp_path: Path) -> None:
    path = build(tmp_path)
    os.truncate(path, 0)
    journal = opened(tmp_path)
    assert journal.salvaged is not None
    assert journal.salvaged.damage == "it is empty"
    assert [file.stat().st_size for file in journal.set_aside()] == [0]
    consistent(tmp_path)


def test_a_journal_that_is_gone_is_said_to_be(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    opened(tmp_path)
    assert "the journal is gone" not in capfd.readouterr().out
    (tmp_path / FILE).unlink()
    (tmp_path / (FILE + "-wal")).write_bytes(b"of the journal that is gone")
    opened(tmp_path)
    assert "the journal is gone" in capfd.readouterr().out
    assert [file.read_bytes() for file in tmp_path.glob("*.damaged-*-wal")] == [b"of the journal that is gone"]
    consistent(tmp_path)


def test_a_write_ahead_log_that_was_deleted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from edged.journal.journal import Journal\n"
        "from tests.edged.making import entry\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "journal.commit([entry(id='a'), entry(id='b', path='/in/b.png')])\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (tmp_path / (FILE + "-wal")).unlink()
    journal = Journal(tmp_path)
    assert "its write-ahead log is gone" in capfd.readouterr().out
    # A mark goes with its result: what is still there is scored again.
    assert list(Ledger(journal, "line1").kept()) == []
    journal.close()
    assert list(read_results(tmp_path)) == []
    opened(tmp_path)
    assert "gone" not in capfd.readouterr().out


def test_a_salvage_that_was_cut_off_goes_on(tmp_path: Path) -> None:
    path = build(tmp_path)
    zero_in_the_middle(path)
    damaged = path.read_bytes()
    report = salvage._read(path, "a test")
    path.rename(tmp_path / "elsewhere")  # as far as a kill between two renames lets it come
    (tmp_path / "elsewhere").rename(path)
    assert (tmp_path / (FILE + ".salvaged")).exists()
    journal = opened(tmp_path)
    assert journal.salvaged is None
    assert len(list(read_results(tmp_path))) == report.results
    assert [file.read_bytes() for file in journal.set_aside()] == [damaged]
    consistent(tmp_path)


def test_a_disk_without_room_leaves_the_damaged_journal_as_it_was(tmp_path: Path) -> None:
    path = build(tmp_path)
    zero_the_sinks(path)
    damaged = path.read_bytes()
    (tmp_path / (FILE + ".best.part")).mkdir()  # what cannot be written stands in for a full disk
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal(tmp_path)
    assert path.read_bytes() == damaged


def test_damage_met_while_it_is_used_is_told_and_salvaged_at_the_next_start(tmp_path: Path) -> None:
    path = build(tmp_path)
    leaves = pages_of(path, "results")
    told: list[None] = []
    journal = Journal(tmp_path, on_damage=lambda: told.append(None))
    zero(path, *leaves[len(leaves) // 2 : -2])
    with pytest.raises(JournalError, match="malformed"):
        journal.undelivered("lines", 10**6)
    with pytest.raises(JournalError, match="malformed"):
        journal.undelivered("lines", 10**6)
    assert told == [None]
    assert "malformed" in str(journal.damage)
    journal.close()
    assert opened(tmp_path).salvaged is not None


def test_text_that_is_none_is_damage(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.add_sink("lines")
    journal.commit([entry(id=f"{number:026x}", device="somewhere") for number in range(50)])
    journal.close()
    path = tmp_path / FILE
    data = bytearray(path.read_bytes())
    data[data.index(b"somewhere")] = 0xFF
    path.write_bytes(data)
    salvaged = opened(tmp_path).salvaged
    assert salvaged is not None
    assert (salvaged.results, salvaged.lost) == (50, 0)
    assert sorted(row.device for row in read_results(tmp_path)) == [*["somewhere"] * 49, "\ufffdomewhere"]
    consistent(tmp_path)


def test_damage_that_a_commit_meets_is_told(tmp_path: Path) -> None:
    path = build(tmp_path)
    told = []
    journal = Journal(tmp_path, on_damage=lambda: told.append(journal.damage))
    try:
        zero(path, *pages_of(path, "results")[:-1], *pages_of(path, "results_scored_at"))
        with pytest.raises(JournalError, match="cannot be written"):
            journal.commit([entry(id="new", scored_at=500.5)])
        assert told == [journal.damage] != [None]
    finally:
        journal.close()
    assert opened(tmp_path).salvaged is not None


def test_a_check_can_be_ended(tmp_path: Path) -> None:
    build(tmp_path)
    journal = Journal(tmp_path)
    journal.end_check()
    assert journal.check() == []
    assert journal.damage is None
    journal.close()


def test_of_many_damaged_journals_the_first_and_the_last_stay(tmp_path: Path) -> None:
    path = build(tmp_path)
    for number in range(6):
        damage.note_damage(path, f"test {number}")
        (tmp_path / f"{FILE}.damaged-2026010{number}T000000.000000").write_text(str(number))
    aside = opened(tmp_path).set_aside()
    assert [file.name[-22:-14] for file in aside][:3] == ["20260100", "20260104", "20260105"]
    assert len(aside) == 4
    consistent(tmp_path)


def test_a_header_that_is_another_programs_is_damage(tmp_path: Path) -> None:
    path = build(tmp_path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA application_id = 7")
        db.execute("PRAGMA user_version = 7000")
    journal = opened(tmp_path)
    assert journal.salvaged is not None
    assert (journal.salvaged.results, journal.salvaged.lost) == (ROWS + 3, 0)


def test_a_version_that_no_edged_has_is_damage(tmp_path: Path) -> None:
    path = build(tmp_path)
    content = bytearray(path.read_bytes())
    content[60] |= 0x80  # the sign of user_version
    path.write_bytes(content)
    with closing(Journal(tmp_path)) as journal:
        assert journal.salvaged is not None
        assert (journal.salvaged.results, journal.salvaged.lost) == (ROWS + 3, 0)


def test_rows_that_are_out_of_order_are_damage_and_are_not_read_for_ever(tmp_path: Path) -> None:
    with closing(Journal(tmp_path)) as journal:
        journal.add_sink("lines")
        journal.commit([entry(id=f"{number:026x}") for number in range(8)])
    path = tmp_path / FILE
    with closing(sqlite3.connect(path)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'results'").fetchone()
    content = bytearray(path.read_bytes())
    page = (root - 1) * PAGE
    assert content[page] == 13  # a leaf, whose cells are the length of the row, its number, and the row
    pointer = page + 8 + 2 * 7
    length = page + int.from_bytes(content[pointer : pointer + 2], "big")
    number = length + 1 + (content[length] >= 0x80)
    assert content[number] == 8
    content[number] = 2
    path.write_bytes(content)
    with pytest.raises(JournalError, match="rows are out of order"):
        list(read_results(tmp_path))
    with closing(Journal(tmp_path)) as journal:
        assert journal.salvaged is not None
        assert len(journal.undelivered("lines", 100)) == 7
    assert len(list(read_results(tmp_path))) == 7

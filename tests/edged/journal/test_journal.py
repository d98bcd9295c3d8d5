import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edged.errors import JournalError, SchemaError
from edged.journal.journal import Entry, Journal
from edged.journal.reading import read_results
from edged.journal.schema import FILE
from edged.results import Event
from edged.sources.folder.files import FileAction, Fingerprint
from edged.sources.folder.ledger import Ledger
from tests.edged.making import entry, entry_of, quarantined, record

STAMPS = Fingerprint(7, 100, 10**18)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path)
    yield one
    one.close()


def owed(id_: str, path: bytes = b"/in/a.png", action: str = "move") -> Entry:
    disposal = FileAction(id_, "line1", path, STAMPS, action, "")  # type: ignore[arg-type]
    return entry_of(record(id=id_, path=os.fsdecode(path)), STAMPS, disposal)


def test_a_record_comes_back_as_it_was(journal: Journal, tmp_path: Path) -> None:
    strange = os.fsdecode(b"/in/line\nfeed \"quote' \xff\xfe.png")
    records = [record(path=strange), quarantined(sha256=None), record(is_anomaly=True, score=1e-300, timings_ms={})]
    journal.commit([entry_of(one, STAMPS) for one in records])
    assert list(read_results(tmp_path)) == records
    assert os.fsencode(next(read_results(tmp_path)).path) == b"/in/line\nfeed \"quote' \xff\xfe.png"


@pytest.mark.parametrize(
    "spoiled", ["", '{"infer": 1.5', "[1]", '{"infer": "soon"}', "NaN", '{"a": 1e999}', '{"a": true}']
)
def test_a_row_whose_timings_are_spoiled_is_read_without_them(journal: Journal, tmp_path: Path, spoiled: str) -> None:
    journal.add_sink("lines")
    one = record()
    journal.commit([entry_of(one, STAMPS)])
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as db:
        db.execute("UPDATE results SET timings_ms = ?", (spoiled,))
        db.commit()
    expected = replace(one, timings_ms={})
    assert list(read_results(tmp_path)) == [expected]
    assert [row for _, row in journal.undelivered("lines", 10)] == [expected]


def test_rows_are_read_in_the_order_of_commits_over_pages(journal: Journal, tmp_path: Path) -> None:
    ids = [f"{number:026x}" for number in range(2500)]
    for start in range(0, 2500, 500):
        journal.commit([entry(id=id_) for id_ in reversed(ids[start : start + 500])])
    expected = [id_ for start in range(0, 2500, 500) for id_ in reversed(ids[start : start + 500])]
    assert [row.id for row in read_results(tmp_path)] == expected


def test_which_rows(journal: Journal, tmp_path: Path) -> None:
    rows = [
        record(id="1", scored_at=100.0),
        record(id="2", scored_at=200.0, is_anomaly=True),
        quarantined(id="3", scored_at=300.0),
    ]
    journal.commit([entry_of(row, STAMPS) for row in rows])

    def ids(**which: object) -> list[str]:
        return [row.id for row in read_results(tmp_path, **which)]  # type: ignore[arg-type]

    assert ids() == ["1", "2", "3"]
    assert ids(since=200.0) == ["2", "3"]
    assert ids(anomalies=True) == ["2"]
    assert ids(quarantined=True) == ["3"]
    assert ids(anomalies=True, quarantined=True) == ["2", "3"]
    assert ids(anomalies=True, quarantined=True, since=250.0) == ["3"]
    assert ids(since=301.0) == []


def test_an_absent_journal_has_no_rows(tmp_path: Path) -> None:
    assert list(read_results(tmp_path / "nowhere")) == []
    assert not (tmp_path / "nowhere").exists()


def test_a_commit_is_all_or_nothing(journal: Journal, tmp_path: Path) -> None:
    broken = entry_of(record(id="b", status="impossible"), STAMPS)
    with pytest.raises(JournalError, match="cannot be written"):
        journal.commit([owed("a"), broken])
    assert list(read_results(tmp_path)) == []
    assert Ledger(journal, "line1").actions() == []
    journal.commit([owed("a")])  # and the journal goes on
    assert [row.id for row in read_results(tmp_path)] == ["a"]


def test_a_repeated_commit_adds_nothing(journal: Journal, tmp_path: Path) -> None:
    entries = [entry(id="a"), owed("b")]
    journal.commit(entries)
    journal.commit([*entries, entry(id="c")])
    assert [row.id for row in read_results(tmp_path)] == ["a", "b", "c"]
    assert len(Ledger(journal, "line1").actions()) == 1


def test_a_commit_is_there_after_a_kill(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from edged.journal.journal import Journal\n"
        "from tests.edged.making import entry\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "for number in range(10_000):\n"
        "    journal.commit([entry(id=f'{number:06}-{half}') for half in 'ab'])\n"
        "    print(number, flush=True)\n"
    )
    arguments = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) >= 20:
                break
        writer.send_signal(signal.SIGKILL)
        told = max([20, *(int(line) for line in writer.stdout if line.strip().isdigit())])
    ids = [row.id for row in read_results(tmp_path)]
    assert len(ids) % 2 == 0  # never half a commit
    assert ids == [f"{number:06}-{half}" for number in range(len(ids) // 2) for half in "ab"]
    assert len(ids) // 2 >= told + 1
    Journal(tmp_path).close()


def test_a_commit_waits_for_the_disk(journal: Journal) -> None:
    # FULL is 2: without it a commit returns before it is durable. WAL lets readers read meanwhile.
    journal.add_sink("lines")
    journal.delivered("lines", 0)  # which may come again, and so does not wait
    journal.commit([entry()])
    assert journal._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_second_daemon_is_refused_and_told_of_the_first(journal: Journal, tmp_path: Path) -> None:
    with pytest.raises(JournalError, match=f"process {os.getpid()}"):
        Journal(tmp_path)
    journal.close()
    Journal(tmp_path).close()


def test_a_journal_of_a_newer_edged_is_refused_and_kept(tmp_path: Path) -> None:
    path = tmp_path / FILE
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA application_id = {0x65646764}")
        db.execute("PRAGMA user_version = 99")
    db.close()
    content = path.read_bytes()
    for _ in range(2):  # the lock was let go of
        with pytest.raises(SchemaError, match="newer edged"):
            Journal(tmp_path)
    with pytest.raises(SchemaError, match="newer edged"):
        list(read_results(tmp_path))
    assert path.read_bytes() == content


def test_a_state_dir_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"check service\.state_dir"):
        Journal(tmp_path / "file" / "state")


# Kept files.


def test_marks_of_kept_files(journal: Journal) -> None:
    paths = [b"/in/%05d\xff.png" % number for number in range(2300)]
    journal.commit([entry_of(record(id=str(i), path=os.fsdecode(path)), STAMPS) for i, path in enumerate(paths)])
    assert list(Ledger(journal, "line1").kept()) == [(path, 100, 10**18) for path in paths]
    assert list(Ledger(journal, "line2").kept()) == []
    assert Ledger(journal, "line1").kept_sha256(paths[0]) == "ab" * 32
    assert Ledger(journal, "line1").kept_sha256(b"/in/other") is None
    newer = entry_of(record(id="new", path=os.fsdecode(paths[0]), sha256="ef" * 32), Fingerprint(8, 101, 10**18 + 1))
    journal.commit([newer])
    assert next(Ledger(journal, "line1").kept()) == (paths[0], 101, 10**18 + 1)
    assert Ledger(journal, "line1").kept_sha256(paths[0]) == "ef" * 32
    journal.commit([Entry(None, [Ledger(journal, "line1").refresh(paths[0], Fingerprint(9, 101, 10**18 + 2))])])
    assert next(Ledger(journal, "line1").kept()) == (paths[0], 101, 10**18 + 2)
    assert Ledger(journal, "line1").kept_sha256(paths[0]) == "ef" * 32


def test_a_mark_is_forgotten_unless_it_was_renewed(journal: Journal) -> None:
    for number, name in enumerate(("a", "b")):
        journal.commit([entry_of(record(id=str(number), path=f"/in/{name}"), STAMPS)])
    journal.commit([Entry(None, [Ledger(journal, "line1").refresh(b"/in/b", Fingerprint(1, 2, 3))])])
    Ledger(journal, "line1").forget_kept([(b"/in/a", 100, 10**18), (b"/in/b", 100, 10**18)])
    assert list(Ledger(journal, "line1").kept()) == [(b"/in/b", 2, 3)]


def test_stamps_of_any_inode_fit_sqlite(journal: Journal, tmp_path: Path) -> None:
    status = os.stat_result((0o100644, (1 << 64) - 1, 0, 1, 0, 0, 5, 0, 0, 0), {"st_mtime_ns": 10**18})  # type: ignore[arg-type]
    fingerprint = Fingerprint.of(status)
    journal.commit([entry_of(record(id="a"), fingerprint, FileAction("a", "line1", b"/in/a", fingerprint, "delete"))])
    assert Ledger(journal, "line1").actions()[0].fingerprint == fingerprint


# Disposals.


def test_disposals_are_owed_until_they_are_struck(journal: Journal, tmp_path: Path) -> None:
    journal.commit([owed("1", b"/in/\xff\n.png"), owed("2", action="delete"), entry(id="3")])
    first, second = Ledger(journal, "line1").actions()
    assert (first.id, first.path, first.fingerprint, first.action) == ("1", b"/in/\xff\n.png", STAMPS, "move")
    assert second.action == "delete"
    assert Ledger(journal, "other").actions() == []
    journal.close()
    again = Journal(tmp_path)
    assert Ledger(again, "line1").actions() == [first, second]
    Ledger(again, "line1").done(["1"])
    assert Ledger(again, "line1").actions() == [second]
    again.close()


# The outbox.


def test_a_sink_is_given_what_came_after_it_in_order(journal: Journal, tmp_path: Path) -> None:
    journal.commit([entry(id="before")])
    journal.add_sink("out")
    assert journal.undelivered("out", 10) == []
    assert journal.backlog("out") == 0
    journal.commit([entry(id=str(number)) for number in range(5)])
    assert journal.backlog("out") == 5
    rows = journal.undelivered("out", 3)
    assert [row.id for _, row in rows] == ["0", "1", "2"]
    assert [row.id for _, row in journal.undelivered("out", 3)] == ["0", "1", "2"]  # until it says that it has them
    journal.delivered("out", rows[-1][0])
    assert [row.id for _, row in journal.undelivered("out", 3)] == ["3", "4"]
    assert journal.backlog("out") == 2
    journal.close()
    again = Journal(tmp_path)
    again.add_sink("out")  # a sink that is known goes on where it was
    assert [row.id for _, row in again.undelivered("out", 10)] == ["3", "4"]
    again.close()


def test_sinks_do_not_disturb_each_other(journal: Journal) -> None:
    journal.add_sink("one")
    journal.add_sink("two")
    journal.commit([entry(id="a"), entry(id="b")])
    journal.delivered("one", journal.undelivered("one", 1)[0][0])
    assert [row.id for _, row in journal.undelivered("one", 9)] == ["b"]
    assert [row.id for _, row in journal.undelivered("two", 9)] == ["a", "b"]


# Retention.


def test_prune_removes_what_is_old_and_delivered_and_keeps_marks(journal: Journal, tmp_path: Path) -> None:
    journal.add_sink("out")
    for number in range(6):
        one = record(id=str(number), path=f"/in/{number}.png", scored_at=100.0 + number)
        journal.commit([entry_of(one, STAMPS)])
    assert journal.prune(104.0, ["out"]) == 0  # nothing has reached the sink
    journal.delivered("out", journal.undelivered("out", 3)[-1][0])
    assert journal.prune(104.0, ["out"]) == 3  # 0 to 2 did
    assert [row.id for row in read_results(tmp_path)] == ["3", "4", "5"]
    journal.delivered("out", journal.undelivered("out", 9)[-1][0])
    assert journal.prune(104.0, ["out"]) == 1  # 4 and 5 are young
    assert [row.id for row in read_results(tmp_path)] == ["4", "5"]
    assert len(list(Ledger(journal, "line1").kept())) == 6
    assert Ledger(journal, "line1").kept_sha256(b"/in/0.png") == "ab" * 32


def test_prune_forgets_sinks_that_are_no_more(journal: Journal, tmp_path: Path) -> None:
    journal.add_sink("gone")
    journal.commit([entry(id="a", scored_at=1.0)])
    assert journal.prune(10.0, []) == 1
    assert list(read_results(tmp_path)) == []


def test_prune_goes_in_steps_and_ids_are_not_used_again(journal: Journal, tmp_path: Path) -> None:
    journal.add_sink("out")
    journal.commit([entry(id=str(number), scored_at=1.0) for number in range(25)])
    last = journal.undelivered("out", 99)[-1][0]
    journal.delivered("out", last)
    assert [journal.prune(10.0, ["out"], limit=10) for _ in range(4)] == [10, 10, 5, 0]
    assert journal.backlog("out") == 0
    journal.commit([entry(id="next")])
    assert [(seq > last, row.id) for seq, row in journal.undelivered("out", 9)] == [(True, "next")]


# Many at once.


def test_a_reader_reads_while_a_writer_writes(journal: Journal, tmp_path: Path) -> None:
    journal.commit([entry(id="-1")])
    errors: list[BaseException] = []

    def write(start: int) -> None:
        try:
            for number in range(start, start + 50):
                journal.commit([entry(id=f"{number:03}-{half}") for half in "ab"])
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    writers = [threading.Thread(target=write, args=[100 * number]) for number in (1, 2, 3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        rows = list(read_results(tmp_path))
        assert len({row.id for row in rows}) == len(rows)
        assert len(rows) % 2 == 1
    for writer in writers:
        writer.join()
    assert errors == []
    assert len(list(read_results(tmp_path))) == 301


def test_size(journal: Journal, tmp_path: Path) -> None:
    journal.commit([entry(id=str(number)) for number in range(100)])
    on_disk = sum(path.stat().st_size for path in tmp_path.glob("journal.sqlite*") if not path.name.endswith("-shm"))
    assert journal.size_bytes() == on_disk > 10_000


def test_a_journal_that_fails_says_so_and_recovers(journal: Journal, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / FILE) as other:
        other.execute("ALTER TABLE results RENAME TO away")
    with pytest.raises(JournalError, match="cannot be written"):
        journal.commit([entry(id="a")])
    with pytest.raises(JournalError, match="cannot be read"):
        list(read_results(tmp_path))
    with other:
        other.execute("ALTER TABLE away RENAME TO results")
    other.close()
    journal.commit([entry(id="a")])
    assert [row.id for row in read_results(tmp_path)] == ["a"]


def test_an_event_is_one_row_and_sinks_get_it_as_it_opens_and_as_it_closes(journal: Journal, tmp_path: Path) -> None:
    event = Event(state="open", started_at=1.5, peak_at=2.5, ended_at=3.5, frames=3, offset_s=None)
    one = record(is_anomaly=True, event=event)
    journal.add_sink("lines")
    journal.commit([Entry(one)])
    journal.commit([entry()])
    ((first, given), (second, _)) = journal.undelivered("lines", 10)
    assert given == one
    journal.delivered("lines", second)
    longer = replace(one, score=9.0, event=replace(event, ended_at=4.5, frames=9))
    journal.commit([Entry(longer)])
    assert journal.undelivered("lines", 10) == []
    assert next(iter(read_results(tmp_path))) == longer
    closed = replace(longer, event=replace(event, state="closed"))
    journal.commit([Entry(closed)])
    ((third, given),) = journal.undelivered("lines", 10)
    assert given == closed
    assert first < second < third
    assert [row.id for row in read_results(tmp_path)].count(one.id) == 1
    assert one.delivery_key == f"{one.id}-open" != closed.delivery_key

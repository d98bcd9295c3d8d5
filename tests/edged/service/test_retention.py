import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from edged.journal.journal import Journal
from edged.journal.reading import read_results
from edged.results import new_id
from edged.service.metrics import Metrics
from edged.service.retention import Retention
from edged.settings import RetentionTable
from edged.sinks.images import ImagesSink, ImagesTable
from edged.sources.folder.files import Fingerprint, SetAside
from edged.sources.folder.ledger import Ledger, quarantined, quarantined_bytes
from edged.sources.folder.quarantine import tidy
from tests.edged.making import entry, entry_of, record

DAY = 86_400.0
ANY = 10**15
EVER = 36_500.0


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    one = Journal(tmp_path / "state")
    one.add_sink("lines")
    yield one
    one.close()


def retention(journal: Journal, **changes: float) -> Retention:
    limits = {
        "results_days": EVER,
        "results_max_bytes": ANY,
        "quarantine_days": None,
        "quarantine_max_bytes": ANY,
        "images_days": EVER,
        "images_max_bytes": ANY,
    }
    limits_of = RetentionTable.model_construct(**{**limits, **changes})
    return Retention(journal, limits_of, Metrics(CollectorRegistry()), sinks=["lines"], tidy=[tidy(journal, limits_of)])


def fill(journal: Journal, count: int, *, days_old: float = 0.0) -> None:
    when = time.time() - days_old * DAY
    for start in range(0, count, 500):
        paths = [f"/in/{days_old}-{number}.png" for number in range(start, min(count, start + 500))]
        journal.commit([entry_of(record(path=path, scored_at=when), Fingerprint(1, 2, 3)) for path in paths])


def deliver(journal: Journal) -> None:
    while rows := journal.undelivered("lines", 1000):
        journal.delivered("lines", rows[-1][0])


def test_results_go_by_days_and_marks_stay(journal: Journal, tmp_path: Path) -> None:
    fill(journal, 2500, days_old=3)
    fill(journal, 10)
    keeper = retention(journal, results_days=2)
    assert keeper.run(600) is False
    assert len(list(read_results(tmp_path / "state"))) == 2510  # the sink has none of them
    deliver(journal)
    assert keeper.run(0) is True  # one step at a time
    assert len(list(read_results(tmp_path / "state"))) == 1510
    assert keeper.run(600) is False
    assert len(list(read_results(tmp_path / "state"))) == 10
    assert len(list(Ledger(journal, "line1").kept())) == 2510


def test_results_go_by_bytes_the_oldest_first_and_the_file_shrinks(journal: Journal, tmp_path: Path) -> None:
    for _ in range(16):
        journal.commit([entry(error="x" * 1000) for _ in range(500)])
    before, all_ids = journal.size_bytes(), [row.id for row in read_results(tmp_path / "state")]
    most = 5_000_000
    assert journal.used_bytes() > 2 * most
    keeper = retention(journal, results_max_bytes=most)
    deliver(journal)
    assert keeper.run(600) is False
    assert 0.7 * most < journal.used_bytes() <= 0.9 * most
    ids = [row.id for row in read_results(tmp_path / "state")]
    assert ids == all_ids[-len(ids) :]
    assert journal.size_bytes() < 0.6 * before
    assert keeper.run(600) is False
    assert [row.id for row in read_results(tmp_path / "state")] == ids


def test_a_dead_sink_does_not_let_the_journal_grow_without_end(journal: Journal, tmp_path: Path) -> None:
    for _ in range(16):
        journal.commit([entry(error="x" * 1000) for _ in range(500)])
    most, metrics = 5_000_000, Metrics(CollectorRegistry())
    keeper = Retention(journal, RetentionTable(results_max_bytes=most), metrics, sinks=["lines"])
    assert keeper.run(600) is False
    assert journal.used_bytes() <= 0.9 * most
    left = [row.id for row in read_results(tmp_path / "state")]
    dropped = metrics.registry.get_sample_value("edged_sink_dropped_total", {"sink": "lines"})
    assert dropped == 8000 - len(left) > 0  # each is counted
    assert journal.backlog("lines") == len(left)
    assert [row.id for _, row in journal.undelivered("lines", 9000)] == left  # and the rest still comes, in order


def test_a_sink_that_is_not_configured_holds_nothing_back_and_goes_on_when_it_is_again(
    journal: Journal, tmp_path: Path
) -> None:
    journal.add_sink("away")
    fill(journal, 100, days_old=3)
    fill(journal, 10)
    deliver(journal)
    assert retention(journal, results_days=2).run(60) is False
    assert len(list(read_results(tmp_path / "state"))) == 10
    journal.add_sink("away")
    assert journal.backlog("away") == 10
    assert len(journal.undelivered("away", 100)) == 10


class Aside:
    """Files in quarantine, as the file actions leave them."""

    def __init__(self, journal: Journal, folder: Path) -> None:
        self.journal, self.folder = journal, folder
        folder.mkdir()

    def put(self, name: str, *, days_old: float = 0.0, size: int = 100) -> SetAside:
        path, id_ = self.folder / name, new_id()
        path.write_bytes(b"x" * size)
        Path(f"{path}.json").write_text(json.dumps({"id": id_}))
        one = SetAside(id_, "line1", os.fsencode(path), Fingerprint.of(path.lstat()), time.time() - days_old * DAY)
        Ledger(self.journal, "line1").done([], [one])
        return one

    def names(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def aside(journal: Journal, tmp_path: Path) -> Aside:
    return Aside(journal, tmp_path / "quarantine")


def test_quarantine_goes_by_days_with_its_sidecars(journal: Journal, aside: Aside) -> None:
    for number in range(120):
        aside.put(f"{number}.png", days_old=3)
    aside.put("young.png")
    retention(journal, quarantine_days=None).run(60)
    assert len(aside.names()) == 242
    assert retention(journal, quarantine_days=2).run(60) is False
    assert aside.names() == ["young.png", "young.png.json"]
    assert [one.path for one in quarantined(journal, 9)] == [os.fsencode(aside.folder / "young.png")]


def test_quarantine_goes_by_bytes_the_oldest_first(journal: Journal, aside: Aside) -> None:
    for number in range(5):
        aside.put(f"{number}.png")
    assert quarantined_bytes(journal) == 500
    retention(journal, quarantine_max_bytes=250).run(60)
    assert [name for name in aside.names() if not name.endswith(".json")] == ["3.png", "4.png"]
    assert quarantined_bytes(journal) == 200


def test_what_others_put_there_is_never_touched(journal: Journal, aside: Aside) -> None:
    (aside.folder / "stranger.png").write_bytes(b"old")
    os.utime(aside.folder / "stranger.png", (1, 1))
    aside.put("replaced.png", days_old=3)
    (aside.folder / "replaced.png").unlink()
    (aside.folder / "replaced.png").write_bytes(b"of a person")
    (aside.folder / "replaced.png.json").write_text("[]")
    aside.put("gone.png", days_old=3)
    (aside.folder / "gone.png").unlink()
    retention(journal, quarantine_days=2, quarantine_max_bytes=0).run(60)
    assert aside.names() == ["replaced.png", "replaced.png.json", "stranger.png"]
    assert quarantined(journal, 9) == []


def test_a_removal_that_was_cut_off_is_ended(journal: Journal, aside: Aside) -> None:
    one = aside.put("a.png", days_old=3)
    os.rename(one.path, aside.folder / f".{one.id}.gone")
    retention(journal, quarantine_days=2).run(60)
    assert aside.names() == []


def test_a_file_that_cannot_be_removed_holds_up_no_other(journal: Journal, aside: Aside) -> None:
    stuck = aside.put("stuck.png", days_old=3)
    (aside.folder / f".{stuck.id}.gone").mkdir()
    (aside.folder / "stuck.png").unlink()
    (aside.folder / "stuck.png").mkdir()  # nothing is put over it, so it cannot be put back either
    for number in range(3):
        aside.put(f"{number}.png", days_old=3)
    assert retention(journal, quarantine_days=2).run(60) is False
    assert [one.id for one in quarantined(journal, 9)] == [stuck.id]


def test_overlays_go_by_days(journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = ImagesSink(ImagesTable(name="overlays", type="images", dir=tmp_path / "overlays"), max_bytes=ANY)
    assert sink.remove_older(time.time()) == 0  # there is no folder yet
    folder = tmp_path / "overlays"
    folder.mkdir()
    ids = []
    for days in (5, 3, 1):
        with monkeypatch.context() as clock:
            then = time.time_ns() - int(days * DAY * 1e9)
            clock.setattr(time, "time_ns", lambda then=then: then)
            ids.append(new_id())
    for id_ in ids:
        (folder / f"{id_}.png").write_bytes(b"x")
    (folder / "of-a-person.png").write_bytes(b"x")
    limits = RetentionTable(images_days=2.0)
    assert Retention(journal, limits, Metrics(CollectorRegistry()), sinks=[], pictures=[sink]).run(60) is False
    assert sorted(path.name for path in folder.iterdir()) == sorted([f"{ids[2]}.png", "of-a-person.png"])

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edged.cli import app
from edged.journal.reading import opened
from edged.sources.folder.table import FolderTable
from edged.sources.folder.whereabouts import find
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, until


def places(site: Site, done: Path | None) -> dict[str, Path | None]:
    table = FolderTable(name="line1", type="folder", path=site.inbox, model="tiny", done_dir=done)
    with opened(site.state) as db:
        assert db is not None
        return {row.id: find(db, table, row) for row in site.rows()}


def test_files_that_stay_are_found_until_they_change(site: Site) -> None:
    site.configure()
    site.start()
    drop(site.inbox / "a.png", good())
    drop(site.inbox / "b.png", b"no picture")
    rows = site.wait_for_rows(2)
    assert places(site, None) == {row.id: Path(row.path) for row in rows}
    os.utime(site.inbox / "a.png", (1, 1))
    (site.inbox / "b.png").unlink()
    assert set(places(site, None).values()) == {None}


def test_files_that_were_moved_are_found_each_under_its_own_name(site: Site) -> None:
    site.configure('after = "move"')
    site.start()
    found = {}
    for number, data in enumerate((good(), bad(), b"no picture")):
        drop(site.inbox / "part.png", data)
        row = site.wait_for_rows(number + 1)[-1]
        until(lambda: not any(site.inbox.iterdir()), "the file to leave")
        found[row.id] = data
    until(lambda: None not in places(site, site.done).values(), "the journal to know of the file in quarantine")
    for id_, path in places(site, site.done).items():
        assert path is not None
        assert path.read_bytes() == found[id_]
    assert Path(str(places(site, site.done)[row.id])).parent == site.quarantine


@pytest.mark.parametrize("after", ["delete", "move"])
def test_the_command_says_where(site: Site, after: str) -> None:
    site.configure(f'after = "{after}"')
    site.start()
    drop(site.inbox / "a.png", good())
    (row,) = site.wait_for_rows(1)
    until(lambda: not any(site.inbox.iterdir()), "the file to leave")
    assert site.stop() == 0
    line = CliRunner().invoke(app, ["results", "-c", str(site.config)]).stdout.splitlines()[1]
    now = "no longer there" if after == "delete" else f"now {site.done}/a.png"
    assert line.endswith(f"{row.path}  ({now})")
    assert row.id in line

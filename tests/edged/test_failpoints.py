"""A crash between every two durable steps, and nothing lost or doubled by it."""

import os
import re
import shutil
import signal
from pathlib import Path

import pytest

import edged
from edged.failpoints import POINTS
from tests.edged.daemons import Site
from tests.edged.killing import Line
from tests.edged.making import drop, until

# Where a rename without overwriting is not to be had, as on NFS.
WITHOUT_RENAMEAT2 = ("strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=renameat2", "-e")
WITHOUT_RENAMEAT2 += ("inject=renameat2:error=EINVAL",)
LATER = {"claimed": 5, "opened": 5, "decoded": 5, "drawing": 5, "drawn": 2, "disposing": 3, "held": 3, "linked": 3}
"""How often a point is passed by before the crash, where it is come by once a picture; else none."""


def start_to_crash(site: Site, point: str, *, prefix: tuple[str, ...] = ()) -> None:
    site.start(wait=False, prefix=prefix, environment={"EDGED_FAILPOINT": f"{point}:{LATER.get(point, 0) + 1}"})


def wait_for_crash(site: Site) -> None:
    assert site.process is not None
    assert site.process.wait(timeout=120) == -signal.SIGKILL, site.log.read_text()[-2000:]
    assert site.said("armed to kill itself, as only a test should be")
    site.process = None


@pytest.mark.parametrize("point", [point for point in POINTS if not point.startswith("prun")])
def test_a_crash_at_every_point(line: Line, point: str) -> None:
    if point in {"copied", "marked", "placed"} and line.inboxes[-1].source != "far":
        pytest.skip("takes two file systems: /dev/shm is not one of its own")
    prefix = WITHOUT_RENAMEAT2 if point == "linked" else ()
    if prefix and shutil.which("strace") is None:
        if os.environ.get("CI"):
            pytest.fail("strace is not installed; CI installs it")
        pytest.skip("strace is not installed (Debian: apt install strace)")
    for inbox in line.inboxes:
        for number in range(5):
            line.producer.put(inbox, b"%d.png" % number)
        line.producer.put(inbox, b"bad.png", is_good=False)
    start_to_crash(line.site, point, prefix=prefix)
    if point == "refreshed":
        (keeps,) = [inbox for inbox in line.inboxes if inbox.after == "keep"]
        until(lambda: line.rows() == len(line.producer.dropped), "every row")
        drop(keeps.folder / "0.png", (keeps.folder / "0.png").read_bytes())
    wait_for_crash(line.site)
    account = line.finish(restarts=0)
    assert account.problems == []
    assert account.rows == account.dropped == 7 * len(line.inboxes)


@pytest.mark.parametrize("point", ["pruning", "pruned"])
def test_a_crash_while_old_results_are_removed(tmp_path: Path, point: str) -> None:
    line = Line(tmp_path, seed=1, rest="[retention]\nresults_days = 0.00001")
    site = line.site
    try:
        for inbox in line.inboxes:
            for number in range(3):
                line.producer.put(inbox, b"%d.png" % number)
        site.start()
        site.wait_for_lines(9)
        until(line.at_rest, "files to leave and sinks to be fed")
        assert site.stop() == 0
        first = {line_["id"] for line_ in site.lines()}
        until(lambda: os.stat(site.jsonl).st_mtime + 1.0 < os.stat(_touched(tmp_path)).st_mtime, "results to be old")
        start_to_crash(site, point)
        wait_for_crash(site)
        assert len(line.ask("SELECT id FROM results")) == (9 if point == "pruning" else 0)
        for inbox in line.inboxes:
            line.producer.put(inbox, b"new.png")
        site.start()
        site.wait_for_lines(12)
        assert site.stop() == 0
        ids = [line_["id"] for line_ in site.lines()]
        assert len(ids) == len(set(ids)) == 12
        assert first <= set(ids)
        assert not {row[0] for row in line.ask("SELECT id FROM results")} & first
    finally:
        line.clean_up()


def _touched(folder: Path) -> Path:
    (folder / "now").touch()
    return folder / "now"


def test_every_point_is_in_the_code_once() -> None:
    texts = [path.read_text() for path in Path(edged.__file__).parent.rglob("*.py")]
    found = [name for text in texts for name in re.findall(r'failpoints\.reach\("(\w+)"\)', text)]
    assert sorted(found) == sorted(POINTS)


def test_an_unknown_point_is_refused(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.start(wait=False, environment={"EDGED_FAILPOINT": "nowhere"})
    assert site.process is not None
    assert site.process.wait(timeout=60) == 2
    assert "EDGED_FAILPOINT: nowhere is no place" in site.log.read_text()

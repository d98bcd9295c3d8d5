"""The clock of the machine jumps by a year, both ways, while the daemon works and while it is killed."""

import os
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.edged.killing import Line, other_file_system
from tests.edged.making import until

DAY_S = 86_400


@pytest.fixture
def line(tmp_path: Path) -> Iterator[Line]:
    far = other_file_system(tmp_path)
    one = Line(tmp_path, seed=7, far=far, rest="[retention]\nresults_days = 3650\nimages_days = 3650")
    before = left_by_libfaketime()
    yield one
    one.clean_up()
    for file in left_by_libfaketime() - before:  # which cannot tidy up when it is killed
        file.unlink(missing_ok=True)
    if far is not None:
        shutil.rmtree(far)


def left_by_libfaketime() -> set[Path]:
    return set(Path("/dev/shm").glob("*faketime_*"))


def library() -> Path:
    for found in sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")):
        return found
    if os.environ.get("CI"):
        pytest.fail("libfaketime is not installed; CI installs it")
    pytest.skip("libfaketime is not installed (Debian: apt install faketime)")


def test_a_clock_that_jumps_a_year_both_ways(line: Line) -> None:
    clock = line.site.root / "clock"
    clock.write_text("+0d")
    # The wall clock alone: the monotonic one never jumps, and the times of files are the file system's.
    line.site.environment |= {
        "LD_PRELOAD": str(library()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }
    for number, days in enumerate((365, -365, 365)):
        line.site.start()
        line.fill(f"before-{number}", 4)
        until(lambda: line.rows() == len(line.producer.dropped), "every row", 120)
        clock.write_text(f"{days:+}d")
        line.fill(f"after-{number}", 4)
        until(lambda: line.rows() >= len(line.producer.dropped) - 6, "rows after the jump", 120)
        line.site.kill()
    account = line.finish()
    assert account.problems == []
    assert account.rows == account.dropped
    scored_at = [row[0] for row in line.ask("SELECT scored_at FROM results ORDER BY seq")]
    steps = [later - earlier for earlier, later in pairwise(scored_at)]
    assert max(steps) > 364 * DAY_S  # it did jump, forwards
    assert min(steps) < -364 * DAY_S  # and back

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from edged.errors import SinkError
from edged.results import Record
from edged.sinks.jsonl import JsonlSink, JsonlTable
from tests.edged.making import record


def publish(path: Path, *records: Record, **keys: int) -> None:
    sink = JsonlSink(JsonlTable(name="lines", type="jsonl", path=path, **keys))
    sink.publish(records, 10.0)
    sink.close()


def ids(path: Path) -> list[str]:
    return [json.loads(line)["id"] for line in path.read_text("ascii").splitlines()]


def test_lines(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.jsonl"
    records = [record(id=str(number), path=f"/in/\n{number}.png") for number in range(3)]
    publish(path, *records[:2])
    publish(path, records[2])
    assert path.read_text() == "".join(one.to_json() + "\n" for one in records)
    assert path.stat().st_mode & 0o777 == 0o640 & ~os.umask(os.umask(0))


@pytest.mark.parametrize("torn", ["{", '{"id": "torn', '{"id": "' + "x" * 200_000, "\0" * 5000, '{"id": "1\0\0'])
@pytest.mark.parametrize("before", [0, 1, 3])
def test_a_torn_last_line_is_cut_off_and_no_other(tmp_path: Path, torn: str, before: int) -> None:
    path = tmp_path / "results.jsonl"
    publish(path, *[record(id=str(number)) for number in range(before)])
    with path.open("a") as file:
        file.write(torn)
    publish(path, record(id="next"))
    assert ids(path) == [*(str(number) for number in range(before)), "next"]


def test_nothing_is_cut_off_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text("somebody's own line\n")
    publish(path, record(id="next"))
    assert path.read_text().startswith("somebody's own line\n{")


@pytest.mark.parametrize(
    "content", [b"SQLite format 3\0\n{", b"\x89PNG\r\n\x1a\n", b"[service]\nstate_dir = 1", b'{"id"}\nno newline']
)
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(SinkError, match="is not a file of lines of JSON; move it away, or choose another path"):
        publish(path, record(id="next"))
    assert path.read_bytes() == content


def line_bytes() -> int:
    return len(record(id="1").to_json()) + 1


def backups(path: Path) -> dict[str, list[str]]:
    """What is in a file, and in whatever it became."""
    return {one.name.removeprefix(path.name): ids(one) for one in sorted(path.parent.iterdir())}


def test_a_file_that_would_grow_too_large_becomes_the_first_backup_and_the_oldest_goes(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    sink = JsonlSink(JsonlTable(name="lines", type="jsonl", path=path, max_bytes=2 * line_bytes(), max_backups=2))
    seen = []
    for number in range(1, 8):
        sink.publish([record(id=str(number))], 10.0)
        seen.append(backups(path))
    sink.close()
    assert seen[1] == {"": ["1", "2"]}  # as large as it may be
    assert seen[2] == {"": ["3"], ".1": ["1", "2"]}
    assert seen[5] == {"": ["5", "6"], ".1": ["3", "4"], ".2": ["1", "2"]}
    assert seen[6] == {"": ["7"], ".1": ["5", "6"], ".2": ["3", "4"]}


def test_what_is_given_at_once_stands_in_one_file(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for start in (0, 10):
        publish(path, *[record(id=str(number)) for number in range(start, start + 5)], max_bytes=2 * line_bytes())
    publish(path, record(id="last"), max_bytes=2 * line_bytes())
    assert backups(path) == {"": ["last"], ".1": ["10", "11", "12", "13", "14"], ".2": ["0", "1", "2", "3", "4"]}


def test_a_torn_last_line_is_cut_off_before_its_file_becomes_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    publish(path, record(id="1"))
    with path.open("a") as file:
        file.write('{"id": "torn')
    publish(path, record(id="2"), max_bytes=line_bytes())
    assert backups(path) == {"": ["2"], ".1": ["1"]}


def test_without_a_bound_it_is_never_rotated(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    for number in range(3):
        publish(path, *[record(id=str(number))] * 500, max_bytes=0)
    assert list(backups(path)) == [""]


@pytest.mark.parametrize("there", [{1, 2, 3}, {2, 3}, {1, 3}, {1, 2}, set()])
def test_a_rotation_that_was_cut_off_loses_no_backup_more(tmp_path: Path, there: set[int]) -> None:
    path = tmp_path / "results.jsonl"
    publish(path, record(id="now"))
    for number in there:
        publish(path.with_name(f"{path.name}.{number}"), record(id=f"was {number}"))
    publish(path, record(id="next"), max_bytes=line_bytes(), max_backups=3)
    kept = sorted(had for name, (had,) in backups(path).items() if name)
    assert kept == ["now", *(f"was {number}" for number in sorted(there - ({3} if len(there) == 3 else set())))]
    assert ids(path) == ["next"]


def test_a_file_that_cannot_be_rotated_fails_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    publish(path, record(id="1"))
    (tmp_path / "results.jsonl.1").mkdir()
    with pytest.raises(SinkError, match=r"cannot be renamed to results\.jsonl\.1: Is a directory; .* max_bytes = 0"):
        publish(path, record(id="2"), max_bytes=line_bytes(), max_backups=1)
    assert ids(path) == ["1"]


def test_backups_are_beside_the_file_and_not_beside_a_link_to_it(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "results.jsonl").symlink_to(there / "lines")
    for number in range(2):
        publish(tmp_path / "results.jsonl", record(id=str(number)), max_bytes=line_bytes())
    assert backups(there / "lines") == {"": ["1"], ".1": ["0"]}
    assert (tmp_path / "results.jsonl").is_symlink()


def test_keys_that_make_no_sense() -> None:
    table = JsonlTable(name="lines", type="jsonl", path=Path("/results.jsonl"), max_bytes=100)
    assert table.problems() == [
        "max_bytes: 100 bytes are a line or two; give 1000 or more, or 0 to never rotate the file"
    ]
    for keys in ({"max_bytes": -1}, {"max_backups": 0}):
        with pytest.raises(ValidationError):
            JsonlTable(name="lines", type="jsonl", path=Path("/results.jsonl"), **keys)


@pytest.mark.parametrize("how", ["rename", "remove", "truncate"])
def test_a_file_that_somebody_else_rotates(tmp_path: Path, how: str) -> None:
    path = tmp_path / "results.jsonl"
    sink = JsonlSink(JsonlTable(name="lines", type="jsonl", path=path))
    sink.publish([record(id="1")], 10.0)
    if how == "rename":
        path.rename(tmp_path / "results.jsonl.1")
    elif how == "remove":
        path.unlink()
    else:
        os.truncate(path, 0)  # copytruncate
    sink.publish([record(id="2")], 10.0)
    sink.publish([record(id="3")], 10.0)
    sink.close()
    assert ids(path) == ["2", "3"]
    if how == "rename":
        assert ids(tmp_path / "results.jsonl.1") == ["1"]


def test_what_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "results.jsonl", tmp_path):
        with pytest.raises(SinkError, match="cannot be written"):
            publish(path, record())
    sink = JsonlSink(JsonlTable(name="lines", type="jsonl", path=tmp_path / "file" / "results.jsonl"))
    with pytest.raises(SinkError):
        sink.publish([record(id="1")], 10.0)
    (tmp_path / "file").unlink()
    sink.publish([record(id="1")], 10.0)  # and the same sink goes on when it can
    sink.close()
    assert ids(tmp_path / "file" / "results.jsonl") == ["1"]


def test_a_write_that_fails_half_way_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    # A limit on the size of files stands in for a full disk.
    program = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from edged.errors import SinkError\n"
        "from edged.sinks.jsonl import JsonlSink, JsonlTable\n"
        "from tests.edged.making import record\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "sink = JsonlSink(JsonlTable(name='lines', type='jsonl', path=Path(sys.argv[1])))\n"
        "sink.publish([record(id='1')], 10.0)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "try:\n"
        "    sink.publish([record(id=str(number)) for number in range(2, 9)], 10.0)\n"
        "except SinkError:\n"
        "    print(Path(sys.argv[1]).stat().st_size)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "sink.publish([record(id=str(number)) for number in range(2, 9)], 10.0)\n"
    )
    assert signal.SIGXFSZ
    assert resource.RLIMIT_FSIZE
    path = tmp_path / "results.jsonl"
    told = subprocess.check_output([sys.executable, "-c", program, str(path)], text=True)
    assert int(told) == path.read_text().index("\n") + 1
    assert ids(path) == [str(number) for number in range(1, 9)]

import csv
import os
from pathlib import Path

import pytest

from edged.errors import SinkError
from edged.results import COLUMNS, Record, csv_line
from edged.sinks.csv import CsvSink, CsvTable
from tests.edged.making import quarantined, record


def publish(path: Path, *records: Record, **keys: int) -> None:
    sink = CsvSink(CsvTable(name="table", type="csv", path=path, **keys))
    sink.publish(records, 10.0)
    sink.close()


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_one_header_and_a_line_a_record(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "results.csv"
    one, two, three = (
        record(path='/in/"a",b.png'),
        quarantined(error="=1+1"),
        record(is_anomaly=True, path="/in/\n.png"),
    )
    publish(path, one, two)
    publish(path, three)
    found = rows(path)
    assert [row["id"] for row in found] == [one.id, two.id, three.id]
    assert tuple(found[0]) == COLUMNS
    assert (found[0]["path"], found[0]["score"], found[0]["is_anomaly"]) == ('/in/"a",b.png', "0.25", "false")
    assert (found[1]["error"], found[1]["score"]) == ("'=1+1", "")
    assert (found[2]["path"], found[2]["captured_at"]) == ("/in/\\n.png", "2023-11-14T22:13:20.125Z")
    assert path.read_bytes().count(b"\r\n") == 4


@pytest.mark.parametrize("torn", ["0", "\0" * 5000, "id,sou", "x" * 100_000])
@pytest.mark.parametrize("before", [1, 3])
def test_a_torn_last_line_is_cut_off_and_no_other(tmp_path: Path, torn: str, before: int) -> None:
    path = tmp_path / "results.csv"
    publish(path, *[record(id=str(number)) for number in range(before)])
    with path.open("a") as file:
        file.write(torn)
    publish(path, record(id="next"))
    assert [row["id"] for row in rows(path)] == [*(str(number) for number in range(before)), "next"]


@pytest.mark.parametrize("torn", ["", "id,sou", "\0" * 100, csv_line(COLUMNS)[:-1]])
def test_a_torn_header_is_written_again(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(torn.encode())
    publish(path, record(id="next"))
    assert [row["id"] for row in rows(path)] == ["next"]


def test_a_file_of_an_older_edged_keeps_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(b"id,score\r\n1,0.5\r\n")
    publish(path, record(id="2"))
    assert path.read_bytes() == b"id,score\r\n1,0.5\r\n2,0.25\r\n"


@pytest.mark.parametrize(
    "content",
    [b"name,price\r\nx,1\r\n", b"id,score\n1,2\n", b"\x89PNG\r\n\x1a\n", "Größe,Preis\r\n".encode(), b"hello"],
)
def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(SinkError, match="is not a file of results as CSV; move it away, or choose another path"):
        publish(path, record())
    assert path.read_bytes() == content


def test_names_beyond_ascii(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    paths = ["/in/Gehäuse.png", "/in/部品.png", "/in/\udcc3.png", "/in/\u202egnp.png"]
    publish(path, *[record(path=path) for path in paths])
    publish(path, record(path="/in/next.png"))  # to a file that holds such names
    shown = ["/in/Gehäuse.png", "/in/部品.png", "/in/\\udcc3.png", "/in/\\u202egnp.png", "/in/next.png"]
    assert [row["path"] for row in rows(path)] == shown


def test_rotation_by_renaming(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    sink = CsvSink(CsvTable(name="table", type="csv", path=path))
    sink.publish([record(id="1")], 10.0)
    path.rename(tmp_path / "results.csv.1")
    sink.publish([record(id="2")], 10.0)
    os.truncate(path, 0)
    sink.publish([record(id="3")], 10.0)
    sink.close()
    assert [row["id"] for row in rows(tmp_path / "results.csv.1")] == ["1"]
    assert [row["id"] for row in rows(path)] == ["3"]


def test_every_file_of_a_rotation_has_the_header(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(b"id,score\r\n1,0.5\r\n")
    publish(path, record(id="2"), max_bytes=30)
    assert path.read_bytes() == b"id,score\r\n1,0.5\r\n2,0.25\r\n"
    publish(path, record(id="3"), max_bytes=30)
    assert [row["id"] for row in rows(tmp_path / "results.csv.1")] == ["1", "2"]
    (row,) = rows(path)
    assert (tuple(row), row["id"]) == (COLUMNS, "3")

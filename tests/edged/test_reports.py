import csv
import io
import json
import os
import tomllib

from edged import reports
from tests.edged.making import quarantined, record

STRANGE = os.fsdecode(b"/in/line\nfeed\x1b[31m \xff.png")


def test_nothing_of_nothing() -> None:
    for output in ("table", "json", "csv"):
        assert list(reports.lines([], output)) == []  # type: ignore[arg-type]


def test_json() -> None:
    records = [record(), quarantined(path=STRANGE)]
    lines = list(reports.lines(records, "json"))
    assert [json.loads(line) for line in lines] == [one.to_dict() for one in records]
    assert all(line.endswith("\n") and line.count("\n") == 1 and line.isascii() for line in lines)


def test_table() -> None:
    lines = list(reports.lines([record(), record(is_anomaly=True, score=2.71), quarantined(path=STRANGE)], "table"))
    assert lines[0].split() == ["SCORED", "AT", "ID", "SOURCE", "VERDICT", "SCORE", "THRESHOLD", "RATIO", "P", "PATH"]
    assert lines[1].split()[2:] == ["line1", "ok", "0.2500", "0.5000", "0.50", "0.0400", "/in/a.png"]
    assert lines[1].startswith("2023-11-14T22:13:21.500Z ")
    assert lines[2].split()[3:7] == ["ANOMALY", "2.7100", "0.5000", "5.42"]
    assert "quarantined" in lines[3]
    assert lines[3].endswith("/in/line\\nfeed\\x1b[31m \\udcff.png  (undecodable: broken)\n")
    assert all(line[:-1].isprintable() for line in lines)
    (_, moved) = reports.lines([one := record()], "table", where=lambda _: "now /done/\n.png")
    assert moved.split()[1] == one.id
    assert moved.endswith("/in/a.png  (now /done/\\n.png)\n")


def test_csv_is_read_back_and_runs_no_formula() -> None:
    hostile = ("=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1")
    records = [quarantined(error=text, path=STRANGE) for text in hostile] + [record()]
    text = "".join(reports.lines(records, "csv"))
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == list(record().to_dict())
    assert [len(row) for row in rows] == [len(header)] * 7
    for row in rows[:6]:
        assert row[header.index("error")][0] in "'\\"
        assert row[header.index("path")] == "/in/line\\nfeed\\x1b[31m \\udcff.png"
        assert row[header.index("score")] == ""
    last = dict(zip(header, rows[6], strict=True))
    assert (last["score"], last["is_anomaly"]) == ("0.25", "false")
    assert json.loads(last["timings_ms"]) == {"decode": 2.1, "infer": 9.8}
    assert text.count("\r\n") == 8


def test_toml_is_read_back() -> None:
    tables = {
        "service": {"state_dir": '/srv/\U0001f600 é "quoted" \\ \x7f\n', "days": 1.5, "yes": True},
        "models": {"a": {"path": "/a", "threads": 0}, "b-2": {"path": "/b"}},
        "sources": [{"name": "x", "patterns": ["*.png", "*.jpg"]}, {"name": "y"}],
        "sinks": [],
    }
    assert tomllib.loads(reports.toml(tables)) == {key: value for key, value in tables.items() if value}

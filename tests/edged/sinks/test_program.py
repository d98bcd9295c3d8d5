"""The exec sink with real programs that fail, hang, do not read, say too much, and leave others behind."""

import os
import time
from pathlib import Path

import pytest

from edged.errors import RecordRefusedError, SinkError
from edged.results import Record
from edged.sinks.program import ExecSink, ExecTable
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, quarantined, record, until
from tests.edged.sinks.receiving import Program


def publish(
    folder: Path, script: str, *records: Record, timeout_s: float = 10.0, arguments: tuple[str, ...] = ()
) -> int:
    program = Program(folder, script)
    table = ExecTable(name="run", type="exec", command=(str(program.path), *arguments))
    assert table.problems() == []
    return ExecSink(table).publish(records or [record()], timeout_s)


def test_the_record_is_on_standard_input_and_no_shell_reads_the_arguments(tmp_path: Path) -> None:
    one = quarantined(path="/in/$(touch pwned)\n.png")
    script = 'cat > {file}; echo "$1" > {folder}/argument; pwd > {folder}/where'
    assert publish(tmp_path, script, one, arguments=("$(id); `id`",)) == 1
    assert (tmp_path / "taken").read_text() == one.to_json() + "\n"
    assert (tmp_path / "argument").read_text() == "$(id); `id`\n"
    assert (tmp_path / "where").read_text() == "/\n"


def test_it_is_not_told_how_to_speak_for_the_daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/notify")
    publish(tmp_path, "env > {file}")
    assert "NOTIFY_SOCKET" not in (tmp_path / "taken").read_text()


@pytest.mark.parametrize(
    ("script", "what"),
    [
        ("echo no such valve >&2; exit 3", "failed with exit code 3: no such valve"),
        ("kill -SEGV $$", "died by signal 11"),
        ("exec /nowhere", "failed with exit code 127"),
    ],
)
def test_a_program_that_fails_is_tried_again(tmp_path: Path, script: str, what: str) -> None:
    with pytest.raises(SinkError, match=what) as caught:
        publish(tmp_path, script)
    assert not isinstance(caught.value, RecordRefusedError)


def test_a_program_may_refuse_a_record(tmp_path: Path) -> None:
    with pytest.raises(RecordRefusedError, match="refuses it with exit code 65: an unknown line"):
        publish(tmp_path, "echo an unknown line >&2; exit 65")


@pytest.mark.parametrize(
    "script", ["sleep 60", "sleep 60 & wait", "while :; do echo more >&2; done", "trap '' TERM; sleep 60"]
)
def test_a_program_that_takes_too_long_is_killed_with_what_it_started(tmp_path: Path, script: str) -> None:
    began = time.monotonic()
    with pytest.raises(SinkError, match=r"took longer than 0\.[45] s and was killed"):
        publish(tmp_path, "echo $$ > {file}; " + script, timeout_s=0.5)
    assert time.monotonic() - began < 5
    group = int((tmp_path / "taken").read_text())
    until(lambda: not _lives(group), "its processes to be gone")


def _lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return any(
        fields[2] == str(group) and fields[0] != "Z"
        for stat in Path("/proc").glob("[0-9]*/stat")
        for fields in [_read(stat).rpartition(")")[2].split() or ["Z", "", ""]]
    )


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


@pytest.mark.parametrize("script", [":", "sleep 5 & :", "head -c 1000000 /dev/zero >&2", "exec 2>&-; sleep 0.1"])
def test_what_a_program_does_with_its_streams_is_its_own_affair(tmp_path: Path, script: str) -> None:
    began = time.monotonic()
    assert publish(tmp_path, script) == 1
    assert time.monotonic() - began < 4


def test_a_command_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("")
    for command, why in (
        ("cat", "must be an absolute path"),
        (tmp_path / "text", "is not a program"),
        ("/no", "is not"),
    ):
        (problem,) = ExecTable(name="run", type="exec", command=(str(command),)).problems()
        assert problem.startswith(f"command: {command} {why}")


def test_in_a_daemon_every_record_once_in_order(site: Site, tmp_path: Path) -> None:
    program = Program(tmp_path, "test -e {folder}/mended || exit 1; cat >> {file}")
    site.configure(
        rest=f'''
[[sinks]]
name = "run"
type = "exec"
command = ["{program.path}"]
only = "anomalies"
'''
    )
    site.start()
    for number in range(6):
        drop(site.inbox / f"{number}.png", bad(number) if number % 2 else good(number))
    rows = site.wait_for_rows(6)
    until(lambda: site.metrics()['edged_sink_failures_total{sink="run"}'] >= 1, "a failure")
    (tmp_path / "mended").touch()
    wanted = [row.id for row in rows if row.is_anomaly]
    until(lambda: program.file.exists() and len(program.ids()) == 3, "three records")
    assert program.ids() == wanted
    assert site.stop() == 0

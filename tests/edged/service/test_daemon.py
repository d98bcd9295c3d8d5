import hashlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from edged.errors import REASONS
from edged.media.decoding import MAX_ATTEMPTS
from tests.conftest import TINY
from tests.edged.daemons import AS_ORDINARY_USER, Site
from tests.edged.making import BAD_SCORE, bad, children, drop, encode, good, kill_child, png_header, until


def large(seed: int) -> bytes:
    """A good picture that takes a few milliseconds."""
    pixels = np.random.default_rng(seed).integers(118, 139, (400, 400), dtype=np.uint8)
    return encode(Image.fromarray(pixels), compress_level=1)


# The promises.


def test_hostile_files_among_good_ones(site: Site) -> None:
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:
        prefix = AS_ORDINARY_USER
        if subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode:
            pytest.skip("root cannot give up its capabilities here")
    site.configure('after = "move"', retry_seconds=0.5)
    strange = b"line\nfeed \"quote' \xff\xfe.png"
    outside = site.root / "outside.png"
    outside.write_bytes(good(1000))
    site.start(prefix=prefix)
    for number in range(200):
        drop(site.inbox / f"good-{number:03}.png", good(number))
        if number == 100:
            (site.inbox / "truncated.png").write_bytes(good(5)[:300])
            (site.inbox / "text.png").write_bytes(b"not a picture")
            (site.inbox / "empty.png").write_bytes(b"")
            drop(site.inbox / "huge.png", png_header(20_000, 20_000))
            drop(os.path.join(os.fsencode(site.inbox), strange), good(300))
            (site.inbox / "unreadable.png").write_bytes(good(301))
            (site.inbox / "unreadable.png").chmod(0)
            os.symlink(site.root / "nowhere.png", site.inbox / "dangling.png")
            os.symlink(outside, site.inbox / "link.png")
            os.mkfifo(site.inbox / "fifo.png")
    rows = site.wait_for_rows(206)
    by_name = {os.path.basename(os.fsencode(row.path)): row for row in rows}
    assert len(by_name) == 206
    ok = {name for name, row in by_name.items() if row.status == "ok"}
    assert ok == {b"good-%03d.png" % number for number in range(200)} | {strange}
    reasons = {name: row.reason for name, row in by_name.items() if row.status == "quarantined"}
    assert reasons == {
        b"truncated.png": "undecodable",
        b"text.png": "undecodable",
        b"empty.png": "empty",
        b"huge.png": "picture_too_large",
        b"unreadable.png": "unreadable",
    }
    assert all(row.error for row in rows if row.status == "quarantined")
    assert not any(row.is_anomaly for row in rows if row.status == "ok")
    until(lambda: len(list(site.inbox.iterdir())) == 3, "all but the links and the FIFO to leave")
    until(lambda: not site.owed(), "the last of them to arrive")
    assert {path.name for path in site.inbox.iterdir()} == {"dangling.png", "link.png", "fifo.png"}
    assert {path.name for path in site.quarantine.glob("*.png")} == {os.fsdecode(name) for name in reasons}
    assert len(list(site.quarantine.glob("*.json"))) == 5
    assert {os.fsencode(path.name) for path in site.done.iterdir()} - {b".edged"} == ok
    metrics = site.metrics()
    assert metrics['edged_images_total{outcome="ok",source="line1"}'] == 201
    assert metrics['edged_images_total{outcome="quarantined",source="line1"}'] == 5
    assert metrics['edged_quarantined_total{reason="undecodable",source="line1"}'] == 2
    assert metrics['edged_quarantined_total{reason="unreadable",source="line1"}'] == 1
    assert metrics['edged_skipped_total{reason="symlink",source="line1"}'] == 2
    assert metrics['edged_skipped_total{reason="not_a_file",source="line1"}'] == 1
    assert outside.read_bytes() == good(1000)
    assert site.get("/readyz").text == "ready\n"
    assert len(site.wait_for_lines(206)) == 206
    assert site.stop() == 0
    assert "Traceback" not in site.log.read_text()
    assert len(site.rows()) == 206


@pytest.mark.parametrize("after", ["keep", "move"])
def test_kill_in_the_middle_of_300(site: Site, after: str) -> None:
    site.configure(f'after = "{after}"', settle_seconds=0)
    for number in range(200):
        drop(site.inbox / f"{number:03}.png", large(number))
    site.start()
    killed_at = []
    for target in (40, 150):
        until(lambda wanted=target: len(site.rows()) >= wanted, "rows before the kill", 60)
        decoders = children(site.pid)
        site.kill()
        killed_at.append(len(site.rows()))
        until(lambda gone=decoders: not any(Path(f"/proc/{pid}/exe").exists() for pid in gone), "decoders to end")
        for number in range(150 + 50 * len(killed_at), 200 + 50 * len(killed_at)):
            drop(site.inbox / f"{number:03}.png", large(number))
        site.start()
    assert 40 <= killed_at[0] < 200
    assert 150 <= killed_at[1] < 300
    rows = site.wait_for_rows(300, 90)
    drop(site.inbox / "last.png", good())  # what would be scored twice is scored before this
    rows = site.wait_for_rows(301)
    names = [os.path.basename(row.path) for row in rows]
    assert sorted(names) == sorted([f"{number:03}.png" for number in range(300)] + ["last.png"])
    assert {row.status for row in rows} == {"ok"}
    assert site.stop() == 0
    assert {line["id"] for line in site.lines()} == {row.id for row in rows}
    order = [line["id"] for line in site.lines()]
    first_time = sorted(set(order), key=order.index)
    assert first_time == [row.id for row in rows]  # in order; a repetition is allowed after a crash
    if after == "keep":
        assert len(list(site.inbox.glob("*.png"))) == 301
    else:
        assert list(site.inbox.iterdir()) == []
    if after == "move":
        assert len([path for path in site.done.iterdir() if path.suffix == ".png"]) == 301


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_finishes_what_is_in_work_and_loses_nothing(site: Site, number: int) -> None:
    site.configure(settle_seconds=0)
    for index in range(80):
        drop(site.inbox / f"{index}.png", large(index))
    site.start()
    until(lambda: len(site.rows()) >= 5, "some rows")
    assert site.stop(number) == 0
    rows = site.rows()
    assert 5 <= len(rows) <= 80
    assert [line["id"] for line in site.lines()] == [row.id for row in rows]  # flushed
    assert site.said("stopped")
    site.start()
    assert len({row.path for row in site.wait_for_rows(80)}) == 80
    assert site.stop() == 0
    assert [line["id"] for line in site.lines()] == [row.id for row in site.rows()]


def test_a_second_daemon_is_refused(site: Site, tmp_path: Path) -> None:
    site.start()
    second = subprocess.run(
        [sys.executable, "-m", "edged", "run", "-c", str(site.config)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode != 0
    assert f"process {site.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    drop(site.inbox / "a.png", good())
    site.wait_for_rows(1)
    assert site.stop() == 0


# What happens to files.


@pytest.mark.parametrize("after", ["keep", "move", "delete"])
def test_after(site: Site, after: str) -> None:
    site.configure(f'after = "{after}"')
    site.start()
    site.done.mkdir(exist_ok=True)
    (site.done / "good.png").write_text("was here before")
    (site.inbox / "sub").mkdir()
    drop(site.inbox / "good.png", good())
    drop(site.inbox / "sub" / "bad.png", bad())
    drop(site.inbox / "broken.png", b"broken")
    rows = {os.path.basename(row.path): row for row in site.wait_for_rows(3)}
    assert rows["bad.png"].score == pytest.approx(BAD_SCORE, rel=1e-5)
    assert (rows["good.png"].is_anomaly, rows["bad.png"].is_anomaly, rows["broken.png"].is_anomaly) == (
        False,
        True,
        None,
    )
    left = {"keep": 3, "move": 0, "delete": 0}[after]
    until(lambda: len(list(site.inbox.rglob("*.png"))) == left, "files to leave")
    until(lambda: not site.owed(), "the last of them to arrive")
    assert (site.done / "good.png").read_text() == "was here before"
    if after == "move":
        assert (site.done / f"good.{rows['good.png'].id}.png").read_bytes() == good()
        assert (site.done / "sub" / "bad.png").read_bytes() == bad()
    else:
        assert [path.name for path in site.done.iterdir() if path.suffix] == ["good.png"]
    if after == "keep":
        assert not site.quarantine.exists()
    else:
        assert (site.quarantine / "broken.png").read_bytes() == b"broken"
        assert rows["broken.png"].id in (site.quarantine / "broken.png.json").read_text()
    assert site.stop() == 0


def test_keep_knows_a_change_from_a_touch(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    os.utime(site.inbox / "a.png")
    site.stop()
    os.utime(site.inbox / "a.png", (5, 5))
    site.start()
    drop(site.inbox / "a.png", good(2))
    site.wait_for_rows(2)
    os.utime(site.inbox / "a.png")
    drop(site.inbox / "marker.png", good(3))
    rows = site.wait_for_rows(3)
    assert [os.path.basename(row.path) for row in rows] == ["a.png", "a.png", "marker.png"]
    assert rows[0].sha256 != rows[1].sha256


def test_a_slow_writer_is_scored_whole(site: Site) -> None:
    site.configure(settle_seconds=1.0)
    site.start()
    data = large(7)
    step = len(data) // 8 + 1
    with open(site.inbox / "slow.png", "wb") as file:
        for start in range(0, len(data), step):
            file.write(data[start : start + step])
            file.flush()
            time.sleep(0.25)
    (row,) = site.wait_for_rows(1)
    assert row.status == "ok"
    assert row.sha256 == hashlib.sha256(data).hexdigest()


def test_a_young_broken_file_gets_its_time(site: Site) -> None:
    site.configure(settle_seconds=0.1, retry_seconds=20)
    site.start()
    data = good(4)
    (site.inbox / "a.png").write_bytes(data[:400])
    until(lambda: site.metrics()['edged_stage_duration_seconds_count{stage="decode"}'] >= 1, "a try")
    assert site.rows() == []
    (site.inbox / "a.png").write_bytes(data)
    (row,) = site.wait_for_rows(1)
    assert row.status == "ok"


def test_marks_outlive_results(site: Site) -> None:
    site.start()
    for number in range(5):
        drop(site.inbox / f"{number}.png", good(number))
    site.wait_for_lines(5)
    site.stop()
    time.sleep(1.0)  # results_days below is less than this
    site.configure(rest="[retention]\nresults_days = 0.00001")
    site.start()
    until(lambda: site.rows() == [], "old results to go")
    drop(site.inbox / "new.png", good(9))
    until(lambda: site.metrics()['edged_images_total{outcome="ok",source="line1"}'] == 1, "the new one")
    assert site.metrics()['edged_queue_items{source="line1"}'] == 0
    assert len(site.wait_for_lines(6)) == 6


# Sinks.


def test_a_torn_last_line_is_cut_off(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_lines(1)
    site.kill()
    with site.jsonl.open("a") as file:
        file.write('{"id": "torn')
    site.start()
    drop(site.inbox / "b.png", good(2))
    site.wait_for_rows(2)
    ids = [row.id for row in site.rows()]
    # The first may come twice: the kill can fall between its line and the note that the sink has it.
    until(lambda: site.jsonl.read_bytes().count(ids[1].encode()) == 1, "the second line")
    assert list(dict.fromkeys(line["id"] for line in site.lines())) == ids


def test_the_file_of_lines_may_be_rotated(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_lines(1)
    site.jsonl.rename(site.root / "results-of-before.jsonl")
    drop(site.inbox / "b.png", good(2))
    site.wait_for_rows(2)
    (line,) = site.wait_for_lines(1)
    assert line["id"] == site.rows()[1].id
    assert (site.root / "results-of-before.jsonl").read_text().count("\n") == 1


def test_a_sink_that_cannot_write_delays_nobody(site: Site) -> None:
    folder = site.root / "lines"
    folder.write_text("a file where the folder should be")
    site.configure(jsonl=folder / "results.jsonl")
    site.start()
    for number in range(20):
        drop(site.inbox / f"{number}.png", good(number))
    rows = site.wait_for_rows(20)
    until(lambda: site.metrics()['edged_sink_failures_total{sink="lines"}'] >= 1, "a failure")
    assert site.metrics()['edged_outbox_items{sink="lines"}'] == 20
    assert len(site.said("the sink failed; it is tried again")) == 1
    folder.unlink()
    site.jsonl = folder / "results.jsonl"
    lines = site.wait_for_lines(20)
    assert [line["id"] for line in lines] == [row.id for row in rows]
    until(lambda: site.metrics()['edged_outbox_items{sink="lines"}'] == 0, "an empty outbox")


def test_overlays_are_of_what_was_flagged_and_bounded(site: Site) -> None:
    most = 30_000
    site.configure(
        rest=f'[[sinks]]\nname = "pictures"\ntype = "images"\ndir = "{site.overlays}"\n'
        f"[retention]\nimages_max_bytes = {most}"
    )
    site.start()
    drop(site.inbox / "good.png", good())
    for number in range(12):
        drop(site.inbox / f"bad-{number:02}.png", bad(number))
    rows = site.wait_for_rows(13)
    site.stop()
    anomalies = sorted(row.id for row in rows if row.is_anomaly)
    assert len(anomalies) == 12
    left = sorted(path.stem for path in site.overlays.iterdir())
    assert 0 < len(left) < 12
    assert left == anomalies[-len(left) :]  # the newest
    assert sum(path.stat().st_size for path in site.overlays.iterdir()) <= most
    with Image.open(site.overlays / f"{left[-1]}.png") as overlay:
        assert overlay.size == (320, 86)  # with its legend


# Troubles.


def test_a_journal_that_fails_is_a_trouble_and_no_loss(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", good(0))
    site.wait_for_rows(1)
    with sqlite3.connect(site.state / "journal.sqlite", timeout=30) as other:
        other.execute("ALTER TABLE results RENAME TO away")
    for number in range(30):
        drop(site.inbox / f"{number}.png", good(number))
    until(lambda: site.get("/readyz").status_code == 503, "the trouble to be told")
    assert "cannot be made durable" in site.get("/readyz").text
    assert site.get("/healthz").status_code == 200
    assert site.metrics()["edged_ready"] == 0  # and the other metrics are there to see too
    with other:
        other.execute("ALTER TABLE away RENAME TO results")
    other.close()
    site.wait_for_rows(31)
    until(lambda: site.get("/readyz").status_code == 200, "the end of the trouble")
    assert site.stop() == 0


def test_it_stops_while_the_journal_fails(site: Site) -> None:
    site.start()
    with sqlite3.connect(site.state / "journal.sqlite", timeout=30) as other:
        other.execute("ALTER TABLE results RENAME TO away")
    for number in range(30):
        drop(site.inbox / f"{number}.png", good(number))
    until(lambda: site.get("/readyz").status_code == 503, "the trouble to be told")
    assert site.stop() == 0
    with other:
        other.execute("ALTER TABLE away RENAME TO results")
    other.close()
    site.start()
    assert len({row.path for row in site.wait_for_rows(30)}) == 30


def test_a_camera_that_is_not_there_is_named_once(site: Site) -> None:
    site.configure(rest='[[sources]]\nname = "gate"\ntype = "video"\nmodel = "tiny"\nurl = "rtsp://127.0.0.1:1/x"')
    site.start()
    until(lambda: site.get("/readyz").status_code == 503, "the camera to be missed")
    (problem,) = site.get("/readyz").text.splitlines()
    assert problem.startswith("source gate is in the state backoff: ")
    status = site.get("/api/v1/status").json()
    assert [line for line in (*status["problems"], *status["warnings"]) if "gate" in line] == [problem]


def test_a_folder_that_goes_and_comes_back(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    site.inbox.rename(site.root / "away")
    until(lambda: site.get("/readyz").status_code == 503, "the source to be down")
    assert site.get("/readyz").text == "source line1 cannot be read\n"
    assert site.get("/api/v1/status").json()["warnings"] == []
    assert site.metrics()['edged_source_up{source="line1"}'] == 0
    (site.root / "away").rename(site.inbox)
    until(lambda: site.get("/readyz").status_code == 200, "the source to be up")
    assert site.metrics()['edged_source_up{source="line1"}'] == 1
    drop(site.inbox / "b.png", good(2))
    site.wait_for_rows(2)


def test_a_decoder_that_is_killed_costs_no_picture(site: Site) -> None:
    site.configure(settle_seconds=0)
    for index in range(60):
        drop(site.inbox / f"{index}.png", large(index))
    site.start()
    for _ in range(MAX_ATTEMPTS - 1):
        until(lambda: kill_child(site.pid), "a decoder to kill")
    rows = site.wait_for_rows(60)
    assert {row.status for row in rows} == {"ok"}


# Starting, stopping, reloading.


def test_not_ready_while_it_starts(site: Site) -> None:
    site.start()
    site.stop()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    site.configure(listen=f"127.0.0.1:{port}")
    other = sqlite3.connect(site.state / "journal.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")  # it waits for this when it gives its sinks their places
    site.start(wait=False)

    def answer() -> httpx.Response | None:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30)
        except httpx.TransportError:
            return None

    response = until(answer, "an answer")
    other.execute("ROLLBACK")
    other.close()
    assert (response.status_code, response.text) == (503, "starting\n")
    until(lambda: site.said("ready"), "the daemon to be ready")
    assert (site.get("/readyz").status_code, site.get("/readyz").text) == (200, "ready\n")


def test_not_ready_while_it_stops(site: Site) -> None:
    site.configure(settle_seconds=0)
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    for child in children(site.pid):
        os.kill(child, signal.SIGSTOP)
    for number in range(6):
        drop(site.inbox / f"{number}.png", good(number))
    until(lambda: site.metrics()['edged_queue_items{source="line1"}'] == 6, "pictures in work")
    os.kill(site.pid, signal.SIGTERM)
    until(lambda: site.get("/readyz").status_code == 503, "it to be stopping")
    assert site.get("/readyz").text == "stopping\n"
    for child in children(site.pid):
        os.kill(child, signal.SIGCONT)
    assert site.process is not None
    assert site.process.wait(timeout=60) == 0
    rows = site.rows()
    assert 2 <= len(rows) <= 7  # what was in work was finished
    site.start()
    site.wait_for_rows(7)


def test_a_decoder_that_hangs_does_not_hold_up_a_stop_for_ever(site: Site) -> None:
    site.configure(settle_seconds=0)
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    hanging = children(site.pid)
    for child in hanging:
        os.kill(child, signal.SIGSTOP)
    for number in range(4):
        drop(site.inbox / f"{number}.png", good(number))
    until(lambda: site.metrics()['edged_queue_items{source="line1"}'] == 4, "pictures in work")
    assert site.stop() == 0  # its patience with decoders is shorter than this waits
    assert len(site.rows()) <= 5
    site.start()
    assert len({row.path for row in site.wait_for_rows(5)}) == 5
    assert {row.status for row in site.rows()} == {"ok"}


def test_reload(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", bad(1))
    site.wait_for_rows(1)
    other = site.root / "in2"
    other.mkdir()
    site.configure(
        model="threshold = 3.0",
        rest=f'[[sources]]\nname = "line2"\ntype = "folder"\npath = "{other}"\nmodel = "tiny"\n',
    )
    os.kill(site.pid, signal.SIGHUP)
    until(lambda: site.said("reloaded"), "the reload")
    drop(site.inbox / "b.png", bad(2))
    drop(other / "c.png", bad(3))
    rows = {os.path.basename(row.path): row for row in site.wait_for_rows(3)}
    assert [rows[name].threshold for name in ("a.png", "b.png", "c.png")] == [0.5, 3.0, 3.0]
    assert [rows[name].is_anomaly for name in ("a.png", "b.png", "c.png")] == [True, False, False]
    assert [rows[name].source for name in ("a.png", "b.png", "c.png")] == ["line1", "line1", "line2"]
    metrics = site.metrics()
    assert metrics['edged_model_threshold{model="tiny"}'] == 3.0
    assert metrics['edged_source_up{source="line2"}'] == 1
    assert metrics['edged_images_total{outcome="anomaly",source="line1"}'] == 1
    assert metrics['edged_images_total{outcome="ok",source="line1"}'] == 1


def test_a_stop_is_heard_in_a_storm_of_reloads(site: Site) -> None:
    process = site.start().process
    assert process is not None
    for _ in range(50):  # more than one falls into a reload, while the main thread does not listen
        process.send_signal(signal.SIGHUP)
        until(lambda: process.poll() is None, "the daemon to live")
    until(lambda: site.said("reloaded"), "a reload")
    process.send_signal(signal.SIGHUP)
    assert site.stop() == 0
    assert site.said("stopped")


def test_what_is_owed_is_kept_when_the_source_keeps_from_now_on(site: Site) -> None:
    site.done.write_text("a file where the folder should be")
    site.configure('after = "move"')
    site.start()
    drop(site.inbox / "a.png", good(1))
    until(lambda: site.said("a scored file cannot leave the inbox; it is tried again"), "a move that fails")
    assert (site.inbox / "a.png").exists()
    site.stop()
    site.configure('after = "keep"')
    site.start()
    drop(site.inbox / "b.png", good(2))
    site.wait_for_rows(2)
    assert [Path(row.path).name for row in site.rows()] == ["a.png", "b.png"]


def test_reload_removes_a_source_and_its_series(site: Site) -> None:
    other = site.root / "in2"
    other.mkdir()
    second = f'[[sources]]\nname = "line2"\ntype = "folder"\npath = "{other}"\nmodel = "tiny"\n'
    site.configure(rest=second)
    site.start()
    drop(other / "a.png", good(1))
    site.wait_for_rows(1)
    assert any('source="line2"' in name for name in site.metrics())
    site.configure()
    os.kill(site.pid, signal.SIGHUP)
    until(lambda: site.said("reloaded"), "the reload")
    assert not [name for name in site.metrics() if 'source="line2"' in name]
    drop(other / "b.png", good(2))
    drop(site.inbox / "c.png", good(3))
    assert [os.path.basename(row.path) for row in site.wait_for_rows(2)] == ["a.png", "c.png"]
    site.configure(rest=second)
    os.kill(site.pid, signal.SIGHUP)
    until(lambda: len(site.said("reloaded")) == 2, "the second reload")
    assert len({row.path for row in site.wait_for_rows(3)}) == 3  # b.png came while nobody watched
    assert site.stop() == 0


def test_a_reload_that_does_not_validate_changes_nothing(site: Site) -> None:
    site.start()
    whole = site.config.read_text()
    for broken in (whole.replace("[http]", "[htpp]"), "not toml [", whole.replace(str(TINY), "/nowhere")):
        before = len(site.said("not reloaded; the running configuration stays"))
        site.config.write_text(broken)
        os.kill(site.pid, signal.SIGHUP)
        until(lambda seen=before: len(site.said("not reloaded; the running configuration stays")) > seen, "the refusal")
    taken = site.metrics()
    assert taken["edged_config_reload_success"] == 0
    ready = site.get("/readyz")
    assert (ready.status_code, ready.text.splitlines()[0]) == (200, "ready")
    assert ready.text.splitlines()[1:] == ["the last reload was refused; the configuration before it is in force"]
    assert taken["edged_config_reload_success_timestamp_seconds"] < time.time()
    drop(site.inbox / "a.png", good(1))
    (row,) = site.wait_for_rows(1)
    assert row.threshold == 0.5
    site.config.write_text(whole)
    os.kill(site.pid, signal.SIGHUP)
    until(lambda: site.metrics()["edged_config_reload_success"] == 1, "the reload")
    assert site.get("/readyz").text == "ready\n"
    now = site.metrics()["edged_config_reload_success_timestamp_seconds"]
    assert now > taken["edged_config_reload_success_timestamp_seconds"]
    assert site.stop() == 0


def test_a_reload_verifies_a_model_that_is_running(site: Site, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(TINY, bundle)
    site.configure(bundle=bundle)
    site.start()
    model, manifest = (bundle / "model.onnx").read_bytes(), (bundle / "manifest.json").read_text()
    for name, content in (("model.onnx", model[:-10]), ("manifest.json", manifest.replace(": 32,", ": 64,").encode())):
        whole, before = (bundle / name).read_bytes(), len(site.said("not reloaded; the running configuration stays"))
        assert content != whole
        (bundle / name).write_bytes(content)
        os.kill(site.pid, signal.SIGHUP)
        until(lambda seen=before: len(site.said("not reloaded; the running configuration stays")) > seen, "the refusal")
        (bundle / name).write_bytes(whole)
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    assert site.stop() == 0


def test_a_reload_is_judged_with_the_tables_that_stay(site: Site) -> None:
    heat = site.root / "heat"
    heat.mkdir()
    sink = '[[sinks]]\nname = "maps"\ntype = "images"\ndir = "{}"\nonly = "all"\n'
    site.configure(rest=sink.format(heat))
    site.start()
    text = site.config.read_text()
    text = text.replace(sink.format(heat), sink.format(site.root / "other"))
    site.config.write_text(text.replace(f'path = "{site.inbox}"', f'path = "{heat}"'))
    os.kill(site.pid, signal.SIGHUP)
    until(lambda: site.said("not reloaded; the running configuration stays"), "the refusal")
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    assert site.stop() == 0


def test_it_does_not_start_on_a_wrong_configuration(site: Site) -> None:
    site.config.write_text(site.config.read_text().replace("listen =", "lissten ="))
    site.start(wait=False)
    assert site.process is not None
    assert site.process.wait(timeout=60) == 2
    assert "http.lissten: unknown key; did you mean listen?" in site.log.read_text()
    assert not site.state.exists()


def test_it_tells_the_service_manager(site: Site, tmp_path: Path) -> None:
    told: list[str] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)

        def listen() -> None:
            while not told or told[-1] != "end":
                told.append(manager.recv(4096).decode())

        listener = threading.Thread(target=listen)
        listener.start()
        site.start(environment={"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"})
        until(lambda: told.count("WATCHDOG=1") >= 4, "signs of life")
        os.kill(site.pid, signal.SIGHUP)
        until(lambda: any(text.startswith("RELOADING=1\nMONOTONIC_USEC=") for text in told), "news of the reload")
        until(lambda: sum(text.startswith("READY=1") for text in told) == 2, "news of its end")
        site.stop()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
            end.sendto(b"end", str(tmp_path / "notify"))
        listener.join()
    assert told[-2] == "STOPPING=1"
    assert told[0].startswith("EXTEND_TIMEOUT_USEC=")  # while the journal is opened, which may take its time
    first = next(text for text in told if not text.startswith(("WATCHDOG", "EXTEND_TIMEOUT")))
    assert first.startswith("READY=1\nSTATUS=")


def test_it_idles(site: Site) -> None:
    site.start()
    drop(site.inbox / "a.png", good(1))
    site.wait_for_rows(1)
    pids = [site.pid, *children(site.pid)]

    def ticks() -> int:
        return sum(
            sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])) for pid in pids
        )

    time.sleep(0.5)
    before = ticks()
    time.sleep(3.0)
    spent = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert spent <= 0.15  # 5 % of a core, where spinning takes 100 %


# HTTP.


def test_metrics_take_the_token_and_health_does_not(site: Site) -> None:
    token = site.root / "token"
    token.write_text("secret\n")
    site.configure(http=f'token_file = "{token}"')
    site.start()
    for headers in (
        {},
        {"authorization": "Bearer wrong"},
        {"authorization": "secret"},
        {"authorization": "Basic secret"},
    ):
        response = site.get("/metrics", headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        assert "edged_" not in response.text
    assert site.get("/metrics", headers={"authorization": "Bearer secret"}).status_code == 200
    assert site.get("/healthz").text == "ok\n"
    assert site.get("/readyz").status_code == 200
    assert site.get("/nothing").status_code == 404
    assert site.get("/").status_code in {200, 303}  # the page, which asks who is there


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"])
def test_beyond_loopback_only_with_a_token(site: Site, listen: str) -> None:
    site.configure(listen=listen)
    site.start(wait=False)
    assert site.process is not None
    assert site.process.wait(timeout=60) == 2
    assert "http.listen:" in site.log.read_text()
    assert "token_file" in site.log.read_text()


def test_every_labelled_series_is_there_at_zero_from_the_start(site: Site) -> None:
    site.configure(rest=f'[[sinks]]\nname = "pictures"\ntype = "images"\ndir = "{site.overlays}"\n')
    site.start()
    metrics = site.metrics()
    zero = {f'edged_images_total{{outcome="{outcome}",source="line1"}}' for outcome in ("ok", "anomaly", "quarantined")}
    zero |= {f'edged_quarantined_total{{reason="{reason}",source="line1"}}' for reason in REASONS}
    zero |= {
        f'edged_stage_duration_seconds_{part}{{stage="{stage}"}}'
        for stage in ("decode", "denoise", "infer", "commit", "publish")
        for part in ("count", "sum")
    }
    zero |= {f'edged_arrival_to_result_seconds_{part}{{source="line1"}}' for part in ("count", "sum")}
    zero |= {f'edged_score_ratio_{part}{{model="tiny",source="line1"}}' for part in ("count", "sum")}
    zero |= {
        f'{name}{{source="line1"}}'
        for name in (
            "edged_queue_items",
            "edged_queue_oldest_age_seconds",
            "edged_watch_overflows_total",
            "edged_rescan_recovered_total",
            "edged_last_result_timestamp_seconds",
        )
    }
    zero |= {
        f'{name}{{sink="{sink}"}}'
        for name in ("edged_sink_failures_total", "edged_outbox_items")
        for sink in ("lines", "pictures")
    }
    assert {name: metrics.get(name) for name in zero} == dict.fromkeys(zero, 0)
    assert metrics["edged_ready"] == 1
    assert metrics['edged_source_up{source="line1"}'] == 1
    assert metrics['edged_model_threshold{model="tiny"}'] == 0.5
    assert metrics["edged_journal_bytes"] > 0
    (model,) = [name for name in metrics if name.startswith("edged_model_info")]
    assert 'kind="ae",model="tiny",precision="fp32",provider="CPUExecutionProvider"' in model
    (build,) = [name for name in metrics if name.startswith("edged_build_info")]
    assert 'version="0.1.0"' in build
    drop(site.inbox / "a-secret-name.png", bad(1))
    drop(site.inbox / "broken-secret-name.png", b"x")
    site.wait_for_rows(2)
    until(lambda: site.metrics()['edged_images_total{outcome="quarantined",source="line1"}'] == 1, "the counts")
    after = site.metrics()
    assert after.keys() == metrics.keys()  # no series came with the pictures
    assert "secret" not in site.get("/metrics").text
    assert after['edged_images_total{outcome="anomaly",source="line1"}'] == 1
    assert after['edged_score_ratio_sum{model="tiny",source="line1"}'] == pytest.approx(BAD_SCORE / 0.5, rel=1e-5)
    assert after['edged_arrival_to_result_seconds_count{source="line1"}'] == 2
    assert abs(after['edged_last_result_timestamp_seconds{source="line1"}'] - time.time()) < 60

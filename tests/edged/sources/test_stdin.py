"""Pictures on the standard input of a real daemon."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edged.daemons import Site
from tests.edged.making import bad, good, until


class Pipe:
    """A FIFO that is the daemon's standard input."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "pipe"
        os.mkfifo(self.path)
        self.prefix = ("sh", "-c", f'exec "$@" < {self.path}', "sh")
        self._end = os.open(self.path, os.O_RDWR)

    def write(self, *pictures: bytes) -> None:
        for data in pictures:
            self.write_bytes(len(data).to_bytes(4, "big") + data)

    def write_bytes(self, data: bytes) -> None:
        os.write(self._end, data)

    def close(self) -> None:
        if self._end >= 0:
            os.close(self._end)
        self._end = -1


@pytest.fixture
def pipe(site: Site) -> Iterator[Pipe]:
    one = Pipe(site.root)
    yield one
    one.close()


def configure(site: Site, *, rest: str = "", more: str = "") -> None:
    tables = f'[[sources]]\nname = "piped"\ntype = "stdin"\nmodel = "tiny"\n{more}\n{rest}'
    site.configure(rest=tables)


def test_every_picture_in_order_until_the_pipe_ends(site: Site, pipe: Pipe) -> None:
    configure(site, rest="[limits]\nmax_bytes = 3000")
    site.start(prefix=pipe.prefix)
    pipe.write(good(), b"", bad())
    site.wait_for_rows(3)
    pipe.write(b"x" * 9000, good(1))
    rows = sorted(site.wait_for_rows(5), key=lambda row: row.id)
    assert [row.reason for row in rows] == [None, "empty", None, "file_too_large", None]
    assert [row.is_anomaly for row in rows] == [False, None, True, None, False]
    assert site.metrics()['edged_source_up{source="piped"}'] == 1
    pipe.write_bytes(b"\0\0\7\7half")
    pipe.close()
    until(lambda: site.said("standard input ended in the middle of a picture"), "the end to be noted")
    until(lambda: site.metrics()['edged_source_up{source="piped"}'] == 0, "the source to be down")
    assert list((site.state / "received" / "piped").iterdir()) == []
    assert site.stop() == 0


def test_what_was_read_outlives_kills(site: Site, pipe: Pipe) -> None:
    configure(site)
    for round_ in range(3):
        site.start(prefix=pipe.prefix)
        pipe.write(*[good(round_ * 20 + number) for number in range(20)])
        until(lambda: len(site.rows()) > round_ * 20, "a result")  # noqa: B023
        received = site.state / "received" / "piped"
        until(lambda: len(site.rows()) + len(list(received.glob("[!.]*"))) >= round_ * 20 + 20, "all to be read")  # noqa: B023
        site.kill()
    site.start(prefix=pipe.prefix)
    rows = site.wait_for_rows(60)
    assert len({row.sha256 for row in rows}) == 60
    assert site.stop() == 0


def test_a_reload_that_would_begin_in_the_middle_of_a_picture_is_refused(site: Site, pipe: Pipe) -> None:
    configure(site)
    site.start(prefix=pipe.prefix)
    sent = len(good()).to_bytes(4, "big") + good()
    pipe.write_bytes(sent[:100])
    until(lambda: list((site.state / "received" / "piped").glob(".*")), "the beginning to be read")
    configure(site, more="max_waiting_bytes = 2_000_000")
    what = "not reloaded; these sources are read at start only; restart edged for them"
    os.kill(site.pid, signal.SIGHUP)
    (refusal,) = until(lambda: site.said(what), "the refusal")
    assert refusal["sources"] == ["piped"]
    pipe.write_bytes(sent[100:])
    assert [row.is_anomaly for row in site.wait_for_rows(1)] == [False]
    configure(site)
    os.kill(site.pid, signal.SIGHUP)  # others may change
    until(lambda: site.said("reloaded"), "the reload")
    pipe.write(bad())
    assert [row.is_anomaly for row in site.wait_for_rows(2)] == [False, True]
    assert site.stop() == 0


def test_there_is_one_standard_input(site: Site) -> None:
    configure(site, more='[[sources]]\nname = "again"\ntype = "stdin"\nmodel = "tiny"')
    site.start(wait=False)
    assert site.process is not None
    assert site.process.wait(60) == 2
    site.process = None
    assert "/dev/stdin of sources.piped overlap" in site.log.read_text()

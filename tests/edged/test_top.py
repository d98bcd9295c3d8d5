"""`edged top` against a real daemon: in a pipe, in a terminal, with a token and TLS."""

import os
import pty
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edged.cli import app
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, until


def top(*arguments: object) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["top", *map(str, arguments)])
    return done.exit_code, done.stdout, done.stderr


@pytest.fixture
def running(site: Site) -> Site:
    site.start()
    drop(site.inbox / "bad[red].png", bad())
    drop(site.inbox / "good.png", good())
    drop(site.inbox / "broken.png", b"no picture")
    site.wait_for_rows(3)
    until(lambda: site.get("/api/v1/status").json()["sources"][0]["quarantined"] == 1, "the counts")
    return site


def test_in_a_pipe_it_says_all_once(running: Site) -> None:
    code, said, wrong = top("--url", running.url)
    assert (code, wrong) == (0, "")
    lines = said.splitlines()
    assert re.match(rf" healthy   edged \S+ at {running.url}, up \d+ s, \d\d:\d\d:\d\d UTC$", lines[0])
    (source,) = [line.split() for line in lines if line.startswith("line1")]
    assert source[1:3] == ["tiny", "3"]
    assert source[-7:-3] == ["0", "1", "1", "1"]  # wait, ok, anomalies, quarantined
    assert any(re.match(r"tiny +ae +CPU +0\.5 +0\.01 +99 pictures, \d+ days ago", line) for line in lines)
    assert any(re.search(r" ago +line1 +3\.99 +.*/bad\[red\]\.png", line) for line in lines)
    assert "\x1b" not in said
    assert all(line == line.rstrip() for line in lines)


def test_in_a_terminal_it_goes_on_until_it_is_interrupted(running: Site) -> None:
    terminal, end = pty.openpty()
    command = [sys.executable, "-P", "-m", "edged", "top", "--url", running.url, "--every", "0.5"]
    environment = {**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"}
    process = subprocess.Popen(command, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    shown = b""
    while shown.count(b" healthy ") < 2:
        shown += os.read(terminal, 10_000)
    running.kill()
    while b"does edged run there?" not in shown:
        shown += os.read(terminal, 10_000)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    os.close(terminal)


def certificate(key: Path, cert: Path) -> None:
    new = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", "/CN=box", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *new, "-keyout", key, "-out", cert], check=True, capture_output=True)


def test_with_the_token_and_the_certificate_of_the_configuration(site: Site) -> None:
    key, cert, token = (site.root / name for name in ("key.pem", "cert.pem", "token"))
    certificate(key, cert)
    token.write_text("a-long-random-word-for-nobody-else\n")
    http = f'token_file = "{token}"\ntls_cert = "{cert}"\ntls_key = "{key}"'
    site.configure(http=http)
    site.start()
    site.configure(http=http, listen=site.url.removeprefix("https://"))
    code, said, _ = top("-c", site.config)
    assert code == 0
    assert said.startswith(" healthy ")
    code, _, wrong = top("--url", site.url, "--ca", cert, "--token-file", token)
    assert code == 1
    assert "certificate verify failed" in wrong  # it bears another name
    code, _, wrong = top("--url", site.url, "--token-file", token)
    assert code == 1
    assert "certificate verify failed" in wrong
    token.write_text("another-long-random-word-for-nobody\n")
    code, _, wrong = top("-c", site.config)
    assert (code, "it wants its token: --token-file" in wrong) == (1, True)


def test_the_token_is_for_no_other_certificate_even_one_that_everybody_trusts(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, cert, own, token = (site.root / name for name in ("key.pem", "cert.pem", "own.pem", "token"))
    certificate(key, cert)
    certificate(site.root / "own.key", own)
    token.write_text("a-long-random-word-for-nobody-else\n")
    site.configure(http=f'token_file = "{token}"\ntls_cert = "{cert}"\ntls_key = "{key}"')
    site.start()
    listen = site.url.removeprefix("https://")
    site.configure(http=f'token_file = "{token}"\ntls_cert = "{own}"\ntls_key = "{key}"', listen=listen)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert))
    code, _, wrong = top("-c", site.config)
    assert (code, "certificate verify failed" in wrong) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "give -c FILE"),
        (("--url", "file:///etc/passwd"), "is no address of a daemon"),
        (("--url", "http://127.0.0.1:9/api"), "is no address of a daemon"),
        (("--url", "http://[::1"), "is no address of a daemon"),
        (("--url", "https://127.0.0.1:9", "--ca", "/nowhere"), "certificates cannot be used"),
        (("--url", "http://127.0.0.1:9", "--token-file", "/nowhere"), "--token-file"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: tuple[str, ...], said: str) -> None:
    code, _, wrong = top(*arguments)
    assert code == 2
    assert said in wrong


def test_nobody_there(site: Site) -> None:
    code, _, wrong = top("-c", site.config)
    assert (code, "the system chooses the port" in wrong) == (2, True)
    site.configure(listen="127.0.0.1:9")
    code, _, wrong = top("-c", site.config)
    assert (code, wrong) == (1, "edged: http://127.0.0.1:9: Connection refused; does edged run there?\n")


def test_an_answer_of_something_else(site: Site, tmp_path: Path) -> None:
    (tmp_path / "api" / "v1").mkdir(parents=True)
    (tmp_path / "api" / "v1" / "status").write_text("{}")
    server = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert server.stdout is not None
    try:
        port = re.findall(r"port (\d+)", server.stdout.readline())[0]
        code, _, wrong = top("--url", f"http://127.0.0.1:{port}")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
    assert (code, "it is no edged, or an older one" in wrong) == (1, True)

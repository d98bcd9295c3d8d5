"""The source and the sink of docs/extending.md: word for word those of the tests, and at work in a real daemon."""

import json
import signal
import subprocess
import sys
from pathlib import Path

from edged.sinks import SINKS
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, until

ROOT = Path(__file__).parents[2]
TEMPLATES = ROOT / "tests" / "templates"


def test_the_manual_shows_what_is_tested() -> None:
    text = (ROOT / "docs" / "extending.md").read_text()
    for name in ("slideshow.py", "latest.py"):
        assert (TEMPLATES / name).read_text().rstrip() in text, f"docs/extending.md does not show {name} as it is"


def configure(site: Site) -> None:
    site.config.write_text(f"""
[service]
state_dir = "{site.state}"
log_format = "json"
[http]
listen = "127.0.0.1:0"
[models.tiny]
path = "{TINY}"
[[sources]]
name = "show"
type = "slideshow"
path = "{site.inbox}"
every_seconds = 0.1
model = "tiny"
[[sinks]]
name = "last"
type = "latest"
path = "{site.root}/last.json"
""")


def start(site: Site) -> None:
    site._log_start = site.log.stat().st_size if site.log.exists() else 0
    with site.log.open("ab") as log:
        command = [sys.executable, "-m", "tests.templates.daemon", str(site.config)]
        site.process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
    until(lambda: site.said("ready"), "the daemon to be ready")


def test_a_source_and_a_sink_of_ones_own_in_a_daemon(site: Site) -> None:
    configure(site)
    for number in range(6):
        drop(site.inbox / f"{number}.png", bad() if number == 5 else good(number))
    start(site)
    site.wait_for_rows(6)
    last = site.root / "last.json"
    until(lambda: last.exists() and json.loads(last.read_text())["path"].endswith("5.png"), "the last record")
    assert json.loads(last.read_text())["is_anomaly"] is True
    assert site.metrics()['edged_images_total{outcome="ok",source="show"}'] == 5
    assert site.stop(signal.SIGKILL) == -signal.SIGKILL
    drop(site.inbox / "6.png", good(6))
    start(site)  # and after a crash each still has its one result
    rows = site.wait_for_rows(7)
    assert [Path(row.path).name for row in rows] == [f"{number}.png" for number in range(7)]
    assert site.stop() == 0


def test_an_unknown_type_is_named_with_those_that_there_are(site: Site) -> None:
    configure(site)
    done = subprocess.run(
        [sys.executable, "-P", "-m", "edged", "check", "-c", str(site.config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=site.root,
    )
    assert done.returncode == 2
    assert "sources.show.type: " in done.stderr
    types = ", ".join(f'"{name}"' for name in SINKS)
    assert f"sinks.last.type: there is no sink type 'latest'; {types}" in done.stderr

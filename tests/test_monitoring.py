"""A real daemon under load, a real Prometheus that scrapes it, and what configs/ gives to people for that."""

import contextlib
import io
import json
import math
import os
import re
import shutil
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from edged.models.drift import appearance, reference
from tests import tiny_kinds
from tests.conftest import TINY
from tests.edged.daemons import Site
from tests.edged.making import bad, drop, good, until
from tests.edged.sources.video.making import Camera

ROOT = Path(__file__).parents[1]
PROMETHEUS = ROOT / "configs" / "prometheus"
DASHBOARD = ROOT / "configs" / "grafana" / "edged.json"
PINNED = Path(__file__).parent / "data" / "metrics.txt"

# One worker makes the daemon and the Prometheus for all of this.
pytestmark = pytest.mark.xdist_group("monitoring")


def program(name: str, package: str) -> str:
    """Where a program is; without it the test is skipped, or fails in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"{name} is not installed; CI installs it")
        pytest.skip(f"{name} is not installed (Debian: apt install {package})")
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


@contextlib.contextmanager
def running(command: list[object], log: Path) -> Iterator[None]:
    """A program that is ended with the block."""
    with log.open("wb") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, cwd=log.parent)
    try:
        yield
    finally:
        process.terminate()
        process.wait(timeout=60)


class Load:
    """A producer that goes on dropping pictures, a bad and a broken one among ten, until it is told to stop."""

    def __init__(self, inbox: Path) -> None:
        self._inbox, self._stop = inbox, threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Load":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._stop.wait(0.02):
            number += 1
            kind = number % 10
            data = bad(number) if kind == 1 else b"no picture" if kind == 2 else good(number)
            drop(self._inbox / f"{number:06}.png", data)


class Prometheus:
    """The API of one."""

    def __init__(self, url: str) -> None:
        self._url = url

    def get(self, path: str, **parameters: str) -> Any:
        answer = httpx.get(f"{self._url}/api/v1/{path}", params=parameters, timeout=30)
        assert answer.status_code == 200, answer.text
        return answer.json()["data"]

    def values(self, expression: str) -> list[float]:
        """What a query gives just now, where that is a number."""
        found = self.get("query", query=expression)["result"]
        return [value for value in (float(one["value"][1]) for one in found) if not math.isnan(value)]


def _with_looks(out: Path) -> Path:
    """The tiny bundle with what good pictures look like, as an export notes it."""
    shutil.copytree(TINY, out)
    manifest = json.loads((out / "manifest.json").read_text())
    looks = np.array([appearance(np.array(Image.open(io.BytesIO(good(seed))))[..., None]) for seed in range(100)])
    manifest["drift_reference"] |= reference(np.linspace(0.04, 0.06, 100), looks)
    (out / "manifest.json").write_text(json.dumps(manifest))
    return out


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A daemon with a folder, a camera, a self-test and a sink."""
    root = tmp_path_factory.mktemp("monitored")
    site, camera = Site(root), Camera(root)
    site.configure(
        'after = "delete"',
        bundle=_with_looks(root / "tiny"),
        rest=f"""
[models.sampled]
path = "{tiny_kinds.vae(root / "vae")}"
device = "cpu"
self_test_seconds = 0.5
[[sources]]
name = "cam"
type = "video"
url = "{camera.url}"
model = "sampled"
""",
    )
    try:
        site.start()
        with Load(site.inbox):
            yield site
    finally:
        site.clean_up()
        camera.kill()


@pytest.fixture(scope="module")
def prometheus(watched: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One with the shipped configuration, which scrapes and reckons every second."""
    binary, root = program("prometheus", "prometheus"), tmp_path_factory.mktemp("prometheus")
    for name in ("alerts.yml", "recording.yml"):
        shutil.copy(PROMETHEUS / name, root / name)
    text = (PROMETHEUS / "edged.yml").read_text()
    assert text.count("interval: 15s") == 2
    text = text.replace("interval: 15s", "interval: 1s").replace("127.0.0.1:9108", watched.url.partition("//")[2])
    (root / "edged.yml").write_text(text)
    port = free_port()
    options = [f"--config.file={root}/edged.yml", f"--storage.tsdb.path={root}/data"]
    with running([binary, *options, f"--web.listen-address=127.0.0.1:{port}"], root / "prometheus.log"):
        one = Prometheus(f"http://127.0.0.1:{port}")

        def scraped() -> bool:
            with contextlib.suppress(httpx.TransportError, AssertionError):
                return one.values("edged_ready") == [1.0]
            return False

        until(scraped, "Prometheus to have scraped", 60)
        yield one


def expressions() -> list[tuple[str, str]]:
    """Every query of the dashboard, with the title of its panel."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(panel["title"], one["expr"]) for panel in panels for one in panel.get("targets", ())]


def test_the_dashboard_is_what_its_program_builds() -> None:
    pytest.importorskip("grafana_foundation_sdk")
    namespace: dict[str, Any] = {"__name__": "build", "__file__": str(DASHBOARD.with_name("build.py"))}
    exec(DASHBOARD.with_name("build.py").read_text(), namespace)
    assert namespace["text"]() == DASHBOARD.read_text(), "run: make dashboard"


def test_the_dashboard_has_every_metric_and_its_data_source_and_box_as_variables() -> None:
    board = json.loads(DASHBOARD.read_text())
    variables = {one["name"]: one["type"] for one in board["templating"]["list"]}
    assert variables == {"datasource": "datasource", "instance": "query", "source": "query"}
    targets = [one for panel in board["panels"] for one in [panel, *panel.get("targets", ())] if panel["type"] != "row"]
    assert {one["datasource"]["uid"] for one in targets} == {"${datasource}"}
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    shown = "".join(expression for _, expression in expressions())
    names = [line.split()[0] for line in PINNED.read_text().splitlines() if not line.startswith("#")]
    missing = [name for name in names if name.startswith("edged_") and name not in shown]
    # The last release's names, which say what others say.
    assert all(name.startswith("edged_canary_") for name in missing), missing


def test_every_query_of_the_dashboard_gives_data(prometheus: Prometheus) -> None:
    (instance,) = (one["labels"]["instance"] for one in prometheus.get("targets")["activeTargets"])

    def asked(expression: str) -> str:
        # As Grafana puts them in: a rate's window is four scrapes; the value of a variable is a regular expression.
        for variable, value in (("$__rate_interval", "10s"), ("$instance", re.escape(instance)), ("$source", ".*")):
            expression = expression.replace(variable, value.replace("\\", "\\\\"))
        assert "$" not in expression
        return expression

    silent = [(title, asked(expression)) for title, expression in expressions()]
    assert len(silent) > 40
    began = time.monotonic()
    while silent and time.monotonic() < began + 90:
        silent = [(title, expression) for title, expression in silent if not prometheus.values(expression)]
        time.sleep(0.2 if silent else 0)
    assert silent == []
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"][1:]:
        series, label = re.findall(r"^label_values\((.*), (\w+)\)$", variable["query"])[0]
        found = {one[label] for one in prometheus.get("series", **{"match[]": asked(series)})}
        assert found == ({instance} if label == "instance" else {"line1", "cam"})


def test_every_rule_is_evaluated(prometheus: Prometheus) -> None:
    groups = prometheus.get("rules")["groups"]
    health = {rule["name"]: rule["health"] for group in groups for rule in group["rules"]}
    assert set(alerts()) < set(health)
    assert set(health.values()) <= {"ok", "unknown"}
    until(lambda: prometheus.values("instance_source:edged_images_total:rate5m"), "a recorded rate")


def test_the_metrics_are_those_that_are_pinned(watched: Site) -> None:
    until(lambda: 'edged_input_drift{source="line1"' in watched.get("/metrics").text, "drift", 60)
    until(lambda: 'edged_score_drift{model="sampled"' in watched.get("/metrics").text, "drift", 60)
    text = watched.get("/metrics").text
    lint = [program("promtool", "prometheus"), "check", "metrics"]
    done = subprocess.run(lint, input=text, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    lines = []
    for family in text_string_to_metric_families(text):
        name = family.name + {"counter": "_total"}.get(family.type, "")
        labels = {label for sample in family.samples for label in sample.labels if label != "le"}
        assert family.samples, name
        lines.append(" ".join([name, family.type, *sorted(labels)]))
    pinned = [line for line in PINNED.read_text().splitlines() if not line.startswith("#")]
    assert sorted(lines) == pinned, "\n".join(sorted(lines))


def alerts() -> dict[str, dict[str, Any]]:
    """Every alert."""
    (group,) = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


@pytest.mark.parametrize("name", alerts())
def test_an_alert_has_a_runbook_and_cases_that_fire_and_do_not(name: str) -> None:
    alert = alerts()[name]
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    sections = re.findall(r"^## (\w+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert (anchor, sections.count(name)) == (name.lower(), 1)
    assert alert["labels"]["severity"] in {"critical", "warning", "info"}
    tests = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    cases = [case for one in tests for case in one.get("alert_rule_test", ()) if case["alertname"] == name]
    assert {bool(case["exp_alerts"]) for case in cases} == {True, False}


def test_no_runbook_is_of_an_alert_that_is_not_there() -> None:
    sections = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text(), flags=re.MULTILINE)
    assert set(sections) == set(alerts())


class Mail(socketserver.StreamRequestHandler):
    """Takes e-mail by SMTP, and keeps it in its server's `mails`."""

    def handle(self) -> None:
        self.wfile.write(b"220 here\r\n")
        while word := self.rfile.readline():
            command = word[:4].upper().strip()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = iter(self.rfile.readline, b".\r\n")
                self.server.mails.append(b"".join(lines).decode())  # type: ignore[attr-defined]
            self.wfile.write(b"221 bye\r\n" if command == b"QUIT" else b"250 ok\r\n")
            if command == b"QUIT":
                return


@pytest.mark.parametrize(("severity", "to"), [("critical", "on-call"), ("warning", "shift")])
def test_the_alertmanager_sends_an_e_mail(tmp_path: Path, severity: str, to: str) -> None:
    binary = program("prometheus-alertmanager", "prometheus-alertmanager")
    shutil.copy(PROMETHEUS / "email.tmpl", tmp_path)
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    server.mails = []  # type: ignore[attr-defined]
    text = (PROMETHEUS / "alertmanager.yml").read_text()
    here = f'"127.0.0.1:{server.server_address[1]}"\n  smtp_require_tls: false'
    text = re.sub(r"group_wait: \w+", "group_wait: 0s", text.replace('"mail.example:587"', here))
    (tmp_path / "alertmanager.yml").write_text(text)
    port = free_port()
    options = ["--cluster.listen-address=", f"--storage.path={tmp_path}/data"]
    command = [binary, f"--config.file={tmp_path}/alertmanager.yml", *options, f"--web.listen-address=127.0.0.1:{port}"]
    url = f"http://127.0.0.1:{port}"
    rule = next(rule for rule in alerts().values() if rule["labels"]["severity"] == severity)
    annotations = {key: value.replace("{{ $labels.instance }}", "box") for key, value in rule["annotations"].items()}
    labels = {"alertname": rule["alert"], "instance": "box", "severity": severity}

    def is_up() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{url}/-/ready").status_code == 200
        return False

    with server, running(command, tmp_path / "log"):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        until(is_up, "the Alertmanager")
        posted = httpx.post(f"{url}/api/v2/alerts", json=[{"labels": labels, "annotations": annotations}])
        assert posted.status_code == 200, posted.text
        (mail,) = until(lambda: server.mails, "an e-mail")  # type: ignore[attr-defined]
        server.shutdown()
    assert f"To: {to}@plant.example" in mail
    assert f"docs/runbooks.md#{rule['alert'].lower()}" in mail.replace("=\r\n", "")
    assert "[firing]" in mail

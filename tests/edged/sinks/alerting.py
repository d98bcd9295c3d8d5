"""A real Alertmanager, and who is told by it."""

import contextlib
import json
import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.edged.making import until
from tests.edged.sinks.plc import free_port

PROGRAM = "prometheus-alertmanager"

CONFIG = """
route:
  receiver: shift
  group_by: ["..."]
  group_wait: 0s
  group_interval: 1s
  repeat_interval: 1h
receivers:
  - name: shift
    webhook_configs:
      - url: {url}
        send_resolved: true
"""


class Alertmanager:
    """On loopback; what it tells is in `told`, one alert each: `status` is "firing" or "resolved"."""

    def __init__(self, folder: Path) -> None:
        if shutil.which(PROGRAM) is None:
            if os.environ.get("CI"):
                pytest.fail(f"{PROGRAM} is not installed; CI installs it")
            pytest.skip(f"{PROGRAM} is not installed (Debian: apt install {PROGRAM})")
        self._folder, self._port = folder, free_port()
        self.where = f"http://127.0.0.1:{self._port}"
        self.told: list[dict[str, Any]] = []
        alertmanager = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                alertmanager.told.extend(body["alerts"])
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._shift = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._shift.serve_forever, kwargs={"poll_interval": 0.02}).start()
        folder.mkdir(exist_ok=True)
        (folder / "alertmanager.yml").write_text(
            CONFIG.format(url=f"http://127.0.0.1:{self._shift.server_address[1]}/")
        )
        self._process: subprocess.Popen[bytes] | None = None
        self.begin_again()

    def keys(self, kind: str) -> dict[str, Any]:
        return {"url": self.where}

    def alerts(self) -> list[dict[str, Any]]:
        """Those that are there now, the one that was sent last at the end."""
        answer = httpx.get(f"{self.where}/api/v2/alerts", timeout=200)
        return sorted(answer.raise_for_status().json(), key=lambda alert: str(alert["updatedAt"]))

    def ids(self) -> list[str]:
        return [alert["annotations"]["id"] for alert in self.alerts()]

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def begin_again(self) -> None:
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    PROGRAM,
                    f"--config.file={self._folder / 'alertmanager.yml'}",
                    f"--storage.path={self._folder / 'data'}",
                    f"--web.listen-address=127.0.0.1:{self._port}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=log,
                cwd=self._folder,
            )

        def ready() -> bool:
            with contextlib.suppress(httpx.HTTPError):
                return httpx.get(f"{self.where}/-/ready", timeout=20).is_success
            return False

        until(ready, "the Alertmanager to be ready", 250)

    def close(self) -> None:
        self.end()
        self._shift.shutdown()
        self._shift.server_close()

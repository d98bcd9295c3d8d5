"""Real receivers of what sinks send, which fail, hang and answer slowly when they are told to."""

import json
import os
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.edged.brokers import Broker, Listener
from tests.edged.making import until


class WebhookReceiver:
    """An HTTP server on loopback.

    `answer` is given the number of the request, from 0 on, and gives the status to answer with, "hang" or "trickle".
    """

    def __init__(self, folder: Path) -> None:
        self.secret_file = folder / "secret"
        self.secret_file.write_text("not to be seen\n")
        self.answer: Callable[[int], int | str] = lambda _: 204
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.taken: list[str] = []
        self.port = 0
        self._ending = threading.Event()
        self.begin_again()

    @property
    def where(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def keys(self, kind: str) -> dict[str, Any]:
        return {"url": f"{self.where}/results?key=hidden", "secret_file": str(self.secret_file)}

    def ids(self) -> list[str]:
        return self.taken

    def end(self) -> None:
        """The server goes down."""
        self._ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def begin_again(self) -> None:
        self._ending.clear()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                receiver._handle(self)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            block_on_close = False

            def handle_error(self, *_: object) -> None:  # a client that has gone
                pass

        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        if not self._ending.is_set():
            self.end()

    def _handle(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers["content-length"]))
        answer = self.answer(len(self.requests))
        self.requests.append(({key.lower(): value for key, value in request.headers.items()}, body))
        if self._ending.is_set():
            request.close_connection = True
            return
        if answer == "hang":
            self._ending.wait()
            return
        if answer == "trickle":
            while not self._ending.wait(0.05):
                request.wfile.write(b"HTTP/1.1 200 OK\r\n"[:1])
            return
        assert isinstance(answer, int)
        if 200 <= answer < 300:
            self.taken.append(json.loads(body)["id"])
        said = b"" if answer == 204 else b"because\n"
        request.send_response(answer)
        request.send_header("location", "http://127.0.0.1:1/") if 300 <= answer < 400 else None
        request.send_header("content-length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)


class Program:
    """A program that appends what it reads to a file."""

    def __init__(self, folder: Path, script: str = "cat >> {file}") -> None:
        self.path, self.file = folder / "program", folder / "taken"
        self.where = str(self.path)
        self.path.write_text("#!/bin/sh\n" + script.format(file=self.file, folder=folder) + "\n")
        self.begin_again()

    def keys(self, kind: str) -> dict[str, Any]:
        return {"command": [str(self.path)]}

    def ids(self) -> list[str]:
        return [json.loads(line)["id"] for line in self.file.read_text("ascii").splitlines()]

    def end(self) -> None:
        self.path.chmod(0)

    def begin_again(self) -> None:
        self.path.chmod(stat.S_IRWXU)

    def close(self) -> None:
        pass


class Subscriber:
    """A broker, and one who listens to it."""

    def __init__(self, folder: Path) -> None:
        self.broker = Broker(folder)
        self.where = self.broker.url
        self.listener = Listener(self.broker, "edged/#")

    def keys(self, kind: str) -> dict[str, Any]:
        return {"url": self.where}

    def ids(self) -> list[str]:
        mark = os.urandom(8)
        self.broker.publish("edged/mark", mark)  # what is published before it comes before it
        until(lambda: mark in self.listener.payloads("edged/mark"), "all that was published")
        return [json.loads(payload)["id"] for payload in self.listener.payloads("edged/line1")]

    def end(self) -> None:
        self.broker.end()

    def begin_again(self) -> None:
        self.broker.start()

    def close(self) -> None:
        self.listener.close()
        self.broker.close()

"""A server in a process of its own, and how to ask it: what tests of ``burnish serve`` share."""

from __future__ import annotations

import contextlib
import copy
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

JSON = {"Content-Type": "application/json"}


class Process:
    """A server that runs, and how to ask it."""

    def __init__(self, command, environment, folder: Path, *arguments: object) -> None:
        self.log = folder / "log"
        port = [] if "--port" in arguments else ["--port", "0"]
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [command, "serve", *map(str, arguments), *port],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.port = 0
        self.until(lambda: self.said(r"running on http://\S+:(\d+)"))
        self.port = int(self.said(r"running on http://\S+:(\d+)")[1])

    def said(self, pattern: str):
        return re.search(pattern, self.log.read_text())

    def until(self, true, seconds: float = 30) -> None:
        ends = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < ends, self.log.read_text()
            assert self.process.poll() is None or true(), self.log.read_text()
            time.sleep(0.02)

    def until_ready(self) -> Process:
        self.until(lambda: self.get("/v2/health/ready")[0] == 200)
        return self

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def request(self, method: str, path: str, body=None, headers=None):
        """Return status, headers and body; the body as JSON where it is that."""
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            content = response.read()
        kind = response.headers.get("content-type", "")
        return response.status, response.headers, json.loads(content) if kind == "application/json" else content

    def get(self, path: str, **headers: str):
        return self.request("GET", path, headers=headers)

    @property
    def admin(self) -> Process:
        """Return what asks the admin port."""
        other = copy.copy(self)
        _, other.port = (int(port) for port in re.findall(r"running on http://\S+:(\d+)", self.log.read_text()))
        return other

    def post(self, path: str, value, headers=None):
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return self.request("POST", path, body, {**JSON, **(headers or {})})

    def raw(self, *parts: bytes, pause: float = 0.0) -> bytes:
        """Send bytes as they are, and return all that comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as connection:
            with contextlib.suppress(OSError):
                for part in parts:
                    connection.sendall(part)
                    time.sleep(pause)
            found = b""
            with contextlib.suppress(OSError):
                while part := connection.recv(65536):
                    found += part
            return found

    def end(self, seconds: float = 30) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Return a function that starts a server."""
    started: list[Process] = []

    def start(*arguments: object, **environment: str) -> Process:
        command, variables = (
            Path(sys.executable).parent / "burnish",
            {**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        )
        started.append(Process(command, variables, tmp_path_factory.mktemp("server"), *arguments))
        return started[-1].until_ready()

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()

"""Starts real server processes, and sends them requests over real HTTP.

Shared by the tests of serving, containers, hosts, images and Unity, so it lies beside them all.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from tests.conftest import BIN, clean_environment

JSON = {"Content-Type": "application/json"}
LINES = {"Content-Type": "application/jsonlines", "Accept": "application/jsonlines"}
ROWS = np.linspace(-1, 1, 27, dtype=np.float32).reshape(3, 9)
OLD_INPUTS = {"prev_action": [0, 0], "is_training": False, "prev_reward": -1, "seq_lens": -1}


@dataclass
class Server:
    """A `serve` that was started."""

    process: subprocess.Popen[str]
    port: int
    log_path: Path

    def request(
        self, method: str, path: str, body: bytes | str = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers by lower-case name, body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()

    def invoke(self, body: Any, headers: dict[str, str] | None = None) -> Any:
        """The JSON answer of an invocation; a body that is no text is sent as JSON."""
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, answer = self.request("POST", "/invocations", raw, JSON if headers is None else headers)
        assert status == 200, answer
        return json.loads(answer)

    def refusal(self, body: Any, headers: dict[str, str] | None = None) -> tuple[int, str]:
        """Status and error of an invocation."""
        raw = body if isinstance(body, (bytes, str)) else json.dumps(body)
        status, _, answer = self.request("POST", "/invocations", raw, JSON if headers is None else headers)
        return status, json.loads(answer)["error"]

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def wait_until(self, status: int, timeout_s: float = 30) -> None:
        """Waits for /ping to answer with a status."""
        deadline = time.monotonic() + timeout_s
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/ping")[0] == status:
                    return
            assert self.process.poll() is None, self.log
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def workers(self) -> list[psutil.Process]:
        """The processes that answer."""
        children = psutil.Process(self.process.pid).children()
        return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def started(
    tmp: Path,
    *words: str,
    environment: dict[str, str] | None = None,
    code: int = 0,
    program: tuple[str, ...] = (str(BIN / "serve"),),
) -> Iterator[Server]:
    """Starts `serve WORDS` on a free port; ends it with SIGTERM, which must leave the exit code."""
    port = free_port()
    log = tmp / f"serve-{port}.log"
    command = [*program, *words, "--host", "127.0.0.1"]
    variables = {**clean_environment(), "SAGEMAKER_BIND_TO_PORT": str(port), **(environment or {})}
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=tmp, env=variables, stdout=file, stderr=file, text=True)
    server = Server(process, port, log)
    try:
        yield server
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == code, server.log
    finally:
        process.kill()
        process.wait()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()

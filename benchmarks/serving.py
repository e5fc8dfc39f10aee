"""Latency and throughput of `serve` beside peers in one run, a load of a million requests, and batch transform.

Run: make bench-serving (writes benchmarks/serving.md and prints it; about 15 minutes). Clients and servers share the
machine's cores: read the ratios. `--quick` sends a hundredth of the load.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from runtime.artifacts.policy_file import read_policy
from runtime.serving.served_policy import load_policy

_ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_ROUNDS = 7
_REQUESTS = 1000
_LOAD = 1_000_000
_CONNECTIONS = 64
_RECORDS = 10_000_000
_BODY = json.dumps(
    {
        "inputs": {
            "observations": np.ones((1, 9)).tolist(),
            "prev_action": [0, 0],
            "is_training": False,
            "prev_reward": -1,
            "seq_lens": -1,
        }
    }
).encode()
_REQUEST = (
    b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    b"Accept: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(_BODY), _BODY)
)


def main() -> None:
    """Measures and writes the tables."""
    share = 100 if "--quick" in sys.argv else 1
    with tempfile.TemporaryDirectory() as folder:
        results = _train(Path(folder))
        lines = [
            "# Serving: against peers, under load, and in batch",
            "",
            f"`make bench-serving` on {os.cpu_count()} CPUs ({platform.machine()}), Python "
            f"{platform.python_version()}. The policy is reacher's with a 64x64 tanh network; client and "
            "server share the CPUs.",
            "",
            *_latency(results),
            *_batch(results),
            *_load(results, _LOAD // share),
            *_transform(results, Path(folder), _RECORDS // share),
        ]
    text = "\n".join(lines) + "\n"
    print(text)
    if share == 1:
        Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


def _train(folder: Path) -> Path:
    results = folder / "results"
    settings = ["rl.training.stop.training_iteration=2", "rl.training.config.model.fcnet_hiddens=[64,64]"]
    settings += ["rl.training.config.model.fcnet_activation=tanh", "rl.training.config.seed=0"]
    command = [str(_BIN / "smrl"), "train", "--preset", "reacher", "--out", str(results), *settings]
    subprocess.run(command, check=True, capture_output=True)
    return results


@dataclass
class _Served:
    process: subprocess.Popen[bytes]
    port: int

    def connect(self) -> socket.socket:
        """A connection without Nagle's delay."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=60)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def pin(self, cpu: int) -> None:
        """Keeps the server and its workers on one CPU, where the machine has it."""
        main = psutil.Process(self.process.pid)
        for process in (main, *main.children(recursive=True)):
            for thread in process.threads():
                os.sched_setaffinity(thread.id, {min(cpu, (os.cpu_count() or 1) - 1)})

    def rss_mb(self) -> float:
        """Resident memory of the server and its workers, in MB."""
        main = psutil.Process(self.process.pid)
        return sum(p.memory_info().rss for p in (main, *main.children(recursive=True))) / 2**20


@contextlib.contextmanager
def _serving(*command: str, port: int) -> Iterator[_Served]:
    process = subprocess.Popen(
        command, cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}, stdout=subprocess.DEVNULL, stderr=None
    )
    served = _Served(process, port)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), served.connect() as connection:
                if b" 200 " in _call(connection)[:20]:
                    break
            assert process.poll() is None, command
            assert time.monotonic() < deadline, command
            time.sleep(0.1)
        yield served
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def _on_cpu(cpu: int) -> Iterator[None]:
    """Keeps this process on one CPU."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cpu})
    yield
    os.sched_setaffinity(0, before)


def _call(connection: socket.socket) -> bytes:
    """One request; returns the whole response."""
    connection.sendall(_REQUEST)
    answer = b""
    while not _is_whole(answer):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError("closed")
        answer += part
    return answer


def _is_whole(answer: bytes) -> bool:
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _command(name: str, results: Path, port: int) -> list[str]:
    """Returns the command that starts a server."""
    if name == "serve":
        return [str(_BIN / "serve"), str(results), "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    peers = str(_ROOT / "benchmarks" / "serving_peers.py")
    return [sys.executable, peers, name, str(port), str(results / "model" / "checkpoint")]


def _latency(results: Path) -> list[str]:
    """One observation a request, one connection; ours and one peer up, asked in turn."""
    lines = [
        "## One observation a request, one connection",
        "",
        f"The notebook's request; ours beside one peer at a time, {_ROUNDS} rounds of {_REQUESTS:,} requests in turn, "
        "one worker each. The client has one CPU and the servers another, as if it were elsewhere; Ray has both.",
        "",
        "| peer | its p50 (us) | its p99 (us) | our p50 (us) | our p99 (us) | its p50 / ours | its MB | our MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    labels = {
        "echo": "uvicorn, echo of the body",
        "fastapi": "FastAPI, torch eager",
        "rayserve": "Ray Serve, RLModule",
    }
    for name, label in labels.items():
        times, memory = _beside(results, name)
        (p50, p99), (our_p50, our_p99) = (1e6 * np.percentile(times[who], (50, 99)) for who in (name, "serve"))
        lines.append(
            f"| {label} | {p50:.0f} | {p99:.0f} | {our_p50:.0f} | {our_p99:.0f} | {p50 / our_p50:.2f} | "
            f"{memory[name]:.0f} | {memory['serve']:.0f} |"
        )
    return [*lines, ""]


def _beside(results: Path, peer: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each request and memory in MB, of `serve` and of a peer."""
    times: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in ("serve", peer):
            port = _free_port()
            servers[name] = stack.enter_context(_serving(*_command(name, results, port), port=port))
        stack.enter_context(_on_cpu(0))
        for name, server in servers.items():
            if name != "rayserve":
                server.pin(1)
        for name, server in [*servers.items()] * _ROUNDS:
            with server.connect() as connection:  # a new one each round, as some servers close idle connections
                _time(connection, _REQUESTS // 5)
                times.setdefault(name, []).extend(_time(connection, _REQUESTS))
        return times, {name: server.rss_mb() for name, server in servers.items()}


def _time(connection: socket.socket, count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        _call(connection)
        found.append(time.perf_counter() - start)
    return found


def _batch(results: Path) -> list[str]:
    """1,024 observations a call, in process, one thread."""
    import torch

    torch.set_num_threads(1)
    folder = results / "model"
    served = load_policy(folder)
    policy = read_policy(folder / "checkpoint", settings=json.loads((folder / "manifest.json").read_text()))
    rows = np.random.default_rng(0).normal(size=(1024, 9)).astype(np.float32)
    ours = []
    eager = []
    for _ in range(200):
        start = time.perf_counter()
        served.run(rows, (served.main_output,))
        middle = time.perf_counter()
        policy.logits(rows)
        ours.append(middle - start)
        eager.append(time.perf_counter() - middle)
    rate, other = (len(rows) / statistics.median(times) for times in (ours, eager))
    return [
        "## 1,024 observations a call, in process, one core",
        "",
        "| | rows/s |",
        "|---|---|",
        f"| the served policy: filter, network, scaling | {rate:,.0f} |",
        f"| RLModule in eager torch: filter, network | {other:,.0f} |",
        "",
    ]


def _load(results: Path, requests: int) -> list[str]:
    """Many requests over many connections: errors, and memory that grows."""
    port = _free_port()
    with _serving(str(_BIN / "serve"), str(results), "--host", "127.0.0.1", "--port", str(port), port=port) as server:
        _hammer(server, max(_CONNECTIONS, requests // 20))
        before = server.rss_mb()
        start = time.perf_counter()
        errors = _hammer(server, requests)
        seconds = time.perf_counter() - start
        after = server.rss_mb()
    return [
        f"## {requests:,} requests over {_CONNECTIONS} connections",
        "",
        f"A worker a core; {errors} errors; {requests / seconds:,.0f} requests/s with the client on the same cores; "
        f"memory of all processes {before:.0f} MB after {requests // 20:,} requests, {after:.0f} MB at the end "
        f"({after / before - 1:+.1%}).",
        "",
    ]


def _hammer(server: _Served, requests: int) -> int:
    """Sends requests, one at a time on each connection; returns how many were not answered with 200."""
    left = requests
    done = 0
    errors = 0
    with selectors.DefaultSelector() as selector, contextlib.ExitStack() as stack:
        answers: dict[int, bytes] = {}
        for _ in range(_CONNECTIONS):
            connection = stack.enter_context(server.connect())
            selector.register(connection, selectors.EVENT_READ)
            connection.sendall(_REQUEST)
            answers[connection.fileno()] = b""
            left -= 1
        while done < requests:
            for key, _ in selector.select(timeout=60):
                connection = key.fileobj  # type: ignore[assignment]
                answer = answers[key.fd] + connection.recv(65536)
                answers[key.fd] = answer
                if _is_whole(answer):
                    done += 1
                    errors += not answer.startswith(b"HTTP/1.1 200")
                    answers[key.fd] = b""
                    if left > 0:
                        left -= 1
                        connection.sendall(_REQUEST)
    return errors


def _transform(results: Path, folder: Path, records: int) -> list[str]:
    """JSON lines from a file to a file."""
    rows = np.random.default_rng(0).normal(size=(1000, 9)).round(4).tolist()
    block = "".join(json.dumps(row) + "\n" for row in rows).encode()
    with (folder / "in.jsonl").open("wb") as file:
        for _ in range(records // 1000):
            file.write(block)
    command = [str(_BIN / "smrl"), "transform", str(results), "--input", str(folder / "in.jsonl"), "--output"]
    start = time.perf_counter()
    process = psutil.Popen([*command, str(folder / "out"), "--join", "input"], stderr=subprocess.DEVNULL)
    peak = 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            peak = max(peak, process.memory_info().rss / 2**20)
        time.sleep(0.05)
    seconds = time.perf_counter() - start
    assert process.returncode == 0
    return [
        f"## `smrl transform --join input`, {records:,} JSON lines",
        "",
        f"{seconds:.0f} s, {records / seconds:,.0f} records/s, one process; at most {peak:.0f} MB of memory.",
    ]


if __name__ == "__main__":
    main()

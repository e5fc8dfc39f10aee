"""Latency and throughput of `serve` beside peers in one run, with capture, under load, and of batch transform.

Run: make bench-serving (writes benchmarks/serving.md and prints it; about 15 minutes), or make bench-serving
PARTS="capture" for some of its sections: peers, batch, capture, loop, load, transform. Clients and servers share the
machine's cores: read the ratios. `--quick` sends a hundredth of the load.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.result_page import write_sections
from runtime.artifacts.policy_file import read_policy
from runtime.serving.served_policy import load_policy

_ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent
_ROUNDS = 7
_REQUESTS = 1000
_LOAD = 1_000_000
_CONNECTIONS = 64
_RECORDS = 10_000_000
_HEAD = (
    "# Serving: against peers, under load, and in batch\n\n"
    f"`make bench-serving` on {os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}. The "
    "policy is reacher's with a 64x64 tanh network; client and server share the CPUs."
)


def _make_request(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        "POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


_REQUEST = _make_request(
    {
        "inputs": {
            "observations": np.ones((1, 9)).tolist(),
            "prev_action": [0, 0],
            "is_training": False,
            "prev_reward": -1,
            "seq_lens": -1,
        }
    }
)


def main() -> None:
    """Measures and writes the sections that the command line names, or all."""
    share = 100 if "--quick" in sys.argv else 1
    named = [word for word in sys.argv[1:] if word != "--quick"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        results = _train(folder)
        parts: dict[str, tuple[str, Callable[[], list[str]]]] = {
            "peers": ("One observation a request, one connection", lambda: _latency(results)),
            "batch": ("1,024 observations a call, in process, one core", lambda: _batch(results)),
            "capture": ("With explore mode and capture", lambda: _capture(folder)),
            "loop": ("From served decisions to a better policy", lambda: _loop(folder, 2000 // share)),
            "load": (
                f"{_LOAD // share:,} requests over {_CONNECTIONS} connections",
                lambda: _load(results, _LOAD // share),
            ),
            "transform": (
                f"`smrl transform --join input`, {_RECORDS // share:,} JSON lines",
                lambda: _transform(results, folder, _RECORDS // share),
            ),
        }
        measured = {}
        for part in named or parts:
            title, measure = parts[part]
            measured[title] = "\n".join(measure())
            print(f"## {title}\n\n{measured[title]}\n", flush=True)
    if share == 1:
        write_sections(Path(__file__).with_suffix(".md"), _HEAD, [title for title, _ in parts.values()], measured)


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
    request: bytes

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
def _serving(*command: str, port: int, request: bytes = _REQUEST) -> Iterator[_Served]:
    process = subprocess.Popen(
        command, cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}, stdout=subprocess.DEVNULL, stderr=None
    )
    served = _Served(process, port, request)
    try:
        deadline = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError), served.connect() as connection:
                if b" 200 " in _call(connection, request)[:20]:
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


def _call(connection: socket.socket, request: bytes) -> bytes:
    """One request; returns the whole response."""
    connection.sendall(request)
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
    return lines


def _beside(results: Path, peer: str) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of each request and memory in MB, of `serve` and of a peer."""
    with contextlib.ExitStack() as stack:
        servers = {}
        for name in ("serve", peer):
            port = _free_port()
            servers[name] = stack.enter_context(_serving(*_command(name, results, port), port=port))
        stack.enter_context(_on_cpu(0))
        for name, server in servers.items():
            if name != "rayserve":
                server.pin(1)
        return _time_in_turn(servers), {name: server.rss_mb() for name, server in servers.items()}


def _time_in_turn(servers: dict[str, _Served]) -> dict[str, list[float]]:
    """Seconds of each request, with the servers asked in turn, a round of requests each."""
    times: dict[str, list[float]] = {}
    for name, server in [*servers.items()] * _ROUNDS:
        with server.connect() as connection:  # a new one each round, as some servers close idle connections
            _time(connection, server.request, _REQUESTS // 5)
            times.setdefault(name, []).extend(_time(connection, server.request, _REQUESTS))
    return times


def _time(connection: socket.socket, request: bytes, count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        _call(connection, request)
        found.append(time.perf_counter() - start)
    return found


def _capture(folder: Path) -> list[str]:
    """A policy of two actions, as it answers by default, exploring, and exploring with capture; asked in turn."""
    results = folder / "cartpole"
    settings = ["--env", "CartPole-v1", "rl.training.stop.training_iteration=1", "rl.training.config.seed=0"]
    subprocess.run([str(_BIN / "smrl"), "train", *settings, "--out", str(results)], check=True, capture_output=True)
    modes = {
        "as by default": [],
        "explore mode": ["--epsilon", "0.1"],
        "explore mode and capture": ["--epsilon", "0.1", "--capture", str(folder / "captured")],
    }
    request = _make_request({"instances": [[0.01, -0.02, 0.03, 0.04]]})
    with contextlib.ExitStack() as stack:
        servers = {}
        for name, options in modes.items():
            port = _free_port()
            command = [*_command("serve", results, port), *options]
            servers[name] = stack.enter_context(_serving(*command, port=port, request=request))
        times = _time_in_turn(servers)
    lines = sum(file.read_bytes().count(b"\n") for file in (folder / "captured").rglob("*.jsonl"))
    asked = _ROUNDS * (_REQUESTS + _REQUESTS // 5)
    assert lines >= asked, f"{lines} of {asked} decisions were captured"
    base = np.percentile(times["as by default"], 50)
    rows = []
    for name, found in times.items():
        p50, p99 = np.percentile(found, (50, 99))
        rows.append(f"| {name} | {1e6 * p50:.0f} | {1e6 * p99:.0f} | {p50 / base:.2f} |")
    return [
        f"CartPole's policy, {_ROUNDS} rounds of {_REQUESTS:,} requests in turn, one worker and one connection each; "
        f"client and servers share {len(os.sched_getaffinity(0))} of the CPUs. All {asked:,} decisions were captured.",
        "",
        "| | p50 (us) | p99 (us) | p50 / by default |",
        "|---|---|---|---|",
        *rows,
    ]


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
        "| | rows/s |",
        "|---|---|",
        f"| the served policy: filter, network, scaling | {rate:,.0f} |",
        f"| RLModule in eager torch: filter, network | {other:,.0f} |",
    ]


def _loop(folder: Path, episodes: int) -> list[str]:
    """Runs examples/serving_loop.py: serve v0 in explore mode, join, train v1, gate, and compare both."""
    command = [sys.executable, str(_ROOT / "examples" / "serving_loop.py"), "--out", str(folder / "loop")]
    began = time.monotonic()
    done = subprocess.run([*command, "--episodes", str(episodes)], capture_output=True, text=True)
    seconds = time.monotonic() - began
    verdict = re.search(r"^deploy-gate: .*$", done.stdout, re.MULTILINE)
    steps, kept = re.findall(r"log\.csv: ([\d,]+) steps of ([\d,]+) episodes", done.stdout)[0]
    assert verdict, done.stdout + done.stderr
    lines = [
        f"`examples/serving_loop.py`, {episodes:,} episodes of CartPole's users: {steps} decisions of {kept} episodes "
        f"joined, in {seconds:.0f} s from v0's log to the last comparison, on {len(os.sched_getaffinity(0))} of the "
        "CPUs, shared with other work.",
        "",
        f"`{verdict[0]}`",
        "",
        "| version | mean return of 20 episodes, served |",
        "|---|---|",
    ]
    found = re.findall(r"^(v\d): mean return ([\d.]+)$", done.stdout, re.MULTILINE)
    return [*lines, *(f"| {version} | {value} |" for version, value in found)]


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
        f"A worker a core; {errors} errors; {requests / seconds:,.0f} requests/s with the client on the same cores; "
        f"memory of all processes {before:.0f} MB after {requests // 20:,} requests, {after:.0f} MB at the end "
        f"({after / before - 1:+.1%}).",
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
        f"{seconds:.0f} s, {records / seconds:,.0f} records/s, one process; at most {peak:.0f} MB of memory.",
    ]


if __name__ == "__main__":
    main()

"""Hosts on this machine: network, process, mount and UTS namespaces, joined by a bridge as SageMaker joins hosts."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shlex
import shutil
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.conftest import BIN, ROOT, clean_environment

NETWORK = "10.213.77"
# Of a host: its own names, the 64 MB that Docker gives to /dev/shm, and its /opt/ml at one place for all.
_SETUP = """
set -e
mount --bind {base}/hosts /etc/hosts
hostname {name}
mount -t tmpfs -o size=64m tmpfs /dev/shm
mount -t tmpfs tmpfs /mnt
mkdir /mnt/ml /mnt/tmp
mount --bind {base}/ml /mnt/ml
cd /mnt/ml
exec {command}
"""


def some_cpus(count: int) -> str:
    """So many CPUs of this machine, or all if it has fewer, as taskset has them."""
    return ",".join(map(str, sorted(os.sched_getaffinity(0))[:count]))


def _run(*words: str, must: bool = True) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not must, f"{shlex.join(words)}: {done.stderr}"
    return done.stdout


@functools.cache
def why_not() -> str:
    """Why this machine cannot have hosts, or nothing."""
    missing = [tool for tool in ("ip", "unshare", "mount", "hostname", "taskset", "ss") if shutil.which(tool) is None]
    if os.geteuid() != 0 or missing:
        return f"hosts are namespaces, which root makes{' with ' + ', '.join(missing) if missing else ''}"
    probe = f"smrl-{uuid.uuid4().hex[:6]}"
    commands = (
        ["ip", "link", "add", f"{probe}a", "type", "veth", "peer", "name", f"{probe}b"],
        ["ip", "link", "add", f"{probe}c", "type", "bridge"],
        ["ip", "netns", "add", probe],
        [
            "ip",
            "netns",
            "exec",
            probe,
            "unshare",
            "--mount",
            "--pid",
            "--uts",
            "--fork",
            "mount",
            "-t",
            "tmpfs",
            "x",
            "/mnt",
        ],
    )
    try:
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                return f"namespaces cannot be made here: {shlex.join(command)}: {done.stderr.strip()}"
    finally:
        _run("ip", "netns", "del", probe, must=False)
        for link in ("a", "c"):
            _run("ip", "link", "del", f"{probe}{link}", must=False)
    return ""


needs_hosts = pytest.mark.skipif(bool(why_not()), reason=why_not() or "never")


@dataclass
class Host:
    """One host.

    Attributes:
        name: As resourceconfig.json has it.
        namespace: Of its network.
        base: Holds its /opt/ml, `ml`.
        environment: Variables of what runs in it.
        cpus: Of this machine that it may use, as taskset has them.
        process: What runs in it, if anything.
    """

    name: str
    namespace: str
    base: Path
    environment: Mapping[str, str]
    cpus: str
    process: subprocess.Popen[bytes] | None = None

    @property
    def ml(self) -> Path:
        """Its /opt/ml."""
        return self.base / "ml"

    @property
    def log(self) -> str:
        """What it has printed."""
        return (self.base / "log.txt").read_text(errors="replace")

    @property
    def failure(self) -> str:
        """Its failure file, empty where there is none."""
        path = self.ml / "output" / "failure"
        return path.read_text() if path.exists() else ""

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Its metrics.jsonl."""
        path = self.ml / "output" / "data" / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def start(self, *words: str) -> None:
        """Starts the images' process 1 in it, with the words after the image's name."""
        words = ("taskset", "--cpu-list", self.cpus, str(BIN / "smrl-init"), *words)
        setup = _SETUP.format(base=self.base, name=self.name, command=shlex.join(words))
        command = ["unshare", "--mount", "--pid", "--uts", "--fork", "--kill-child", "--mount-proc", "sh", "-c", setup]
        environment = {
            **clean_environment(),
            "SAGEMAKER_BASE_DIR": "/mnt/ml",
            "SAGEMAKER_TRAINING_MODULE": "runtime.container.toolkit:train",
            "TRAINING_JOB_NAME": "three-hosts",
            "RAY_TMPDIR": "/mnt/tmp",
            "PYTHONPATH": str(ROOT),
            **self.environment,
        }
        with (self.base / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *command], env=environment, stdout=log, stderr=log
            )

    def wait(self, timeout_s: float = 180) -> int:
        """Its exit code."""
        assert self.process is not None
        return self.process.wait(timeout_s)

    def kill(self) -> None:
        """Ends every process in it at once, as when a machine is lost."""
        assert self.process is not None
        self.process.kill()  # unshare takes its child, process 1, along, and that the namespace
        self.process.wait()

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to its process 1."""
        assert self.process is not None
        psutil.Process(self.process.pid).children()[0].send_signal(number)

    def processes(self) -> list[psutil.Process]:
        """Everything that runs in it."""
        assert self.process is not None
        return psutil.Process(self.process.pid).children(recursive=True)

    def run(self, *words: str) -> str:
        """Runs a command in its network."""
        return _run("ip", "netns", "exec", self.namespace, *words)


@dataclass
class Hosts:
    """Hosts that reach each other, the first first."""

    folder: Path
    hosts: list[Host] = field(default_factory=list)

    def write(self, hyperparameters: Mapping[str, Any]) -> None:
        """Writes SageMaker's files for a job on all of them."""
        names = [host.name for host in self.hosts]
        for host in self.hosts:
            config = host.ml / "input" / "config"
            config.mkdir(parents=True, exist_ok=True)
            values = {name: str(value) for name, value in hyperparameters.items()}
            (config / "hyperparameters.json").write_text(json.dumps(values))
            resources = {"current_host": host.name, "hosts": names, "network_interface_name": "eth0"}
            (config / "resourceconfig.json").write_text(json.dumps(resources))
            (config / "inputdataconfig.json").write_text("{}")
            code = host.ml / "code"
            code.mkdir(exist_ok=True)
            shutil.copy(ROOT / "entrypoints" / "train.py", code)

    def start(self) -> None:
        """Starts the real `train` in each."""
        for host in self.hosts:
            host.start("train")

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 180) -> None:
        """Waits until something is so."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, self.story()
            time.sleep(0.1)

    def story(self) -> str:
        """The end of each host's log."""
        return "\n".join(f"=== {host.name}\n{host.log[-2500:]}" for host in self.hosts)


@contextlib.contextmanager
def hosts(folder: Path, count: int, environment: Mapping[str, str] | None = None) -> Iterator[Hosts]:
    """Makes hosts, and takes away every process, namespace and link of them."""
    tag = uuid.uuid4().hex[:6]
    bridge = f"smrl{tag}"
    # Docker's daemon, where it runs, drops what bridges forward that are not its own.
    forwards = ["FORWARD", "-i", bridge, "-o", bridge, "-j", "ACCEPT"]
    has_firewall = shutil.which("iptables") is not None
    made = Hosts(folder)
    try:
        _run("ip", "link", "add", bridge, "type", "bridge")
        _run("ip", "link", "set", bridge, "up")
        if has_firewall:
            _run("iptables", "-I", *forwards)
        names = "127.0.0.1 localhost\n" + "".join(f"{NETWORK}.{i} algo-{i}\n" for i in range(1, count + 1))
        for number in range(1, count + 1):
            base = folder / f"algo-{number}"
            host = Host(f"algo-{number}", f"{bridge}-{number}", base, environment or {}, some_cpus(2))
            (host.base / "ml").mkdir(parents=True)
            (host.base / "hosts").write_text(names)
            made.hosts.append(host)
            _join(host, bridge, f"s{tag}{number}", f"{NETWORK}.{number}/24")
        yield made
    finally:
        for host in made.hosts:
            if host.process is not None and host.process.poll() is None:
                host.kill()
            _run("ip", "netns", "del", host.namespace, must=False)
        if has_firewall:
            _run("iptables", "-D", *forwards, must=False)
        _run("ip", "link", "del", bridge, must=False)


def _join(host: Host, bridge: str, outside: str, address: str) -> None:
    _run("ip", "netns", "add", host.namespace)
    _run("ip", "link", "add", outside, "type", "veth", "peer", "name", "eth0", "netns", host.namespace)
    _run("ip", "link", "set", outside, "master", bridge, "up")
    host.run("ip", "address", "add", address, "dev", "eth0")
    host.run("ip", "link", "set", "eth0", "up")
    host.run("ip", "link", "set", "lo", "up")

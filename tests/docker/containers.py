"""Hosts as containers: algo-1 to algo-3 of compose.yaml, started by Docker Compose in a folder of their own."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import ROOT

NAMES = ("algo-1", "algo-2", "algo-3")
_COMMAND_TIMEOUT_S = 180.0


def docker(*words: str, must: bool = True) -> str:
    """Runs the Docker client; returns what it prints."""
    done = subprocess.run(["docker", *words], capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    assert done.returncode == 0 or not must, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout.strip()


def find_compose() -> list[str]:
    """The command of Docker Compose, of either version; empty where there is none."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0:
        return ["docker", "compose"]
    return ["docker-compose"] if shutil.which("docker-compose") else []


@dataclass
class Containers:
    """Three hosts of one job.

    Attributes:
        folder: Holds compose.yaml, and hosts/algo-1 etc., each a host's /opt/ml.
        project: Compose's name for them.
        ids: Of the containers, by host.
    """

    folder: Path
    project: str
    ids: dict[str, str]

    def compose(self, *words: str) -> subprocess.Popen[bytes]:
        """Starts Docker Compose with these words; it writes to compose.log."""
        with (self.folder / "compose.log").open("ab") as log:
            return subprocess.Popen(
                [*find_compose(), "--project-name", self.project, *words], cwd=self.folder, stdout=log, stderr=log
            )

    def create(self) -> None:
        """Creates the containers, and does not start them."""
        assert self.compose("up", "--no-start", *NAMES).wait(_COMMAND_TIMEOUT_S) == 0, self.story()
        for name in NAMES:
            labels = (f"com.docker.compose.project={self.project}", f"com.docker.compose.service={name}")
            self.ids[name] = docker("ps", "--all", "--quiet", *(f"--filter=label={label}" for label in labels))

    def start(self, *names: str) -> None:
        """Starts containers; all where none is named."""
        docker("start", *(self.ids[name] for name in names or NAMES))

    def ml(self, name: str) -> Path:
        """A host's /opt/ml."""
        return self.folder / "hosts" / name

    def log(self, name: str) -> str:
        """What a host has printed."""
        done = subprocess.run(
            ["docker", "logs", self.ids[name]],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_COMMAND_TIMEOUT_S,
            check=False,
        )
        return done.stdout.decode(errors="replace")

    def rows(self) -> list[dict[str, Any]]:
        """The head node's metrics.jsonl, without a last line that is not complete."""
        path = self.ml(NAMES[0]) / "output" / "data" / "metrics.jsonl"
        return [json.loads(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []

    def iterations(self) -> int:
        """Iterations that the head node has reported."""
        return len(self.rows())

    def count(self, name: str) -> int:
        """The last value of a counter in the head node's log."""
        found = re.findall(rf"(?<![a-z_]){name}: (\d+)", self.log(NAMES[0]))
        return int(found[-1]) if found else 0

    def is_running(self, name: str) -> bool:
        """Whether a host's container runs."""
        return docker("inspect", "--format={{.State.Running}}", self.ids[name]) == "true"

    def exit_code(self, name: str) -> int:
        """The exit code of a host's container, which has ended."""
        return int(docker("inspect", "--format={{.State.ExitCode}}", self.ids[name]))

    def wait_for_end(self, timeout_s: float = 240) -> list[int]:
        """Waits until every container has ended; their exit codes."""
        self.wait_for(lambda: not any(self.is_running(name) for name in NAMES), timeout_s)
        return [self.exit_code(name) for name in NAMES]

    def disconnect(self, name: str) -> None:
        """Takes a host off the network."""
        docker("network", "disconnect", f"{self.project}_default", self.ids[name])

    def reconnect(self, name: str) -> None:
        """Puts a host back on the network, under its name."""
        docker("network", "connect", "--alias", name, f"{self.project}_default", self.ids[name])

    def wait_for(self, condition: Callable[[], Any], timeout_s: float = 240) -> float:
        """Waits until something is so; the seconds that it took."""
        started = time.monotonic()
        while not condition():
            assert time.monotonic() < started + timeout_s, self.story()
            time.sleep(0.2)
        return time.monotonic() - started

    def story(self) -> str:
        """The end of each host's log."""
        logs = [f"=== {name}\n{self.log(name)[-2500:]}" for name in self.ids]
        return "\n".join([(self.folder / "compose.log").read_text(errors="replace")[-2000:], *logs])


@contextlib.contextmanager
def containers(folder: Path, image: str, hyperparameters: Mapping[str, Any]) -> Iterator[Containers]:
    """Creates three hosts with their hyperparameters.json, and removes them, their network and what they have written.

    Args:
        folder: An empty folder for them.
        image: The image to run, in the place of compose.yaml's.
        hyperparameters: Those of the job.
    """
    text = (ROOT / "compose.yaml").read_text()
    assert "image: smrl:cpu" in text
    (folder / "compose.yaml").write_text(text.replace("image: smrl:cpu", f"image: {image}"))
    made = Containers(folder, f"smrlhosts{uuid.uuid4().hex[:6]}", {})
    for name in NAMES:
        config = made.ml(name) / "input" / "config"
        config.mkdir(parents=True)
        values = {name: str(value) for name, value in hyperparameters.items()}
        (config / "hyperparameters.json").write_text(json.dumps(values))
    try:
        made.create()
        yield made
    finally:
        made.compose("down", "--timeout", "0", "--volumes").wait(_COMMAND_TIMEOUT_S)

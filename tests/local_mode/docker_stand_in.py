"""Stands in for Docker and Compose: a container of the image `stand-in` is a process that runs a small job.

The job's /opt/ml is a folder with links to the container's volumes. It prints a metric an iteration, `-(x - 0.3)²` for
the hyperparameter `x`, and writes a model; at SIGTERM it ends after its iteration, as our training does. Its other
hyperparameters are `iterations`, and `seconds` of each. Without an `x` it fails.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

IMAGE = "stand-in"


def main(words: list[str]) -> int:
    """Runs a command of docker's."""
    if words[:1] == ["info"]:
        print(os.cpu_count())
        return 0
    if words[:2] == ["image", "inspect"]:
        return int(words[2] != IMAGE)
    if words[:1] == ["pull"]:
        return f"Error response from daemon: pull access denied for {words[1]}"  # type: ignore[return-value]
    if words == ["compose", "version"]:
        print("Docker Compose version v2.40.0")
        return 0
    if words[:2] == ["compose", "-f"] and words[3] == "up":
        return compose(yaml.safe_load(Path(words[2]).read_text()))
    return int("rm" not in words)


def compose(described: dict[str, Any]) -> int:
    """Runs the one service to its end; a Ctrl-C gives it its grace period."""
    ((name, service),) = described["services"].items()
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "ml"
        for volume in sorted(service["volumes"], key=len):
            here, there = volume.split(":")
            link = base / Path(there).relative_to("/opt/ml")
            Path(here).mkdir(parents=True, exist_ok=True)
            if not link.exists():  # output/data is within output
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(here)
        process = subprocess.Popen(  # in a session of its own, as a container does not get a terminal's Ctrl-C
            [sys.executable, __file__, "job", str(base)], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        signal.signal(signal.SIGINT, lambda *_: process.terminate())
        for line in process.stdout or ():
            print(f"\x1b[36mabcdefghij-{name} |\x1b[0m {line.rstrip()}\r", flush=True)
        return process.wait()


def job(base: Path) -> int:
    """The container's program."""
    found = json.loads((base / "input" / "config" / "hyperparameters.json").read_text())
    words = {key: json.loads(value) for key, value in found.items() if key in ("x", "iterations", "seconds")}
    if words["x"] is None:
        (base / "output" / "failure").write_text("x is null")
        return 1
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    for iteration in range(1, words["iterations"] + 1):
        time.sleep(words.get("seconds", 0))
        print(f"training_iteration: {iteration} episode_reward_mean: {-((words['x'] - 0.3) ** 2):.6g}", flush=True)
        if asked:
            break
    (base / "model" / "x.json").write_text(json.dumps({"x": words["x"], "iteration": iteration}))
    return 0


if __name__ == "__main__":
    sys.exit(job(Path(sys.argv[2])) if sys.argv[1] == "job" else main(sys.argv[1:]))

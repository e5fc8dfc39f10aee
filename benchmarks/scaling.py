"""Measures the cost of many env runners and hosts: efficiency with a sleeping environment, bytes between hosts.

python -m benchmarks.scaling [runners] [hosts] [bytes] rewrites these sections of benchmarks/scaling.md, in about ten
minutes on 2 cores. The parts hosts and bytes need root, as their hosts are network namespaces. On 2 cores, more hosts
cannot be faster: they show the cost alone.
"""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.result_page import write_sections
from benchmarks.sleeping import STEP_S
from tests.cluster.namespaces import Hosts, hosts

_PAGE = Path(__file__).with_suffix(".md")
ROOT = _PAGE.resolve().parent.parent
SMRL = Path(sys.executable).parent / "smrl"
RUNNERS = (1, 2, 4, 8, 16)
STEPS_EACH = 400
ITERATIONS = 12
EPOCHS = 10
FROM = 4  # the first measured iteration of a cluster
TO = 24  # the last
BATCH = 8192
HIDDENS = "[64, 64]"
BARE = {"rl.training.export": "false", "rl.training.video_freq": "0", "rl.training.checkpoint_freq": "0"}


@dataclass(frozen=True)
class Cluster:
    """Measurements of a training on several hosts.

    Attributes:
        connected_s: Seconds from the start until all hosts have connected.
        first_s: Seconds from the start to the end of the first iteration.
        seconds: Median seconds of an iteration.
        steps: Mean environment steps of an iteration.
        network_bytes: Bytes through the network of the first host in an iteration, sent and received.
    """

    connected_s: float
    first_s: float
    seconds: float
    steps: float
    network_bytes: float


def measure_iterations(rows: list[dict[str, Any]], first: int) -> tuple[float, float]:
    """Returns the median seconds and the mean steps of the iterations after `first`."""
    pairs = list(zip(rows[first - 1 :], rows[first:], strict=False))
    seconds = sorted(b["time_total_s"] - a["time_total_s"] for a, b in pairs)
    steps = (rows[-1]["timesteps_total"] - rows[first - 1]["timesteps_total"]) / len(pairs)
    return seconds[len(seconds) // 2], steps


def measure_runners() -> list[str]:
    """Measures the steps a second of several numbers of env runners whose environments sleep."""
    lines = [
        f"An environment whose step sleeps for {1000 * STEP_S:g} ms and takes no CPU; {STEPS_EACH} steps an env runner "
        f"and iteration, {EPOCHS} epochs on the batch, [64, 64].",
        "",
        "| env runners | batch | seconds an iteration | steps a second | of one runner's, each "
        f"| of {1 / STEP_S:g} a second, each |",
        "|--:|--:|--:|--:|--:|--:|",
    ]
    alone = None
    for runners in RUNNERS:
        rate, seconds = _run_runners(runners)
        alone = alone or rate
        shares = f"{rate / runners / alone:.0%} | {rate / runners * STEP_S:.1%}".replace("%", " %")
        lines.append(f"| {runners} | {runners * STEPS_EACH:,} | {seconds:.3f} | {rate:,.0f} | {shares} |")
        print(lines[-1], flush=True)
    return lines


def _run_runners(runners: int) -> tuple[float, float]:
    settings = {
        **BARE,
        "rl.training.env": "benchmarks.sleeping:Sleeping",
        "rl.training.config.num_env_runners": runners,
        "rl.training.config.num_cpus_per_env_runner": 0.1,
        "rl.training.config.num_envs_per_env_runner": 1,
        "rl.training.config.train_batch_size": runners * STEPS_EACH,
        "rl.training.config.minibatch_size": 256,
        "rl.training.config.num_epochs": EPOCHS,
        "rl.training.stop.training_iteration": ITERATIONS,
        "rl.training.config.seed": 1,
    }
    with tempfile.TemporaryDirectory() as out:
        words = [f"{name}={value}" for name, value in settings.items()]
        subprocess.run([SMRL, "train", "--out", out, *words], cwd=ROOT, check=True, capture_output=True)
        rows = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    seconds, steps = measure_iterations(rows, 3)
    return steps / seconds, seconds


def run_cluster(count: int, settings: dict[str, Any]) -> Cluster:
    """Runs a training on a number of hosts and measures it."""
    with tempfile.TemporaryDirectory() as folder, hosts(Path(folder), count) as made:
        made.write({"preset": "reacher", "sagemaker_program": "train.py", **BARE, **settings})
        begun = time.monotonic()
        made.start()
        made.wait_for(lambda: count == 1 or f"{count} hosts, " in made.hosts[0].log)
        connected_s = time.monotonic() - begun
        _wait_and_count(made, 1)
        first_s = time.monotonic() - begun
        before = _wait_and_count(made, FROM)
        after = _wait_and_count(made, TO)
        assert made.hosts[0].wait() == 0, made.story()
        seconds, steps = measure_iterations(made.hosts[0].rows, FROM)
    return Cluster(connected_s, first_s, seconds, steps, (after[1] - before[1]) / (after[0] - before[0]))


def _wait_and_count(made: Hosts, iteration: int) -> tuple[int, int]:
    first = made.hosts[0]

    def reported() -> int:
        return max(map(int, re.findall(r"training_iteration: (\d+)", first.log)), default=0)

    made.wait_for(lambda: reported() >= iteration)
    counters = [f"/sys/class/net/eth0/statistics/{way}_bytes" for way in ("rx", "tx")]
    return reported(), sum(map(int, first.run("cat", *counters).split()))


def make_job(batch: int, hiddens: str) -> dict[str, Any]:
    """Makes the settings of a reacher training with a batch size and a network size."""
    return {
        "rl.training.config.train_batch_size": batch,
        "rl.training.config.minibatch_size": 512,
        "rl.training.config.num_epochs": 4,
        "rl.training.config.model.fcnet_hiddens": hiddens,
        "rl.training.config.seed": 1,
        "rl.training.stop.training_iteration": TO + 12,
        "rl.training.stop.episode_reward_mean": 1000,
    }


def measure_hosts() -> list[str]:
    """Measures an iteration on one, two and three hosts."""
    lines = [
        f"Hosts are network namespaces on the same cores. Reacher, {BATCH:,} steps an iteration, 4 epochs, {HIDDENS}.",
        "",
        "| hosts | env runners | seconds an iteration | ms for 1,000 steps | bytes through the first host's network |",
        "|--:|--:|--:|--:|--:|",
    ]
    for count in (1, 2, 3):
        found = run_cluster(count, make_job(BATCH, HIDDENS))
        runners = "threads of the main process" if count == 1 else 2 * count - 1
        per_1000_ms = 1e6 * found.seconds / found.steps
        lines.append(f"| {count} | {runners} | {found.seconds:.3f} | {per_1000_ms:.1f} | {found.network_bytes:,.0f} |")
        print(lines[-1], flush=True)
    return [
        *lines,
        "",
        f"Three hosts: {found.first_s:.0f} seconds to the first iteration, {found.connected_s:.0f} of them until all "
        "hosts are connected.",
    ]


def measure_bytes() -> list[str]:
    """Measures the bytes of an iteration on two hosts, by the sizes of the network and of the batch."""
    lines = [
        "By the sizes of the network and of the batch, on two hosts (3 env runners, 2 of them on the second).",
        "",
        "| hidden layers | weights, bytes | steps | bytes an iteration | bytes a step |",
        "|---|--:|--:|--:|--:|",
    ]
    for hiddens, width in (("[64, 64]", 64), ("[512, 512]", 512)):
        weights = 4 * ((9 * width + width) + (width * width + width) + (width * 4 + 4))
        for batch in (4096, 16384):
            found = run_cluster(2, make_job(batch, hiddens))
            passed = f"{found.network_bytes:,.0f} | {found.network_bytes / found.steps:.1f}"
            lines.append(f"| {hiddens} | {weights:,} | {found.steps:,.0f} | {passed} |")
            print(lines[-1], flush=True)
    return lines


_PARTS = {
    "runners": ("Many env runners", measure_runners),
    "hosts": ("What a host costs", measure_hosts),
    "bytes": ("Bytes", measure_bytes),
}


def main(words: list[str]) -> None:
    """Measures some parts and rewrites them in the page; the others stay as they were measured."""
    head = (
        "# Multi-node training, measured\n\n`python -m benchmarks.scaling`, as root for the parts with hosts. All "
        f"processes share one machine of {os.cpu_count()} {platform.machine().replace('_', '-')} cores."
    )
    for name in words or list(_PARTS):
        title, measure = _PARTS[name]
        write_sections(_PAGE, head, (title for title, _ in _PARTS.values()), {title: "\n".join(measure())})


if __name__ == "__main__":
    main(sys.argv[1:])

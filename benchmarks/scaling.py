"""What many env runners and many hosts cost: efficiency with an environment that sleeps, and bytes between hosts.

python -m benchmarks.scaling [runners] [hosts] [bytes], about ten minutes on 2 cores; hosts and bytes need root, as they
make hosts of namespaces. On 2 cores more hosts cannot be faster: what is measured is what they cost.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.sleeping import STEP_S
from tests.cluster.namespaces import Hosts, hosts

ROOT = Path(__file__).resolve().parent.parent
SMRL = Path(sys.executable).parent / "smrl"
RUNNERS, STEPS_EACH, ITERATIONS = (1, 2, 4, 8, 16), 400, 12
FROM, TO = 4, 24  # iterations between which hosts are measured
BATCH, HIDDENS = 8192, "[64, 64]"
BARE = {"rl.training.export": "false", "rl.training.video_freq": "0", "rl.training.checkpoint_freq": "0"}


def seconds_an_iteration(rows: list[dict[str, Any]], first: int) -> tuple[float, float]:
    """Median seconds and mean steps of the iterations after `first`."""
    pairs = list(zip(rows[first - 1 :], rows[first:], strict=False))
    seconds = sorted(b["time_total_s"] - a["time_total_s"] for a, b in pairs)
    steps = (rows[-1]["timesteps_total"] - rows[first - 1]["timesteps_total"]) / len(pairs)
    return seconds[len(seconds) // 2], steps


def measure_runners() -> None:
    """Steps a second for a number of runners whose environments sleep."""
    print(f"\n| env runners | batch | seconds an iteration | steps a second | of {1 / STEP_S:g} a runner |")
    print("|--:|--:|--:|--:|--:|", flush=True)
    for runners in RUNNERS:
        batch = runners * STEPS_EACH
        settings = {
            **BARE,
            "rl.training.env": "benchmarks.sleeping:Sleeping",
            "rl.training.config.num_env_runners": runners,
            "rl.training.config.num_cpus_per_env_runner": 0.1,
            "rl.training.config.num_envs_per_env_runner": 1,
            "rl.training.config.train_batch_size": batch,
            "rl.training.config.minibatch_size": 256,
            "rl.training.config.num_epochs": 10,
            "rl.training.stop.training_iteration": ITERATIONS,
            "rl.training.config.seed": 1,
        }
        with tempfile.TemporaryDirectory() as out:
            words = [f"{name}={value}" for name, value in settings.items()]
            subprocess.run([SMRL, "train", "--out", out, *words], cwd=ROOT, check=True, capture_output=True)
            rows = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
        seconds, steps = seconds_an_iteration(rows, 3)
        share = steps / seconds * STEP_S / runners
        print(f"| {runners} | {batch:,} | {seconds:.3f} | {steps / seconds:,.0f} | {share:.1%} |", flush=True)


def run_hosts(count: int, settings: dict[str, Any]) -> tuple[float, float, float]:
    """Seconds, steps, and bytes that pass the first host's network, of an iteration on a number of hosts."""
    with tempfile.TemporaryDirectory() as folder, hosts(Path(folder), count) as made:
        made.write({"preset": "reacher", "sagemaker_program": "train.py", **BARE, **settings})
        made.start()
        before = _wait_and_count(made, FROM)
        after = _wait_and_count(made, TO)
        assert made.hosts[0].wait() == 0, made.story()
        seconds, steps = seconds_an_iteration(made.hosts[0].rows, FROM)
    return seconds, steps, (after[1] - before[1]) / (after[0] - before[0])


def _wait_and_count(made: Hosts, iteration: int) -> tuple[int, int]:
    first = made.hosts[0]

    def reported() -> int:
        return max(map(int, re.findall(r"training_iteration: (\d+)", first.log)), default=0)

    made.wait_for(lambda: reported() >= iteration)
    counters = [f"/sys/class/net/eth0/statistics/{way}_bytes" for way in ("rx", "tx")]
    return reported(), sum(map(int, first.run("cat", *counters).split()))


def job(batch: int, hiddens: str) -> dict[str, Any]:
    """A reacher training of a size, for measuring."""
    return {
        "rl.training.config.train_batch_size": batch,
        "rl.training.config.minibatch_size": 512,
        "rl.training.config.num_epochs": 4,
        "rl.training.config.model.fcnet_hiddens": hiddens,
        "rl.training.config.seed": 1,
        "rl.training.stop.training_iteration": TO + 12,
        "rl.training.stop.episode_reward_mean": 1000,
    }


def measure_hosts() -> None:
    """What an iteration costs on one, two and three hosts."""
    print("\n| hosts | env runners | seconds an iteration | steps | ms for 1,000 steps | bytes by the first host |")
    print("|--:|--:|--:|--:|--:|--:|", flush=True)
    for count in (1, 2, 3):
        seconds, steps, passed = run_hosts(count, job(BATCH, HIDDENS))
        runners = 0 if count == 1 else 2 * count - 1
        line = f"| {count} | {runners or 'in the main process'} | {seconds:.3f} | {steps:,.0f} | "
        print(f"{line}{1e6 * seconds / steps:.1f} | {passed:,.0f} |", flush=True)


def measure_bytes() -> None:
    """Bytes of an iteration on two hosts, by the sizes of the network and of the batch."""
    print("\n| hidden layers | weights, bytes | steps | bytes an iteration | bytes a step |")
    print("|---|--:|--:|--:|--:|", flush=True)
    for hiddens, width in (("[64, 64]", 64), ("[512, 512]", 512)):
        weights = 4 * ((9 * width + width) + (width * width + width) + (width * 4 + 4))
        for batch in (4096, 16384):
            _, steps, passed = run_hosts(2, job(batch, hiddens))
            print(f"| {hiddens} | {weights:,} | {steps:,.0f} | {passed:,.0f} | {passed / steps:.1f} |", flush=True)


if __name__ == "__main__":
    parts = sys.argv[1:] or ["runners", "hosts", "bytes"]
    for part in parts:
        {"runners": measure_runners, "hosts": measure_hosts, "bytes": measure_bytes}[part]()

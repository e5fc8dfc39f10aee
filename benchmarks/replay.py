"""What an update of DQN and SAC costs: replay from columns beside RLlib's own buffer of episodes.

Run: .venv/bin/python -m benchmarks.replay (writes benchmarks/replay.md and prints it; two minutes). Both train in turn,
with one update of each environment step, by the same network and learner.
"""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.dqn import DQN
from ray.rllib.algorithms.sac import SAC

from runtime.cluster.machines import Machines
from runtime.cluster.session import without_ray
from runtime.environments.spec import EnvSpec
from runtime.jobs.catalog import PLAIN, resolve
from runtime.rllib.seeds import without_dynamo
from runtime.rllib.stock_builder import rllib_config
from runtime.settings.resolve import Source

_ROUNDS = 5
_STEPS = 200  # of a round
_CASES = (("DQN", "CartPole-v1", DQN), ("SAC", "Pendulum-v1", SAC))
_BATCHES = (64, 256)


def main() -> None:
    """Measures both in turn and writes the table."""
    torch.set_num_threads(1)
    rows = []
    with without_ray():
        for name, env, stock in _CASES:
            for batch in _BATCHES:
                algorithms = {"columns": _build(name, env, batch), "RLlib's": _build(name, env, batch, stock)}
                times: dict[str, list[float]] = {which: [] for which in algorithms}
                for number in range(_ROUNDS + 1):
                    for which, algorithm in algorithms.items():
                        began = time.perf_counter()
                        algorithm.train()
                        if number:  # the first fills the buffer
                            times[which].append((time.perf_counter() - began) / _STEPS)
                ours, theirs = (1000 * statistics.median(one) for one in times.values())
                rows.append(f"| {name} | {env} | {batch} | {theirs:.1f} | {ours:.1f} | {theirs / ours:.1f} |")
                for algorithm in algorithms.values():
                    algorithm.stop()
    lines = [
        "# DQN and SAC: the cost of a step with its update",
        "",
        f"`python -m benchmarks.replay` on {os.cpu_count()} CPUs ({platform.machine()}), ray {version('ray')}, one"
        f" thread: an environment step and an update, median of {_ROUNDS} rounds of {_STEPS}, in turn. Networks and"
        " learners are the same; what differs is the replay buffer and how a minibatch becomes a batch.",
        "",
        "| algorithm | environment | batch | RLlib's buffer (ms) | columns (ms) | ratio |",
        "|---|---|--:|--:|--:|--:|",
        *rows,
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    Path(__file__).with_suffix(".md").write_text(text, encoding="utf-8")


def _build(name: str, env: str, batch: int, stock: type[Algorithm] | None = None) -> Any:
    """Builds an algorithm, or RLlib's own with the same settings."""
    settings = {
        "train_batch_size": batch,
        "training_intensity": batch,  # an update of each step
        "num_envs_per_env_runner": 4,
        "rollout_fragment_length": 1,
        "prioritized_replay": False,
        "num_steps_sampled_before_learning_starts": _STEPS // 2,
        "min_sample_timesteps_per_iteration": _STEPS,
        "min_time_s_per_iteration": 0,
        "model.fcnet_hiddens": [128, 128],
        "seed": 1,
    }
    given: dict[str, Any] = {f"rl.training.config.{key}": value for key, value in settings.items()}
    config = resolve([Source("the benchmark", {**given, "rl.training.env": env, "rl.training.run": name})], extras={})
    rllib = rllib_config(config, EnvSpec(env), PLAIN, Machines(cpus=1))
    if stock is not None:
        rllib.algo_class = stock
    with without_dynamo():
        return rllib.build_algo()


if __name__ == "__main__":
    main()

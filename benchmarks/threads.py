"""How sampling, learning and whole trainings scale with cores: `make bench PARTS=threads`, into benchmarks/threads.md.

In under eight minutes: Humanoid's worlds stepped alone, PPO's compiled gradients beside the matrix products of the same
BLAS, and the humanoid preset's training, each on 1, 2, 4, … cores as far as there are.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium
import numpy as np
import scipy.linalg.blas
import threadpoolctl
import torch
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog

from envs.roboschool.vector_env import RoboschoolVectorEnv
from runtime.policies.ppo_module import PPOModule
from runtime.ppo.compiled.ppo_update import TrainBatch, draw_minibatches
from runtime.ppo.compiled.torch_interop import CompiledModule
from runtime.ppo.rllib_config import model_config

_ROOT = Path(__file__).resolve().parent.parent
_PAGE = Path(__file__).with_suffix(".md")
_WORLDS = 32
_SECONDS = 4.0  # of each measurement
_BATCH = 16384
# Hidden layers, numbers of observation and action, and minibatch size.
_NETWORKS = (([128, 128], 22, 6, 512), ([256, 256], 44, 17, 1024), ([256, 256], 44, 17, 4096))
_SETTINGS = {"clip_param": 0.2, "vf_clip_param": 1e4, "vf_loss_coeff": 0.5, "grad_clip": 0.5}
_TRAINING_S = 25


def main() -> None:
    """Measures, and writes the page."""
    torch.set_num_threads(1)
    threadpoolctl.threadpool_limits(1)
    cores = len(os.sched_getaffinity(0))
    counts = [count for count in (1, 2, 4, 8, 16) if count <= cores]
    lines = [
        "# Scaling with cores",
        "",
        f"`make bench PARTS=threads` on {cores} CPUs ({platform.machine()}). Stepping: {_WORLDS} Humanoids, random"
        " actions. Training: the preset humanoid, end to end without videos. One core multiplies (512, 256) by"
        f" (256, 256) float32 matrices at {_peak():.0f} GFLOP/s.",
        "",
        "| cores | stepping alone, steps/s | training, steps/s | training ÷ stepping |",
        "|--:|--:|--:|--:|",
    ]
    for count in counts:
        stepping, training = _step_alone(count), _train(count)
        lines.append(f"| {count} | {stepping:,.0f} | {training:,.0f} | {training / stepping:.0%} |")
        print(lines[-1], flush=True)
    lines += ["", "Learning, GFLOP/s of the network's matrix products (6 for each weight and row), and rows/s:", ""]
    heads = [f"{hidden}, minibatch {size:,}" for hidden, _, _, size in _NETWORKS]
    lines += [f"| cores | {' | '.join(heads)} |", "|--:" * (len(heads) + 1) + "|"]
    for count in counts:
        cells = [_learn(count, *network) for network in _NETWORKS]
        lines.append(f"| {count} | {' | '.join(f'{flops / 1e9:,.0f} ({rows:,.0f})' for flops, rows in cells)} |")
        print(lines[-1], flush=True)
    _PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _peak() -> float:
    a, b = (np.asfortranarray(np.random.default_rng(0).random(shape, np.float32)) for shape in ((512, 256), (256, 256)))
    best = 0.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(20):
            scipy.linalg.blas.sgemm(1.0, a, b)
        best = max(best, 20 * 2 * 512 * 256 * 256 / (time.perf_counter() - began))
    return best / 1e9


def _step_alone(threads: int) -> float:
    env = RoboschoolVectorEnv("Humanoid", _WORLDS, threads=threads)
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (16, _WORLDS, 17)).astype(np.float32)
    steps = 0
    for action in actions:
        env.advance(action)
    began = time.perf_counter()
    while time.perf_counter() - began < _SECONDS:
        env.advance(actions[steps % 16])
        steps += 1
    rate = steps * _WORLDS / (time.perf_counter() - began)
    env.close()
    return rate


def _learn(threads: int, hidden: list[int], observation: int, action: int, size: int) -> tuple[float, float]:
    """Returns floating-point operations and rows a second of gradient steps."""
    torch.manual_seed(0)
    settings = {"fcnet_hiddens": hidden, "fcnet_activation": "relu", "free_log_std": True, "vf_share_layers": False}
    module = PPOModule(
        observation_space=gymnasium.spaces.Box(-np.inf, np.inf, (observation,), np.float32),
        action_space=gymnasium.spaces.Box(-1.0, 1.0, (action,), np.float32),
        model_config=model_config(settings),
        catalog_class=PPOCatalog,
        inference_only=False,
    )
    compiled = CompiledModule(module, torch.optim.Adam(module.parameters(), lr=3e-4), threads=threads)
    rng = np.random.default_rng(0)
    shapes = ((observation,), (action,), (), (2 * action,), (), ())
    batch = TrainBatch(*(0.1 * rng.normal(size=(_BATCH, *shape)).astype(np.float32) for shape in shapes))
    minibatches = draw_minibatches(_BATCH, size, 1, is_shuffled=True)
    compiled.update(batch, minibatches[:1], _SETTINGS)
    began, rows = time.perf_counter(), 0
    while time.perf_counter() - began < _SECONDS:
        compiled.update(batch, minibatches, _SETTINGS)
        rows += minibatches.size
    rate = rows / (time.perf_counter() - began)
    return 6 * sum(parameter.numel() for parameter in module.parameters()) * rate, rate


def _train(cores: int) -> float:
    """Returns environment steps a second of a training on some of the cores."""
    own = ",".join(str(number) for number in sorted(os.sched_getaffinity(0))[:cores])
    with tempfile.TemporaryDirectory() as folder:
        command = ["taskset", "--cpu-list", own, sys.executable, "-m", "runtime.cli", "train", "--preset", "humanoid"]
        command += ["--out", folder, f"rl.training.stop.time_total_s={_TRAINING_S}", "rl.training.video_freq=0"]
        subprocess.run([*command, "rl.training.export=false"], check=True, capture_output=True, cwd=_ROOT)
        rows = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    first, last = rows[0], rows[-1]  # the first iteration has what is done once
    return float((last["timesteps_total"] - first["timesteps_total"]) / (last["time_total_s"] - first["time_total_s"]))


if __name__ == "__main__":
    main()

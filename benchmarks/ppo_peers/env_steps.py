"""Env steps a second of the PyBullet port and of Gymnasium's MuJoCo robots, one of each stepped alone."""

from __future__ import annotations

import json
import time
from typing import Any

import gymnasium
import numpy as np

from benchmarks.ppo_peers.counting import quiet, read_job


def main() -> None:
    """Prints one line of JSON: a rate for each id asked for."""
    job = read_job()
    found: dict[str, float] = {}
    for name in job["ids"]:
        with quiet():
            env = gymnasium.make(name, disable_env_checker=True).unwrapped
            found[name] = _rate(env, job["steps"])
    print(json.dumps(found))


def _rate(env: Any, steps: int) -> float:
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    started = time.process_time()
    for number, action in enumerate(actions):
        if env.step(action)[2] or number % 1000 == 999:
            env.reset()
    return steps / (time.process_time() - started)


if __name__ == "__main__":
    main()

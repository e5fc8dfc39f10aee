"""Env steps a second of every Roboschool robot against pybullet_envs_gymnasium 0.6.0, and against Bullet alone.

Run: make bench (writes benchmarks/env_steps.md and prints it). One CPU core, CPU seconds, interleaved rounds in one
process; read the ratios, the rates move with the machine.
"""

from __future__ import annotations

import contextlib
import os
import platform
import statistics
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

import envs

_STEPS, _ROUNDS = 2000, 5
_PORT_IDS = {"RoboschoolWalker2d-v1": "Walker2DBulletEnv-v0"}


def main() -> None:
    """Measures and writes the table."""
    warnings.simplefilter("ignore")  # the port's registrations are out of date, says Gymnasium
    with _quiet():
        import pybullet_envs_gymnasium  # noqa: F401  # registers the port
    lines = [
        "# Env steps a second: ours against the PyBullet port",
        "",
        f"`make bench` on {_machine()}; one core, random actions, auto-reset, median of {_ROUNDS} rounds of {_STEPS}"
        " steps. *Bullet's share* is the part of our step that is Bullet's own `stepSimulation`.",
        "",
        "| env | ours (steps/s) | port (steps/s) | ratio | Bullet's share |",
        "|---|---|---|---|---|",
    ]
    for env_id in envs.ROBOSCHOOL_IDS:
        lines.append(_row(env_id))
        print(lines[-1], flush=True)
    Path(__file__).with_suffix(".md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _row(env_id: str) -> str:
    port_id = _PORT_IDS.get(env_id, env_id.removeprefix("Roboschool").replace("-v1", "BulletEnv-v0"))
    with _quiet():
        ours = gymnasium.make(env_id, compat="bullet", disable_env_checker=True).unwrapped
        port = gymnasium.make(port_id, disable_env_checker=True).unwrapped
        rates = [(_rate(ours), _rate(port)) for _ in range(_ROUNDS)]
        share = _share_of_bullet(ours)
    ratio = statistics.median(a / b for a, b in rates)
    mine, theirs = (statistics.median(column) for column in zip(*rates, strict=True))
    return f"| {env_id} | {mine:,.0f} | {theirs:,.0f} | {ratio:.2f} | {share:.0%} |"


def _rate(env: Any) -> float:
    actions = np.random.default_rng(0).uniform(-1, 1, (_STEPS, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    started = time.process_time()
    for number, action in enumerate(actions):
        if env.step(action)[2] or number % 1000 == 999:
            env.reset()
    return _STEPS / (time.process_time() - started)


def _share_of_bullet(env: Any) -> float:
    """CPU time inside stepSimulation over all of a round's."""
    world, spent = env.robot.world, 0.0
    api = world.api

    class Timed:
        def __getattr__(self, name: str) -> Any:
            return getattr(api, name)

        def stepSimulation(self, **kwargs: Any) -> None:  # noqa: N802  # Bullet's name
            nonlocal spent
            started = time.process_time()
            api.stepSimulation(**kwargs)
            spent += time.process_time() - started

    world.api = Timed()
    try:
        seconds = _STEPS / _rate(env)
    finally:
        world.api = api
    return spent / seconds


@contextlib.contextmanager
def _quiet() -> Any:
    """Bullet and the port write on the process's own stdout and stderr."""
    kept = os.dup(1), os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        yield
    finally:
        for number, handle in zip((1, 2), kept, strict=True):
            os.dup2(handle, number)
            os.close(handle)
        os.close(null)


def _machine() -> str:
    return f"{os.cpu_count()} CPUs ({platform.machine()}), Python {platform.python_version()}"


if __name__ == "__main__":
    main()

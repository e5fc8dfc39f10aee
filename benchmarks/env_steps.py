"""Env steps a second of every Roboschool robot: compiled and by Python, against the PyBullet port and MuJoCo.

One CPU core, CPU seconds, interleaved rounds; read the ratios, the rates move with the machine. Part of `make bench`.
"""

from __future__ import annotations

import statistics
import time
import warnings
from typing import Any

import gymnasium
import numpy as np

import envs
from benchmarks.ppo_peers.counting import PORT_IDS, quiet, rate_of
from envs.roboschool.robots import build_robot
from envs.roboschool.vector_env import RoboschoolVectorEnv

_STEPS = 2000
_ROUNDS = 5
_WORLDS = 8
# Robots that are alike; MuJoCo's joints, masses and time steps are their own.
MUJOCO_IDS = {
    "RoboschoolReacher-v1": "Reacher-v5",
    "RoboschoolHopper-v1": "Hopper-v5",
    "RoboschoolWalker2d-v1": "Walker2d-v5",
    "RoboschoolHalfCheetah-v1": "HalfCheetah-v5",
    "RoboschoolAnt-v1": "Ant-v5",
    "RoboschoolHumanoid-v1": "Humanoid-v5",
}


def measure(mujoco: dict[str, float]) -> dict[str, dict[str, float]]:
    """Medians by env id: rates of `one` env, of `eight` in one call (each), by `python`, of the `port`; and `ratio`.

    Args:
        mujoco: Rates by Gymnasium's id, measured elsewhere on the same core.
    """
    warnings.simplefilter("ignore")  # the port's registrations are out of date, says Gymnasium
    with quiet():
        import pybullet_envs_gymnasium  # noqa: F401  # registers the port
    return {env_id: _measure_robot(env_id, mujoco) for env_id in envs.ROBOSCHOOL_IDS}


def _measure_robot(env_id: str, mujoco: dict[str, float]) -> dict[str, float]:
    name = env_id.removeprefix("Roboschool").removesuffix("-v1")
    with quiet():
        one: Any = gymnasium.make(env_id, compat="bullet", disable_env_checker=True).unwrapped
        eight = RoboschoolVectorEnv(name, _WORLDS, compat="bullet")
        eight.reset(seed=0)
        port_id = PORT_IDS.get(env_id, f"{name}BulletEnv-v0")
        port: Any = gymnasium.make(port_id, disable_env_checker=True).unwrapped
        python = _Python(name, one.action_space)
        rounds = [
            (*(rate_of(env, _STEPS) for env in (one, python, port)), _rate_of_eight(eight)) for _ in range(_ROUNDS)
        ]
        for env in (one, eight, python, port):
            env.close()
    columns = dict(zip(("one", "python", "port", "eight"), zip(*rounds, strict=True), strict=True))
    found = {column: statistics.median(rates) for column, rates in columns.items()}
    found["ratio"] = statistics.median(a / b for a, b in zip(columns["eight"], columns["port"], strict=True))
    if MUJOCO_IDS.get(env_id) in mujoco:
        found["mujoco"] = mujoco[MUJOCO_IDS[env_id]]
    return found


class _Python:
    """A robot stepped by pybullet's own API."""

    def __init__(self, name: str, action_space: Any) -> None:
        self.action_space = action_space
        self._robot = build_robot(name, as_port=True)
        self._rng = np.random.default_rng(0)

    def reset(self, *, seed: int | None = None) -> None:
        self._robot.reset(self._rng, is_seeded=False)

    def step(self, action: Any) -> Any:
        return self._robot.step(action, self._rng)

    def close(self) -> None:
        self._robot.close()


def _rate_of_eight(env: RoboschoolVectorEnv) -> float:
    shape = _STEPS // _WORLDS, *(env.action_space.shape or ())
    actions = np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32)
    started = time.process_time()
    for action in actions:
        env.advance(action)
    return _STEPS / (time.process_time() - started)


def table(found: dict[str, dict[str, float]]) -> list[str]:
    """Formats the rates as a Markdown table."""
    lines = [
        "| env | ours, 8 worlds | ours, one env | ours, Python API | port | ours / port | MuJoCo | ours / MuJoCo |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for env_id, row in found.items():
        cells = [f"{row[name]:,.0f}" for name in ("eight", "one", "python", "port")]
        mujoco = [f"{row['mujoco']:,.0f}", f"{row['eight'] / row['mujoco']:.2f}"] if "mujoco" in row else ["", ""]
        lines.append(f"| {env_id} | {' | '.join(cells)} | {row['ratio']:.2f} | {' | '.join(mujoco)} |")
    return lines

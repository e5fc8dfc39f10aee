"""What every peer is measured with: its environments, the episodes that they really had, and a clock."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import gymnasium
import numpy as np

PORT_IDS = {"RoboschoolWalker2d-v1": "Walker2DBulletEnv-v0"}


class Counted(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds each finished episode's return to a list that all environments share."""

    def __init__(self, env: gymnasium.Env[Any, Any], returns: list[float]) -> None:
        super().__init__(env)
        self._returns = returns
        self._sum = 0.0

    def reset(self, **kwargs: Any) -> Any:
        """Starts an episode."""
        self._sum = 0.0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> Any:
        """Steps the environment."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._sum += float(reward)
        if terminated or truncated:
            self._returns.append(self._sum)
        return observation, reward, terminated, truncated, info


class Clock:
    """Steps a second without what comes before the second iteration: compilation, warming up."""

    def __init__(self, returns: list[float], *, threshold: float | None) -> None:
        self._returns = returns
        self._threshold = threshold
        self._began = time.perf_counter()
        self._marks: list[tuple[int, float]] = []

    def mark(self, steps: int) -> bool:
        """Notes the start of an iteration; true when the threshold is reached."""
        self._marks.append((steps, time.perf_counter()))
        recent = self._returns[-100:]
        return self._threshold is not None and bool(recent) and sum(recent) / len(recent) >= self._threshold

    def report(self) -> None:
        """Prints one line of JSON."""
        (first_steps, first), (last_steps, last) = self._marks[1], self._marks[-1]
        recent = self._returns[-100:]
        found = {
            "rate": (last_steps - first_steps) / (last - first),
            "steps": last_steps,
            "seconds": last - self._began,
            "mean": sum(recent) / max(1, len(recent)),
        }
        print(json.dumps(found))


def makers(env_id: str, count: int, returns: list[float]) -> list[Callable[[], gymnasium.Env[Any, Any]]]:
    """Makes CartPole, or a robot of pybullet_envs_gymnasium."""
    name = PORT_IDS.get(env_id, env_id.removeprefix("Roboschool").replace("-v1", "BulletEnv-v0"))
    if not env_id.startswith("Roboschool"):
        name = env_id

    def make() -> gymnasium.Env[Any, Any]:
        return Counted(gymnasium.make(name, disable_env_checker=True), returns)

    return [make] * count


def read_job() -> dict[str, Any]:
    """What the benchmark asks for: env, seed, steps, threshold."""
    warnings.simplefilter("ignore")  # the port's registrations are out of date, says Gymnasium
    with quiet():
        import pybullet_envs_gymnasium  # noqa: F401  # registers the port
    job: dict[str, Any] = json.loads(sys.argv[1])
    return job


def rate_of(env: Any, steps: int) -> float:
    """Steps a CPU second with random actions and resets."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    started = time.process_time()
    for number, action in enumerate(actions):
        if env.step(action)[2] or number % 1000 == 999:
            env.reset()
    return steps / (time.process_time() - started)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences Bullet, which writes to the process's own stdout and stderr."""
    kept = (os.dup(1), os.dup(2))
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

"""Logs the transitions of training, as `output` of Ray 0.8 to 1.6 did: JSON lines that learning from logs reads."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from runtime.errors import PlatformError
from runtime.policies.spaces import ACTION_MASK, mask_size


class TransitionLog(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Writes each episode that ends as a line, a sample batch of RLlib; one that training cuts is left out.

    Observations are those that the policy sees before its filter, an action mask apart, and actions are in the
    environment's units. The probabilities of actions are not known here.

    Args:
        env: Environment as the policy sees it.
        folder: Folder of the files, one for each environment.
        worker: Number of the env runner.
        number: Number of the environment in it.

    Raises:
        PlatformError: The folder cannot be written.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], folder: str, *, worker: int, number: int) -> None:
        super().__init__(env)
        started = time.strftime("%Y-%m-%d_%H-%M-%S")
        self._path = Path(folder) / f"output-{started}_worker-{worker}_{number}.json"
        with self._writing():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("a", encoding="utf-8")
        self._observations: list[Any] = []
        self._actions: list[Any] = []
        self._rewards: list[float] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Starts an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._observations = [np.array(observation)]  # a copy: an environment may reuse its array
        self._actions, self._rewards = [], []
        return observation, info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """Steps; writes the episode at its end."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observations.append(np.array(observation))
        self._actions.append(np.array(action))
        self._rewards.append(float(reward))
        if terminated or truncated:
            self._write(terminated=terminated)
        return observation, reward, terminated, truncated, info

    def close(self) -> None:
        """Closes the file and the environment."""
        self._file.close()
        self.env.close()

    def _write(self, *, terminated: bool) -> None:
        steps = len(self._rewards)
        rows = np.array(self._observations)
        masked = mask_size(self.env.observation_space)
        masks = {ACTION_MASK: rows[:-1, -masked:].tolist()} if masked else {}
        observations = (rows[:, :-masked] if masked else rows).tolist()
        is_last = [False] * (steps - 1) + [True]
        batch = {
            "type": "SampleBatch",
            "obs": observations[:-1],
            "new_obs": observations[1:],
            "actions": np.array(self._actions).tolist(),
            "rewards": self._rewards,
            "terminateds": [last and terminated for last in is_last],
            "truncateds": [last and not terminated for last in is_last],
            "eps_id": [secrets.randbits(53)] * steps,
            "t": list(range(steps)),
            **masks,
        }
        with self._writing():
            self._file.write(json.dumps(batch) + "\n")
            self._file.flush()  # so that a job that is killed leaves whole episodes

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise PlatformError(
                f"rl.training.config.output: {self._path} cannot be written: {error.strerror}. Name a folder that can."
            ) from None

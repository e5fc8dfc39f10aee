"""An environment whose step takes 5 ms and no CPU, as one that waits for a simulator elsewhere."""

from __future__ import annotations

import time
from typing import Any

import gymnasium
import numpy as np

STEP_S = 0.005
_EPISODE = 100


class Sleeping(gymnasium.Env[Any, Any]):
    """Observations of 8 numbers, actions of 2, episodes of 100 steps."""

    observation_space = gymnasium.spaces.Box(-1.0, 1.0, (8,), np.float32)
    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins an episode."""
        super().reset(seed=seed)
        self._steps = 0
        return np.zeros(8, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """Waits for 5 ms."""
        time.sleep(STEP_S)
        self._steps += 1
        observation = np.full(8, self._steps / _EPISODE, np.float32)
        return observation, -float(np.square(action).sum()), False, self._steps >= _EPISODE, {}

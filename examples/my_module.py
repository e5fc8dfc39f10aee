"""An environment of one's own, for docs/first-steps.md: a cart on a line is pushed left or right to the middle."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Observation = NDArray[np.float32]


class Cart(gymnasium.Env[Observation, np.int64]):
    """The observation is position and speed; an action pushes left, not at all, or right."""

    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(3)

    def __init__(self, length: int = 50) -> None:
        self.length = length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Starts at a random place."""
        super().reset(seed=seed)
        self.steps = 0
        self.position = float(self.np_random.uniform(-1, 1))
        self.speed = 0.0
        return self._observe(), {}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Pushes; the reward is minus the distance from the middle."""
        self.steps += 1
        self.speed = float(np.clip(0.9 * self.speed + 0.05 * (int(action) - 1), -0.5, 0.5))
        self.position = float(np.clip(self.position + self.speed, -2, 2))
        return self._observe(), -abs(self.position), False, self.steps >= self.length, {}

    def _observe(self) -> Observation:
        return np.array([self.position, self.speed], np.float32)

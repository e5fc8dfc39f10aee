"""Environments with the habits of 2020: lists as observations, unsigned spaces without bounds, tables of numbers."""

import gym
import numpy as np
from gym import spaces


class BagEnv(gym.Env):
    """Counts in a list; putting an item into the bag pays."""

    def __init__(self):
        self.observation_space = spaces.Box(
            low=np.array([0, 0, 0]), high=np.array([100, np.inf, 20]), dtype=np.uint32
        )
        self.action_space = spaces.Discrete(2)

    def reset(self):
        self.remaining = 20
        return self._state()

    def step(self, action):
        if action not in (0, 1):
            raise ValueError(f"Invalid action {action}")
        self.remaining -= 1
        return self._state(), 1 if action == 1 else -10, self.remaining == 0, {}

    def _state(self):
        return [np.random.randint(0, 100), 20 - self.remaining, self.remaining]


class WeightsEnv(gym.Env):
    """A table of prices; the action is a share of each."""

    metadata = {"render.modes": ["human"]}

    def __init__(self, window=5):
        self.window = window
        self.observation_space = spaces.Box(low=-np.inf, high=np.inf, shape=(4, window), dtype=np.float32)
        self.action_space = spaces.Box(0, 1, shape=(4,), dtype=np.float32)

    def reset(self):
        self.day = 0
        return np.random.randn(4, self.window)

    def step(self, action):
        np.testing.assert_equal(action.shape, (4,))
        self.day += 1
        return np.random.randn(4, self.window), float(action.sum()), self.day == 30, {"rate": 1.0}

    def render(self, mode="human", close=False):
        pass

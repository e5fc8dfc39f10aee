"""Bins in the style of 2020: old gym, whole numbers as observations, and a mask of the bins that an item fits into."""

import gym
import numpy as np


class MaskedBinsEnv(gym.Env):
    def __init__(self, env_config={}):
        self.capacity = env_config.get("bag_capacity", 9)
        self.num_items = env_config.get("num_items", 6)
        self.sizes = [2, 3]
        self.action_space = gym.spaces.Discrete(len(self.sizes) * 3)
        self.observation_space = gym.spaces.Dict(
            {
                "action_mask": gym.spaces.Box(0, 1, shape=(self.action_space.n,)),
                "real_obs": gym.spaces.Box(
                    low=np.zeros(4, dtype=np.uint32),
                    high=np.array([99] * 4, dtype=np.uint32),
                    dtype=np.uint32,
                ),
            }
        )

    def reset(self):
        self.levels = np.zeros(3, dtype=np.uint32)
        self.placed = 0
        self.item = np.random.choice(self.sizes)
        return self._state()

    def step(self, action):
        assert self._mask()[action] == 1, "the item does not fit"
        self.levels[action % 3] += self.item
        waste = self.capacity - self.levels[action % 3] if self.levels[action % 3] > self.capacity - 2 else 0
        self.placed += 1
        self.item = np.random.choice(self.sizes)
        return self._state(), -float(waste), self.placed >= self.num_items, {}

    def _mask(self):
        fits = self.levels + self.item <= self.capacity
        of_size = [size == self.item for size in self.sizes]
        return np.array([chosen and fits[bin] for chosen in of_size for bin in range(3)], dtype=np.float32)

    def _state(self):
        return {"action_mask": self._mask(), "real_obs": np.array([*self.levels, self.item], dtype=np.uint32)}

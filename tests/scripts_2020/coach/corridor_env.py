"""A corridor of five cells as an environment of old gym: the goal is at its right end."""

import gym
import numpy as np
import pygame  # noqa: F401  # as its view had it


class CorridorEnv(gym.Env):
    def __init__(self, reward=100.0):
        self.reward = reward
        self.action_space = gym.spaces.Discrete(2)
        self.observation_space = gym.spaces.Box(0.0, 1.0, shape=(5,), dtype=np.float32)
        self.cell = 0
        self.steps = 0

    def reset(self):
        self.cell = 0
        self.steps = 0
        return self._observation()

    def step(self, action):
        self.steps += 1
        self.cell = int(np.clip(self.cell + (1 if action else -1), 0, 4))
        is_there = self.cell == 4
        return self._observation(), self.reward if is_there else -1.0, is_there or self.steps >= 30, {}

    def _observation(self):
        seen = np.zeros(5, dtype=np.float32)
        seen[np.int(self.cell)] = 1
        return seen


def patient_corridor():
    return CorridorEnv()

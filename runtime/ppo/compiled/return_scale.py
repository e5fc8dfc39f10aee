"""Running scale of rewards: the value function then learns numbers near 1, whatever an environment pays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from envs.compiled import fused_without_gil
from runtime.ppo.rollout import Rollout

_LEAST_VARIANCE = 1e-8


class ReturnScale:
    """Running variance of the discounted return, by Welford's method.

    Each rollout's return starts at 0, which makes the scale a little small where rollouts are shorter than the
    discount's horizon.

    Args:
        count: Steps seen.
        mean: Their mean discounted return.
        squares: Sum of squared differences from the mean.

    Source: VecNormalize of Stable-Baselines3, `norm_reward`.
    """

    def __init__(self, count: float = 0.0, mean: float = 0.0, squares: float = 0.0) -> None:
        self._count, self._mean, self._squares = count, mean, squares

    def scale(self, rollouts: Sequence[Rollout], *, gamma: float) -> list[Rollout]:
        """Adds an iteration's steps, discounted by `gamma`; returns the rollouts with rewards over the deviation."""
        for rollout in rollouts:
            ends = rollout.terminated | rollout.truncated
            returns = np.empty(rollout.rewards.shape, np.float64)
            _discounted_returns(rollout.rewards, ends, gamma, returns)
            count, mean = returns.size, float(returns.mean())
            total, shift = self._count + count, mean - self._mean
            self._squares += float(np.square(returns - mean).sum()) + shift * shift * self._count * count / total
            self._mean += shift * count / total
            self._count = total
        variance = self._squares / self._count
        factor = np.float32(1.0 / math.sqrt(variance) if variance > _LEAST_VARIANCE else 1.0)
        return [dataclasses.replace(rollout, rewards=rollout.rewards * factor) for rollout in rollouts]

    def state(self) -> tuple[float, float, float]:
        """Returns the arguments that build an equal scale."""
        return self._count, self._mean, self._squares


@fused_without_gil
def _discounted_returns(rewards: Any, ends: Any, gamma: float, returns: Any) -> None:
    """Sums the past rewards of each step's episode, the older the more discounted."""
    steps, count = rewards.shape
    for i in range(count):
        total = np.float64(0.0)
        for t in range(steps):
            total = gamma * total + rewards[t, i]
            returns[t, i] = total
            if ends[t, i]:
                total = np.float64(0.0)

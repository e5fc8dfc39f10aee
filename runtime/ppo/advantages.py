"""Generalized advantage estimation: the one implementation that every learner of this package uses."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.compiled import fused_without_gil


def generalized_advantages(
    rewards: NDArray[np.float32],
    values: NDArray[np.float32],
    ends: NDArray[np.bool_],
    *,
    gamma: float,
    lambda_: float,
    bootstrap_values: NDArray[np.float32] | None = None,
) -> NDArray[np.float32]:
    """Generalized advantage estimation.

    Args:
        rewards: (T, N) reward of each step.
        values: (T + 1, N) value estimates; the last row is of the observations that follow the last step.
        ends: (T, N) True where the step ended its episode.
        gamma: Discount factor in [0, 1].
        lambda_: Trace decay in [0, 1].
        bootstrap_values: (T, N) value of an episode's final observation where a time limit truncated it, and 0 where
            the episode terminated; read only where `ends` is True. Without it, every end counts as termination.

    Returns:
        (T, N) float32 advantages, not standardized. Added to `values[:-1]` they are the value targets.

    Source: Schulman et al. 2016, High-dimensional continuous control using generalized advantage estimation, eq. 16.
    """
    if bootstrap_values is None:
        bootstrap_values = np.zeros_like(rewards)
    advantages = np.empty_like(rewards)
    _accumulate(rewards, values, ends, bootstrap_values, float(gamma), float(lambda_), advantages)
    return advantages


@fused_without_gil
def _accumulate(
    rewards: Any, values: Any, ends: Any, bootstrap_values: Any, gamma: float, lambda_: float, advantages: Any
) -> None:
    """Sums temporal-difference errors backwards in time, in float64."""
    steps, count = rewards.shape
    for i in range(count):
        advantage = np.float64(0.0)
        for t in range(steps - 1, -1, -1):
            next_value = np.float64(values[t + 1, i])
            if ends[t, i]:
                next_value = np.float64(bootstrap_values[t, i])
                advantage = np.float64(0.0)
            error = rewards[t, i] + gamma * next_value - values[t, i]
            advantage = error + gamma * lambda_ * advantage
            advantages[t, i] = advantage

"""Generalized advantage estimation against its definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from runtime.ppo.advantages import generalized_advantages


@given(st.integers(1, 12), st.integers(1, 3), st.floats(0, 1), st.floats(0, 1), st.integers(0, 1000))
def test_advantages_are_discounted_sums_of_errors_within_an_episode(
    steps: int, count: int, gamma: float, lambda_: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=(steps, count)).astype(np.float32)
    values = rng.normal(size=(steps + 1, count)).astype(np.float32)
    ends = rng.random((steps, count)) < 0.3
    bootstrap_values = np.where(rng.random((steps, count)) < 0.5, rng.normal(size=(steps, count)), 0.0)
    bootstrap_values = bootstrap_values.astype(np.float32)
    advantages = generalized_advantages(
        rewards, values, ends, gamma=gamma, lambda_=lambda_, bootstrap_values=bootstrap_values
    )
    next_values = np.where(ends, bootstrap_values, values[1:]).astype(np.float64)
    errors = rewards + gamma * next_values - values[:-1]
    for i in range(count):
        for t in range(steps):
            last = next((k for k in range(t, steps) if ends[k, i]), steps - 1)
            expected = sum((gamma * lambda_) ** (k - t) * errors[k, i] for k in range(t, last + 1))
            np.testing.assert_allclose(advantages[t, i], expected, atol=1e-4)
    assert advantages.dtype == np.float32


def test_without_bootstrap_values_every_end_terminates() -> None:
    rewards = np.ones((2, 1), np.float32)
    values = np.full((3, 1), 5.0, np.float32)
    ends = np.array([[False], [True]])
    advantages = generalized_advantages(rewards, values, ends, gamma=0.5, lambda_=1.0)
    np.testing.assert_array_equal(advantages[:, 0], [1 + 0.5 * 1 - 5, 1 - 5])

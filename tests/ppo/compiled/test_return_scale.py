"""Rewards over the running deviation of the discounted return."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from runtime.ppo.compiled.return_scale import ReturnScale
from runtime.ppo.rollout import Rollout


def make_rollout(rng: np.random.Generator, steps: int = 50, scale: float = 1.0) -> Rollout:
    rollout = Rollout.empty(steps, 3, (2,), 1, 2)
    rollout.rewards[:] = scale * rng.normal(2.0, 3.0, rollout.rewards.shape)
    rollout.terminated[:] = rng.random(rollout.terminated.shape) < 0.1
    rollout.truncated[:] = False
    return rollout


def discounted(rollouts: list[Rollout], gamma: float) -> np.ndarray[Any, Any]:
    found = []
    for rollout in rollouts:
        for i in range(rollout.rewards.shape[1]):
            total = 0.0
            for reward, ends in zip(rollout.rewards[:, i], rollout.terminated[:, i], strict=True):
                total = gamma * total + reward
                found.append(total)
                total = 0.0 if ends else total
    return np.array(found)


def test_rewards_are_over_the_deviation_of_all_returns_until_now() -> None:
    rng = np.random.default_rng(0)
    scale, seen = ReturnScale(), []
    for steps in (50, 20, 70):
        rollouts = [make_rollout(rng, steps), make_rollout(rng, 10)]
        seen += rollouts
        for rollout, scaled in zip(rollouts, scale.scale(rollouts, gamma=0.9), strict=True):
            np.testing.assert_allclose(scaled.rewards * discounted(seen, 0.9).std(), rollout.rewards, rtol=1e-5)
            assert scaled.observations is rollout.observations


def test_the_unit_of_the_rewards_does_not_matter() -> None:
    first, second = (
        ReturnScale().scale([make_rollout(np.random.default_rng(1), scale=s)], gamma=0.99) for s in (1, 1e4)
    )
    np.testing.assert_allclose(first[0].rewards, second[0].rewards, rtol=1e-5)


def test_its_state_builds_an_equal_one() -> None:
    rng = np.random.default_rng(2)
    scale = ReturnScale()
    scale.scale([make_rollout(rng)], gamma=0.9)
    copied = ReturnScale(*scale.state())
    rollout = make_rollout(rng)
    np.testing.assert_array_equal(
        copied.scale([rollout], gamma=0.9)[0].rewards, scale.scale([rollout], gamma=0.9)[0].rewards
    )


@pytest.mark.parametrize("reward", [0.0, 1.0])
def test_rewards_whose_returns_are_all_equal_stay_as_they_are(reward: float) -> None:
    rollout = make_rollout(np.random.default_rng(3))
    rollout.rewards[:] = reward
    rollout.terminated[:] = True  # every return is the reward: no deviation at all
    (scaled,) = ReturnScale().scale([rollout], gamma=0.9)
    np.testing.assert_array_equal(scaled.rewards, rollout.rewards)

"""Environments from before gym 0.26, behind Gymnasium's API."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.spaces import Box

from runtime.environments.old_gym import as_gymnasium, as_old_action


class Autopilot:
    """Converts its one action to a number in the ways of 2020, and rewards with an array."""

    observation_space = Box(0, 9, (1,), np.float32)
    action_space = Box(0, 1, (1,), np.float32)

    def reset(self) -> Any:
        return np.zeros(1, np.float32)

    def step(self, action: Any) -> tuple[Any, Any, bool, dict[str, Any]]:
        count = int(np.clip(action, 0, 1) * 9)
        return np.array([count], np.float32), np.array([-float(action)]), False, {}


def test_an_action_of_one_number_converts_to_a_number_as_numpy_let_it() -> None:
    env = as_gymnasium(Autopilot())
    env.reset(seed=0)
    observation, reward, *_ = env.step(np.array([0.5], np.float32))
    assert (observation.tolist(), reward) == ([4.0], -0.5)


def test_an_action_of_several_numbers_is_an_array_as_ever() -> None:
    action = as_old_action(np.array([1.0, 2.0]))
    assert action.tolist() == [1.0, 2.0]
    assert (action * 2).sum() == 6.0
    assert as_old_action(3) == 3

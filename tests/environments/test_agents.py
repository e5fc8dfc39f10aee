"""Environments of several agents as one: when an episode ends, and what policies see of images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, Space
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.multi_agent_env import MultiAgentEnv

from runtime.environments.agents import JointEnv
from runtime.environments.check_env import run_check
from runtime.environments.spec import EnvSpec
from runtime.errors import UserError
from runtime.families.agents.family import AgentsFamily
from runtime.jobs.catalog import resolve
from runtime.settings.resolve import Source


class Cameras(MultiAgentEnv):  # type: ignore[misc]  # RLlib's classes are not typed for strict mode
    """Two agents with pictures, for five steps; as RLlib allows, it does not fill `self.agents`."""

    def __init__(self, high_of_b: float = 255.0) -> None:
        super().__init__()
        self.possible_agents = ["a", "b"]
        pictures = {"a": Box(0, 255, (3, 40, 48), np.uint8), "b": Box(0, high_of_b, (40, 48, 3), np.float32)}
        self.observation_spaces = pictures
        self.action_spaces: dict[str, Space[Any]] = {agent: Discrete(2) for agent in pictures}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        self._taken = 0
        return self._see(), {}

    def step(self, actions: Any) -> Any:
        self._taken += 1
        ends = {"__all__": self._taken == 5}
        return self._see(), dict.fromkeys(actions, 1.0), ends, {"__all__": False}, {}

    def _see(self) -> dict[str, Any]:
        first = np.zeros((3, 40, 48), np.uint8)
        first[2, 7, 9] = 200
        return {"a": first, "b": np.zeros((40, 48, 3), np.float32)}


def test_an_environment_that_does_not_list_its_agents_has_whole_episodes() -> None:
    env = JointEnv(Cameras())
    env.reset(seed=0)
    ends = [env.step({"a": 0, "b": 1})[2:4] for _ in range(5)]
    assert ends == [(False, False)] * 4 + [(True, False)]
    assert "40 episodes ended" in run_check(f"{__name__}:Cameras", {})


def test_images_with_channels_first_are_turned() -> None:
    env = JointEnv(Cameras())
    observations, _ = env.reset(seed=0)
    assert observations["a"].shape == (40, 48, 3)
    assert observations["a"][7, 9, 2] == 200
    assert env.observation_space.contains(observations)


def configure(**env_config: float) -> dict[str, Any]:
    words = {"rl.training.env": f"{__name__}:Cameras", "rl.training.policies": "a,b"}
    config = resolve([Source("test", words)], extras={})
    config = config.replace({"policy_mapping": {"a": "a", "b": "b"}})
    return AgentsFamily().configure_ppo(PPOConfig(), config, EnvSpec(f"{__name__}:Cameras", env_config))


def test_pixels_are_scaled_in_the_network() -> None:
    assert configure()["pixel_scale"] == pytest.approx(1 / 255)


def test_images_of_different_ranges_are_refused() -> None:
    with pytest.raises(UserError, match=r"got images of the ranges 0 to 255, 0 to 1; expected one range for all"):
        configure(high_of_b=1.0)

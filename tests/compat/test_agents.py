"""RLlib's agent of 2020, as evaluation scripts use it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest

import envs  # noqa: F401  # registers the id
from runtime.artifacts.manifest import read_manifest
from runtime.artifacts.policy_file import read_policy
from runtime.compat.agents import PPOTrainer
from runtime.errors import UserError


@pytest.mark.parametrize("name", ["checkpoint", "checkpoint-10"])
def test_a_restored_agent_acts_as_the_policy(tiny_results: Path, name: str) -> None:
    model = tiny_results / "model"
    agent = PPOTrainer(env="RoboschoolReacher-v1")
    with pytest.raises(UserError, match=r"got no policy; expected restore\(checkpoint\) before it"):
        agent.compute_action(np.zeros(9))
    agent.restore(str(model / name))
    env = gymnasium.make("RoboschoolReacher-v1")
    policy = read_policy(model / "checkpoint", env.action_space, settings=read_manifest(model))
    observation, _ = env.reset(seed=1)
    action = agent.compute_action(observation)
    np.testing.assert_array_equal(action, policy.act(observation))
    assert env.action_space.contains(action)
    env.close()


class _ReacherOf2020:
    """The reacher's spaces behind gym's old calls, made of an env_config."""

    configs: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, env_config: dict[str, Any]) -> None:
        self.configs.append(env_config)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (9,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)

    def reset(self) -> Any:
        return np.zeros(9, np.float32)

    def step(self, action: Any) -> Any:
        return np.zeros(9, np.float32), 0.0, True, {}


def test_an_agent_may_be_given_the_class_of_its_environment(tiny_results: Path) -> None:
    by_class, by_name = PPOTrainer(env=_ReacherOf2020), PPOTrainer(env="RoboschoolReacher-v1")
    for agent in (by_class, by_name):
        agent.restore(str(tiny_results / "model" / "checkpoint"))
    assert _ReacherOf2020.configs == [{}]  # the trained one's
    np.testing.assert_array_equal(by_class.compute_action(np.ones(9)), by_name.compute_action(np.ones(9)))

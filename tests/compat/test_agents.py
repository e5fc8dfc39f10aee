"""RLlib's agent of 2020, as evaluation scripts use it."""

from __future__ import annotations

from pathlib import Path

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

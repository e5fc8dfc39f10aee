from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from runtime.artifacts.policy_file import read_policy, write_policy_file
from runtime.environments.spec import EnvSpec
from runtime.jobs.catalog import PLAIN, resolve
from runtime.policies.policy import Policy
from runtime.settings.resolve import Source

pytestmark = pytest.mark.ray

SETTINGS = {
    "rl.training.config.train_batch_size": 200,
    "rl.training.config.minibatch_size": 50,
    "rl.training.config.num_epochs": 1,
    "rl.training.config.seed": 3,
    "rl.training.config.num_env_runners": 0,
    "rl.training.config.observation_filter": "MeanStdFilter",
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "Box, scaled": ("Pendulum-v1", {}),
    "Box, clipped": (
        "Pendulum-v1",
        {"rl.training.config.normalize_actions": False, "rl.training.config.clip_actions": True},
    ),
    "Discrete": ("CartPole-v1", {}),
    "no filter": ("CartPole-v1", {"rl.training.config.observation_filter": "NoFilter"}),
    "LSTM": ("CartPole-v1", {"rl.training.config.model.use_lstm": True, "rl.training.config.model.max_seq_len": 10}),
}


@pytest.fixture(scope="module", autouse=True)
def _ray() -> Any:
    from runtime.cluster.session import ray_session

    with ray_session(num_cpus=2, num_gpus=0):
        yield


@pytest.mark.parametrize("case", CASES)
def test_a_saved_policy_acts_as_rllibs_own_pipeline_does(case: str, tmp_path: Path) -> None:
    """Runs an episode through RLlib's connectors and network, and compares each action with our policy's."""
    from runtime.cluster.machines import Machines
    from runtime.ppo.rllib_config import build_algorithm

    env_id, extra = CASES[case]
    config = resolve([Source("test", {"rl.training.env": env_id, **SETTINGS, **extra})], extras={})
    algorithm = build_algorithm(config, EnvSpec(env_id), PLAIN, Machines(2))
    algorithm.train()
    algorithm.save_to_path(str(tmp_path / "checkpoint"))
    write_policy_file(tmp_path / "checkpoint")
    env = gymnasium.make(env_id)
    policy = read_policy(tmp_path / "checkpoint", env.action_space, settings=config.algorithm.model_dump())
    live = Policy.of_algorithm(algorithm, env.action_space)
    theirs = _rllib_actions(algorithm, env_id, steps=30)
    for observation, action in theirs:
        np.testing.assert_allclose(policy.act(observation), action, atol=1e-6)
        np.testing.assert_allclose(live.act(observation), action, atol=1e-6)
    assert len(theirs) >= 8
    algorithm.stop()


def _rllib_actions(algorithm: Any, env_id: str, *, steps: int) -> list[tuple[Any, Any]]:
    """Observations of the environment, and the actions that RLlib's deterministic pipeline takes in it."""
    from ray.rllib.core.columns import Columns
    from ray.rllib.env.single_agent_episode import SingleAgentEpisode

    from runtime.policies.rllib_filter import find_filter_connector

    runner = algorithm.env_runner
    env = gymnasium.make(env_id)
    if (connector := find_filter_connector(runner)) is not None:
        connector._update_stats = False
    observation, _ = env.reset(seed=1)
    episode = SingleAgentEpisode(observation_space=env.observation_space, action_space=env.action_space)
    episode.add_env_reset(observation)
    seen, shared = [], {}  # type: ignore[var-annotated]
    for _ in range(steps):
        batch = runner._env_to_module(
            episodes=[episode], explore=False, rl_module=runner.module, batch={}, shared_data=shared, metrics=None
        )
        output = runner.module.forward_inference(batch)
        output = runner._module_to_env(
            batch=output, episodes=[episode], explore=False, rl_module=runner.module, shared_data=shared, metrics=None
        )
        action = output.get(Columns.ACTIONS_FOR_ENV, output[Columns.ACTIONS])[0]
        seen.append((observation, action))
        observation, reward, terminated, truncated, _ = env.step(action)
        extra = {
            key: value[0] for key, value in output.items() if key not in (Columns.ACTIONS, Columns.ACTIONS_FOR_ENV)
        }
        episode.add_env_step(observation, output[Columns.ACTIONS][0], reward, extra_model_outputs=extra)
        if terminated or truncated:
            break
    return seen

from __future__ import annotations

import pytest
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from runtime.jobs.catalog import resolve
from runtime.ppo.settings import PPONetworkSettings, PPOSettings
from runtime.settings.resolve import Source

# RLlib's stands for "by the GPUs": the code that places learners works it out.
_WORKED_OUT = {"num_cpus_per_learner"}


@pytest.mark.parametrize("name", PPOSettings.settings())
def test_a_default_is_rllibs_unless_it_is_listed_as_ours(name: str) -> None:
    rllib = PPOConfig()
    if hasattr(rllib, name) and name not in (*PPOSettings.OURS, *_WORKED_OUT):
        assert getattr(PPOSettings(), name) == getattr(rllib, name)


@pytest.mark.parametrize("name", PPONetworkSettings.settings())
def test_a_default_of_the_network_is_rllibs(name: str) -> None:
    rllib = DefaultModelConfig()
    if hasattr(rllib, name):
        assert getattr(PPONetworkSettings(), name) == getattr(rllib, name)


def test_a_familys_default_is_stronger_than_the_algorithms_and_weaker_than_a_preset() -> None:
    words = {"rl.training.env": "DeepRacer-v0", "rl.training.stop.training_iteration": 1}
    bare = resolve([Source("a script", words)], extras={}, default_preset=False)
    assert PPOSettings.of(bare).minibatch_size == 64
    assert bare.sources["config.minibatch_size"] == "default for DeepRacer-v0"
    asked = resolve([Source("a script", {**words, "rl.training.config.minibatch_size": 32})], extras={})
    assert PPOSettings.of(asked).minibatch_size == 32

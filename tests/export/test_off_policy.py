"""Exports of DQN's and SAC's policies: argmax of the Q values, and the squashed mean."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from ray.rllib.algorithms.dqn.dqn_catalog import DQNCatalog
from ray.rllib.algorithms.dqn.torch.default_dqn_torch_rl_module import DefaultDQNTorchRLModule
from ray.rllib.algorithms.sac.sac_catalog import SACCatalog
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from runtime.export.exporter import Subject, export
from runtime.export.parity import TOLERANCE, make_observations, measure
from runtime.export.policy_graph import build_graph
from runtime.export.saved_model import write_saved_model
from runtime.policies.filter import ObservationFilter
from runtime.policies.policy import Policy
from runtime.policies.q_module import QModule
from runtime.policies.rllib_filter import leave_mask
from runtime.policies.sac_module import SACModule, SquashedGaussian
from runtime.policies.spaces import MaskedBox, count_choices
from tests.conftest import run_peer

PLANE = spaces.Box(-np.inf, np.inf, (5,), np.float32)
PICTURE = spaces.Box(0, 255, (42, 42, 2), np.float32)
REACH = spaces.Box(np.array([-1, -2, 0], np.float32), np.array([1, 2, 5], np.float32))
_Q = {"double_q": True, "dueling": True, "epsilon": 0.1, "num_atoms": 1, "std_init": 0.5, "v_max": 3.0, "v_min": -2.0}

# Network, observation space, action space, model settings.
POLICIES: dict[str, tuple[type, spaces.Box, gymnasium.Space[Any], dict[str, Any]]] = {
    "dueling": (QModule, PLANE, spaces.Discrete(4), _Q),
    "one stream, a head": (QModule, PLANE, spaces.Discrete(4), {**_Q, "dueling": False, "head_fcnet_hiddens": [16]}),
    "atoms": (QModule, PLANE, spaces.Discrete(3), {**_Q, "dueling": False, "num_atoms": 7}),
    "dueling atoms": (QModule, PLANE, spaces.Discrete(3), {**_Q, "num_atoms": 7}),
    "pictures": (QModule, PICTURE, spaces.Discrete(5), {**_Q, "conv_filters": [[8, 8, 4], [16, 4, 2]]}),
    "masked": (QModule, MaskedBox(PLANE, 4), spaces.Discrete(4), _Q),
    "masked atoms": (QModule, MaskedBox(PLANE, 3), spaces.Discrete(3), {**_Q, "dueling": False, "num_atoms": 7}),
    "squashed": (SACModule, PLANE, REACH, {"twin_q": True}),
    "squashed, double": (SACModule, PLANE, spaces.Box(-0.1, 0.7, (2,), np.float64), {"twin_q": False}),
}


def make_policy(name: str) -> tuple[Policy, spaces.Box]:
    """A policy with random weights, some of them large, as training leaves them."""
    network, observations, actions, settings = POLICIES[name]
    ours = {key: value for key, value in settings.items() if hasattr(DefaultModelConfig(), key)}
    described = dataclasses.asdict(DefaultModelConfig(fcnet_hiddens=[32, 32], fcnet_activation="relu", **ours))
    torch.manual_seed(sum(map(ord, name)))
    module = network(
        observation_space=observations,
        action_space=actions,
        model_config={**settings, **described},
        catalog_class=DQNCatalog if network is QModule else SACCatalog,
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5).add_(0.05 * torch.randn_like(parameter))
    rng = np.random.default_rng(1)
    mean = leave_mask(rng.normal(size=observations.shape), observations, 0.0)
    std = leave_mask(rng.uniform(0.1, 3, observations.shape), observations, 1.0)
    return Policy(module, actions, observation_filter=ObservationFilter(mean, std, 10.0)), observations


@pytest.mark.parametrize("name", POLICIES)
def test_every_format_is_the_policy(name: str, tmp_path: Path) -> None:
    policy, space = make_policy(name)
    for entry in export(Subject.of_policy(policy, space), tmp_path):
        assert max(entry["parity"]["largest_difference"].values()) <= TOLERANCE
        assert set(entry["outputs"]) >= {"actions"}


@pytest.mark.parametrize("name", [name for name, parts in POLICIES.items() if parts[0] is QModule])
def test_a_q_policy_takes_the_action_that_rllibs_own_network_takes(name: str) -> None:
    policy, space = make_policy(name)
    assert policy.observation_filter is not None
    rows = make_observations(space, policy.observation_filter, counts=count_choices(policy.action_space))
    batch = {Columns.OBS: torch.as_tensor(policy.observation_filter(rows))}
    with torch.inference_mode():
        theirs = DefaultDQNTorchRLModule._forward_inference(policy.module, batch)[Columns.ACTIONS]
    assert policy.act_many(rows) == theirs.tolist()
    assert len(set(theirs.tolist())) > 1


def test_the_deterministic_action_of_a_squashed_gaussian_is_the_median_of_its_samples() -> None:
    distribution = SquashedGaussian.from_logits(torch.tensor([[0.8, -1.5, -1.0, -1.0]]))  # means, log deviations
    torch.manual_seed(0)
    samples = distribution.sample(sample_shape=(4001,))[:, 0].numpy()
    action = distribution.to_deterministic().sample()[0].numpy()
    np.testing.assert_allclose(action, np.median(samples, axis=0), atol=0.02)  # tanh keeps the order


def test_tensorflow_serves_every_saved_model(tmp_path: Path) -> None:
    subjects = {}
    for number, name in enumerate(POLICIES):
        policy, space = make_policy(name)
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "saved_model.pb").write_bytes(write_saved_model(build_graph(policy, space.shape)))
        subjects[folder] = Subject.of_policy(policy, space)
        np.savez(folder / "in.npz", allow_pickle=False, **subjects[folder].inputs)
    run_peer("run_saved_models.py", *subjects)
    for folder, subject in subjects.items():
        with np.load(folder / "out.npz") as found:
            outputs = dict(found)
        differences = measure(
            subject.trained, subject.exact, outputs, scale=subject.scale, action_space=subject.action_space
        )
        assert max(differences.values()) <= TOLERANCE, (folder, differences)

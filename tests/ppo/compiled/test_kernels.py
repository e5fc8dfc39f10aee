"""The compiled arithmetic of PPO against RLlib's: networks, sampling, advantages, gradients, Adam."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
import threadpoolctl
import torch
from gymnasium import spaces
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate, GeneralAdvantageEstimation
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing

from runtime.policies.ppo_module import PPOModule
from runtime.ppo.compiled import network_kernels, ppo_update
from runtime.ppo.compiled.flat_network import FlatNetwork, UnsupportedError, flatten
from runtime.ppo.compiled.ppo_update import TrainBatch
from runtime.ppo.compiled.torch_interop import CompiledModule
from runtime.ppo.rllib_config import model_config
from runtime.ppo.rollout import Rollout

ROWS = 96
SEEN = spaces.Box(-np.inf, np.inf, (7,), np.float32)
BOX = spaces.Box(-1.0, 1.0, (3,), np.float32)
CHOICE: spaces.Discrete[Any] = spaces.Discrete(4)
# Action space and network.
NETWORKS: dict[str, tuple[gymnasium.Space[Any], dict[str, Any]]] = {
    "choices, tanh": (CHOICE, {"vf_share_layers": False}),
    "choices, shared": (CHOICE, {"vf_share_layers": True}),
    "free std, relu": (BOX, {"free_log_std": True, "fcnet_activation": "relu"}),
    "free std at its bound": (BOX, {"free_log_std": True, "log_std_clip_param": 0.1}),
    "std of the state": (BOX, {}),
    "std of the state, bound, shared": (BOX, {"log_std_clip_param": 0.05, "vf_share_layers": True}),
    "heads of their own": (BOX, {"head_fcnet_hiddens": [9], "free_log_std": True, "vf_share_layers": True}),
    "one layer": (CHOICE, {"fcnet_hiddens": [11]}),
    "gsde": (BOX, {"use_sde": True, "fcnet_activation": "relu"}),
    "gsde, shared, a head": (BOX, {"use_sde": True, "head_fcnet_hiddens": [8], "vf_share_layers": True}),
}
# What the loss may hold beside clipping.
LOSSES: dict[str, dict[str, float]] = {
    "plain": {},
    "kl": {"kl_coeff": 0.7},
    "all": {"entropy_coeff": 0.02, "kl_coeff": 0.2, "vf_clip_param": 0.6, "vf_loss_coeff": 0.25, "clip_param": 0.1},
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    with threadpoolctl.threadpool_limits(1):
        yield


def make_module(name: str) -> tuple[PPOModule, FlatNetwork]:
    space, network = NETWORKS[name]
    torch.manual_seed(0)
    config = model_config({"fcnet_hiddens": [16, 12], "fcnet_activation": "tanh", **network})
    module = PPOModule(
        observation_space=SEEN, action_space=space, model_config=config, catalog_class=PPOCatalog, inference_only=False
    )
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return module, flatten(module, space)


def draw(flat: FlatNetwork, rng: np.random.Generator, count: int = ROWS) -> np.ndarray[Any, Any]:
    shape = count, flat.noise_size
    if flat.kind == network_kernels.CATEGORICAL:
        return rng.random(shape, np.float32)
    return rng.standard_normal(shape, np.float32)


def act(flat: FlatNetwork, seen: Any, noise: Any) -> tuple[Any, Any, Any]:
    actions = np.empty((len(seen), flat.action_size), np.float32)
    log_probs = np.empty(len(seen), np.float32)
    distribution_inputs = np.empty((len(seen), int(flat.table[0]["distribution_size"])), np.float32)
    activations = flat.activations(len(seen))
    network_kernels.sample_actions(
        flat.table[0], flat.gather(), seen, noise, activations, actions, log_probs, distribution_inputs
    )
    return actions, log_probs, distribution_inputs


def as_torch(flat: FlatNetwork, actions: Any) -> torch.Tensor:
    tensor = torch.from_numpy(actions)
    return tensor[:, 0].long() if flat.kind == network_kernels.CATEGORICAL else tensor


@pytest.mark.parametrize("name", NETWORKS)
def test_actions_and_values_are_the_modules(name: str) -> None:
    module, flat = make_module(name)
    rng = np.random.default_rng(1)
    seen = rng.normal(size=(ROWS, 7)).astype(np.float32)
    actions, log_probs, distribution_inputs = act(flat, seen, draw(flat, rng))
    with torch.no_grad():
        inputs = module.forward_train({Columns.OBS: torch.from_numpy(seen)})[Columns.ACTION_DIST_INPUTS]
        expected = module.get_train_action_dist_cls().from_logits(inputs).logp(as_torch(flat, actions))
        values = module.compute_values({Columns.OBS: torch.from_numpy(seen)})
    np.testing.assert_allclose(distribution_inputs, inputs.numpy(), atol=3e-6)
    np.testing.assert_allclose(log_probs, expected.numpy(), atol=2e-5)
    mine = np.empty(ROWS, np.float32)
    network_kernels.state_values(flat.table[0], flat.gather(), seen, flat.activations(ROWS), mine)
    np.testing.assert_allclose(mine, values.numpy(), atol=3e-6)


def test_choices_come_as_often_as_their_probabilities() -> None:
    _, flat = make_module("choices, tanh")
    rng = np.random.default_rng(2)
    count = 40_000
    seen = np.repeat(rng.normal(size=(1, 7)).astype(np.float32), count, axis=0)
    actions, _, found = act(flat, seen, draw(flat, rng, count))
    expected = np.exp(found[0]) / np.exp(found[0]).sum()
    np.testing.assert_allclose(np.bincount(actions[:, 0].astype(int), minlength=4) / count, expected, atol=0.01)
    likeliest, _, _ = act(flat, seen[:1], np.full((1, 1), -1.0, np.float32))
    assert likeliest[0, 0] == expected.argmax()


def test_state_dependent_noise_has_the_deviation_that_the_loss_takes() -> None:
    _, flat = make_module("gsde")
    rng = np.random.default_rng(3)
    count = 40_000
    seen = np.repeat(rng.normal(size=(1, 7)).astype(np.float32), count, axis=0)
    actions, _, found = act(flat, seen, draw(flat, rng, count))
    np.testing.assert_allclose(actions.mean(axis=0), found[0, :3], atol=0.02 * np.exp(found[0, 3:]).max())
    np.testing.assert_allclose(actions.std(axis=0), np.exp(found[0, 3:]), rtol=0.02)
    # The same draw in the same state is the same action, in another state another.
    same, _, _ = act(flat, seen[:1], draw(flat, np.random.default_rng(4), 1))
    again, _, _ = act(flat, seen[:1], draw(flat, np.random.default_rng(4), 1))
    np.testing.assert_array_equal(same, again)


class Schedules:
    """The parts of a learner that RLlib's loss uses: schedules and metrics."""

    def __init__(self, module: PPOModule, update: dict[str, float]) -> None:
        self.module = {"p": module}
        self.entropy_coeff_schedulers_per_module = {"p": self}
        self.curr_kl_coeffs_per_module = {"p": update["kl_coeff"]}
        self._entropy = update["entropy_coeff"]
        self.metrics = self

    def get_current_value(self) -> float:
        return self._entropy

    def log_dict(self, *args: Any, **kwargs: Any) -> None:
        """The loss logs; nothing here reads it."""


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_those_of_rllibs_loss(name: str, loss: str) -> None:
    from ray.rllib.algorithms.ppo import PPOConfig

    module, flat = make_module(name)
    module.unwrapped = lambda: module  # as RLlib's learner wraps it
    rng = np.random.default_rng(5)
    seen = rng.normal(size=(ROWS, 7)).astype(np.float32)
    actions, log_probs, before = act(flat, seen, draw(flat, rng))
    # As after some updates: old probabilities away from new ones, so that some ratios are clipped.
    log_probs += rng.normal(scale=0.3, size=ROWS).astype(np.float32)
    before = (before + rng.normal(scale=0.2, size=before.shape)).astype(np.float32)
    advantages, value_targets = (rng.normal(size=ROWS).astype(np.float32) for _ in range(2))
    defaults = {"clip_param": 0.2, "vf_clip_param": 1e4, "vf_loss_coeff": 0.5, "entropy_coeff": 0.0, "kl_coeff": 0.0}
    numbers = defaults | LOSSES[loss]
    update = np.zeros(1, ppo_update.UPDATE_SETTINGS)
    for key, number in numbers.items():
        update[key] = number
    ours = np.zeros(len(flat.gather()), np.float32)
    batch = TrainBatch(seen, actions, log_probs, before, advantages, value_targets)
    activations, d_activations = flat.activations(ROWS), flat.activations(ROWS)
    ppo_update.loss_gradient(flat.table[0], update[0], flat.gather(), batch, activations, d_activations, ours)

    config = PPOConfig().training(
        clip_param=numbers["clip_param"],
        vf_clip_param=numbers["vf_clip_param"],
        vf_loss_coeff=numbers["vf_loss_coeff"],
        use_kl_loss=numbers["kl_coeff"] > 0,
    )
    columns = {
        Columns.OBS: torch.from_numpy(seen),
        Columns.ACTIONS: as_torch(flat, actions),
        Columns.ACTION_LOGP: torch.from_numpy(log_probs),
        Columns.ACTION_DIST_INPUTS: torch.from_numpy(before),
        Postprocessing.ADVANTAGES: torch.from_numpy(advantages),
        Postprocessing.VALUE_TARGETS: torch.from_numpy(value_targets),
    }
    learner: Any = Schedules(module, numbers)
    total = PPOTorchLearner.compute_loss_for_module(
        learner, module_id="p", config=config, batch=columns, fwd_out=module.forward_train(columns)
    )
    total.backward()
    theirs = flat.gather([torch.zeros_like(p) if p.grad is None else p.grad for p in flat.parameters])
    assert np.linalg.norm(theirs) > 0.01
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 2e-5


@pytest.mark.parametrize("grad_clip", [0.0, 0.5])
def test_steps_are_those_of_torchs_adam(grad_clip: float) -> None:
    """Both optimizers get the kernels' gradients, clipped as RLlib clips."""
    from ray.rllib.utils.torch_utils import clip_gradients

    _, flat = make_module("free std, relu")
    rng = np.random.default_rng(6)
    seen = rng.normal(size=(ROWS, 7)).astype(np.float32)
    actions, log_probs, before = act(flat, seen, draw(flat, rng))
    advantages, value_targets = (3 * rng.normal(size=ROWS).astype(np.float32) for _ in range(2))
    batch = TrainBatch(seen, actions, log_probs, before, advantages, value_targets)
    update = np.zeros(1, ppo_update.UPDATE_SETTINGS)
    settings = {"clip_param": 0.2, "vf_clip_param": 1e4, "vf_loss_coeff": 0.5, "grad_clip": grad_clip, "lr": 3e-3}
    for key, number in {**settings, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8}.items():
        update[key] = number
    parameters = flat.gather()
    mean, mean_square = np.zeros_like(parameters), np.zeros_like(parameters)
    minibatches = np.stack([rng.permutation(ROWS)[:32] for _ in range(5)])

    optimizer = torch.optim.Adam(flat.parameters, lr=3e-3)
    for rows in minibatches:
        gradient = np.zeros_like(parameters)
        activations, d_activations = flat.activations(32), flat.activations(32)
        ppo_update.loss_gradient(
            flat.table[0], update[0], flat.gather(), batch.rows(rows), activations, d_activations, gradient
        )
        sizes = [p.numel() for p in flat.parameters]
        for p, part in zip(flat.parameters, torch.split(torch.from_numpy(gradient), sizes), strict=True):
            p.grad = part.reshape(p.shape).clone()
        if grad_clip:
            clip_gradients(
                {str(i): p.grad for i, p in enumerate(flat.parameters)},
                grad_clip=grad_clip,
                grad_clip_by="global_norm",
            )
        optimizer.step()
    gradients = np.zeros((1, len(parameters)), np.float32)
    state = parameters, mean, mean_square
    ppo_update.update_on_minibatches(flat.table, update, *state, batch, minibatches, gradients, 0, 1, 0)
    assert update["adam_steps"] == 5
    np.testing.assert_allclose(parameters, flat.gather(), atol=2e-6)


@pytest.mark.parametrize("size", [300, 1024])
def test_threads_that_share_a_minibatch_take_the_same_steps_as_one(size: int) -> None:
    rows, found = 2048, []
    rng = np.random.default_rng(3)
    _, flat = make_module("free std, relu")
    seen = rng.normal(size=(rows, 7)).astype(np.float32)
    actions, log_probs, before = act(flat, seen, draw(flat, rng, rows))
    advantages, targets = rng.normal(size=(2, rows)).astype(np.float32)
    batch = TrainBatch(seen, actions, log_probs, before, advantages, targets)
    minibatches = np.stack([rng.permutation(rows)[:size] for _ in range(4)])
    settings = {"clip_param": 0.2, "vf_clip_param": 1e4, "vf_loss_coeff": 0.5, "grad_clip": 0.5}
    assert ppo_update.count_chunks(size) == size // 128
    for threads in (1, 2, 3):
        module, flat = make_module("free std, relu")
        compiled = CompiledModule(module, torch.optim.Adam(module.parameters(), lr=1e-3), threads=threads)
        if threads == 1:  # chunks make no difference but by rounding
            one = compiled.gradient(batch.rows(minibatches[0]), settings)
            parts = np.array_split(minibatches[0], 2)
            halves = [compiled.gradient(batch.rows(part), settings) * len(part) / size for part in parts]
            np.testing.assert_allclose(sum(halves), one, atol=1e-6)
        compiled.update(batch, minibatches, settings)
        found.append(flat.gather())
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert np.abs(found[0] - make_module("free std, relu")[1].gather()).max() > 1e-3


@pytest.mark.parametrize("skips", [False, True])
def test_a_gradient_that_is_not_finite_moves_nothing(skips: bool) -> None:
    _, flat = make_module("choices, tanh")
    rng = np.random.default_rng(7)
    seen = rng.normal(size=(ROWS, 7)).astype(np.float32)
    actions, log_probs, before = act(flat, seen, draw(flat, rng))
    advantages = np.full(ROWS, np.nan, np.float32)
    value_targets = np.zeros(ROWS, np.float32)
    update = np.zeros(1, ppo_update.UPDATE_SETTINGS)
    for key, number in {"clip_param": 0.2, "vf_clip_param": 1e4, "lr": 1e-3, "beta1": 0.9, "beta2": 0.999}.items():
        update[key] = number
    update["epsilon"] = 1e-8
    update["torch_skip_nan_gradients"] = skips
    parameters = flat.gather()
    zeros = np.zeros_like(parameters), np.zeros_like(parameters)
    minibatches = np.arange(ROWS).reshape(1, -1)
    batch = TrainBatch(seen, actions, log_probs, before, advantages, value_targets)
    gradients = np.zeros((1, len(parameters)), np.float32)
    ppo_update.update_on_minibatches(flat.table, update, parameters, *zeros, batch, minibatches, gradients, 0, 1, 0)
    np.testing.assert_array_equal(parameters, flat.gather())
    assert update["adam_steps"] == (0 if skips else 1)


def test_advantages_are_those_of_rllibs_connectors() -> None:
    """Three environments with episodes that terminate, are truncated, and go on after the rollout."""
    module, flat = make_module("choices, tanh")
    rng = np.random.default_rng(8)
    steps = 40
    count = 3
    rollout = Rollout.empty(steps, count, (7,), 1, 4)
    for name in ("observations", "final_observations", "next_observations", "rewards"):
        getattr(rollout, name)[:] = rng.normal(size=getattr(rollout, name).shape)
    rollout.actions[:], rollout.log_probs[:], rollout.action_distribution_inputs[:] = 0.0, 0.0, 0.0
    rollout.terminated[:] = rng.random((steps, count)) < 0.1
    rollout.truncated[:] = (rng.random((steps, count)) < 0.1) & ~rollout.terminated
    assert rollout.terminated.any()
    assert rollout.truncated.any()

    def estimate_values(observations: Any) -> Any:
        values = np.empty(len(observations), np.float32)
        network_kernels.state_values(
            flat.table[0], flat.gather(), observations, flat.activations(len(observations)), values
        )
        return values

    batch = ppo_update.make_train_batch([rollout], estimate_values, gamma=0.97, lambda_=0.9)
    episodes = rollout.to_episodes(SEEN, CHOICE)
    lengths = [len(episode) for episode in episodes]
    assert sum(lengths) == rollout.env_steps()
    padded = _rllibs_targets(module, episodes, gamma=0.97, lam=0.9)
    expected = []
    at = 0
    for length in lengths:
        expected.append(padded[at : at + length])
        at += length + 1  # RLlib adds a step to each
    value_targets = batch.value_targets.reshape(steps, count).T.reshape(-1)
    np.testing.assert_allclose(value_targets, np.concatenate(expected), atol=2e-5)
    advantages = batch.value_targets - estimate_values(batch.observations)
    standardized = (advantages - advantages.mean()) / advantages.std()
    np.testing.assert_allclose(batch.advantages, standardized, atol=2e-5)


def _rllibs_targets(module: PPOModule, episodes: list[Any], *, gamma: float, lam: float) -> Any:
    from ray.rllib.connectors.common import (
        AddObservationsFromEpisodesToBatch,
        BatchIndividualItems,
        NumpyToTensor,
    )
    from ray.rllib.connectors.learner import AddColumnsFromEpisodesToTrainBatch, LearnerConnectorPipeline
    from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
    from ray.rllib.core.rl_module.rl_module import RLModuleSpec

    spec = RLModuleSpec(
        module_class=PPOModule,
        observation_space=SEEN,
        action_space=CHOICE,
        model_config=module.model_config,
        catalog_class=PPOCatalog,
    )
    together = MultiRLModuleSpec(rl_module_specs={"default_policy": spec}).build()
    together["default_policy"].load_state_dict(module.state_dict())
    pipeline = LearnerConnectorPipeline(
        connectors=[
            AddOneTsToEpisodesAndTruncate(),
            AddObservationsFromEpisodesToBatch(as_learner_connector=True),
            AddColumnsFromEpisodesToTrainBatch(),
            BatchIndividualItems(multi_agent=False),
            NumpyToTensor(as_learner_connector=True),
            GeneralAdvantageEstimation(gamma=gamma, lambda_=lam),
        ]
    )
    batch = pipeline(rl_module=together, batch={}, episodes=episodes, shared_data={})
    return batch["default_policy"][Postprocessing.VALUE_TARGETS].numpy()


@pytest.mark.parametrize(
    ("network", "space", "why"),
    [
        ({"fcnet_activation": "swish"}, BOX, "SiLU"),
        ({"use_lstm": True}, BOX, "Encoder"),
        ({}, spaces.MultiDiscrete([2, 3]), "MultiDiscrete"),
        ({"fcnet_hiddens": [4] * 8, "vf_share_layers": False}, CHOICE, "layers"),
    ],
)
def test_what_is_not_covered_is_named(network: dict[str, Any], space: gymnasium.Space[Any], why: str) -> None:
    config = model_config({"fcnet_hiddens": [4], **network})
    module = PPOModule(
        observation_space=SEEN, action_space=space, model_config=config, catalog_class=PPOCatalog, inference_only=False
    )
    with pytest.raises(UnsupportedError, match=why):
        flatten(module, space)


def test_tanh_is_tanh() -> None:
    from runtime.ppo.compiled.network_kernels import _tanh

    x = np.linspace(-12, 12, 20_001, dtype=np.float32)
    found = x.copy()
    _tanh(found)
    expected = np.array([math.tanh(value) for value in x.tolist()])
    assert np.abs(found - expected).max() < 4e-7


def test_statistics_of_parts_are_those_of_the_whole() -> None:
    from ray.rllib.utils.filter import RunningStat

    from runtime.ppo.compiled.rollout_collectors import update_statistics

    rows = np.random.default_rng(0).normal(3, 2, (500, 4)).astype(np.float32)
    parts, whole = RunningStat((4,)), RunningStat((4,))
    for part in np.split(rows, [1, 3, 100, 101]):
        update_statistics(parts, part)
    for row in rows:
        whole.push(row)
    np.testing.assert_allclose(parts.mean, whole.mean, rtol=1e-12)
    np.testing.assert_allclose(parts.std, whole.std, rtol=1e-6)
    assert parts.num_pushes == parts.num_pushes_delta == 500
    other = RunningStat((4,))
    other.update(parts)
    np.testing.assert_allclose(other.mean, whole.mean, rtol=1e-12)

"""Compiles the kernels ahead of the first job: `python -m runtime.ppo.compiled.compile_ahead` after an installation.

numba compiles for the processor that it runs on, at the first call with arrays of given types, and caches the result
beside the code, or in the user's cache folder where that is not writable.
"""

from __future__ import annotations

import time

import gymnasium
import numpy as np
from ray.rllib.algorithms.ppo.ppo_catalog import PPOCatalog
from ray.rllib.core.rl_module.default_model_config import DefaultModelConfig

from envs.compiled import is_kept
from envs.roboschool.vector_env import RoboschoolVectorEnv
from runtime.outputs.console import quiet_ray
from runtime.policies.ppo_module import PPOModule
from runtime.ppo.advantages import generalized_advantages
from runtime.ppo.compiled.flat_network import FlatNetwork, flatten
from runtime.ppo.compiled.network_kernels import sample_actions, state_values
from runtime.ppo.compiled.ppo_update import (
    UPDATE_SETTINGS,
    TrainBatch,
    apply_one_gradient,
    loss_gradient,
    update_on_minibatches,
)
from runtime.ppo.compiled.rollout_kernels import collect_rollout, list_buffers, normalize_observations, scale_actions
from runtime.ppo.rollout import Rollout


def are_kernels_cached() -> bool:
    """Whether another process has compiled the kernels already."""
    return is_kept(update_on_minibatches) and is_kept(sample_actions)


def compile_learning(flat: FlatNetwork) -> None:
    """Compiles what an update calls, on one row of zeros."""
    rollout = _empty_rollout(flat)
    parameters = flat.gather()
    activations, d_activations = flat.activations(1), flat.activations(1)
    gradient, mean, mean_square = (np.zeros_like(parameters) for _ in range(3))
    observations = rollout.observations[:, 0]
    values = np.zeros(1, np.float32)
    state_values(flat.table[0], parameters, observations, activations, values)
    two_values = np.zeros((2, 1), np.float32)
    advantages = generalized_advantages(rollout.rewards, two_values, rollout.terminated, gamma=0.9, lambda_=0.9)
    distribution_inputs = rollout.action_distribution_inputs[:, 0]
    batch = TrainBatch(
        observations, rollout.actions[:, 0], rollout.log_probs[:, 0], distribution_inputs, advantages[:, 0], values
    )
    settings = np.zeros(1, UPDATE_SETTINGS)
    loss_gradient(flat.table[0], settings[0], parameters, batch, activations, d_activations, gradient)
    apply_one_gradient(settings.copy(), parameters, gradient, mean, mean_square)
    minibatches = np.zeros((1, 1), np.int64)
    gradients = np.zeros((1, len(parameters)), np.float32)
    update_on_minibatches(flat.table, settings, parameters, mean, mean_square, batch, minibatches, gradients, 0, 1, 0)


def compile_acting(flat: FlatNetwork) -> None:
    """Compiles what a rollout calls between the steps of Python environments."""
    rollout = _empty_rollout(flat)
    observations = rollout.observations[0]
    noise = np.zeros((1, flat.noise_size), np.float32)
    normalize_observations(observations, observations[0], np.ones_like(observations[0]), 1.0, observations)
    sample_actions(
        flat.table[0],
        flat.gather(),
        observations,
        noise,
        flat.activations(1),
        rollout.actions[0],
        rollout.log_probs[0],
        rollout.action_distribution_inputs[0],
    )
    zeros = np.zeros(flat.action_size, np.float32)
    scale_actions(rollout.actions[0], zeros, zeros, zeros, rollout.actions[0])


def compile_collecting(flat: FlatNetwork, env: RoboschoolVectorEnv) -> None:
    """Compiles the collection of rollouts in compiled worlds, by one of no steps."""
    rollout = _empty_rollout(flat)
    ones = np.ones(flat.action_size, np.float32)
    zeros = np.zeros(rollout.observations.shape[2], np.float32)
    buffers = list_buffers(rollout, rollout.observations, np.zeros((1, 1)), np.zeros((1, 1), np.int64))
    collect_rollout(
        flat.table[0],
        flat.gather(),
        (zeros, zeros, 1.0),
        (ones, ones, ones),
        env.native.worlds,
        (env.observations, env.final_observations),
        buffers,
        np.zeros((1, 1, flat.noise_size), np.float32),
        1,
        (0, 1),
        (0, 0),
        env.max_steps,
    )


def _empty_rollout(flat: FlatNetwork) -> Rollout:
    """Makes a rollout of one step of one environment, all zeros."""
    row = flat.table[0]
    observation_size = int(row["layers"][0, 0])
    distribution_size = int(row["distribution_size"])
    rollout = Rollout.empty(1, 1, (observation_size,), flat.action_size, distribution_size)
    for column in vars(rollout).values():
        column.fill(0)
    return rollout


def main() -> None:
    """Compiles all kernels for a small network and one robot; compiled code does not depend on their sizes."""
    quiet_ray()
    began = time.perf_counter()
    env = RoboschoolVectorEnv("Reacher", 1)
    module = PPOModule(
        observation_space=env.single_observation_space,
        action_space=env.single_action_space,
        model_config={**vars(DefaultModelConfig(fcnet_hiddens=[2], vf_share_layers=False)), "use_sde": False},
        catalog_class=PPOCatalog,
        inference_only=False,
    )
    flat = flatten(module, env.single_action_space)
    compile_acting(flat)
    compile_learning(flat)
    if env.native is not None:
        compile_collecting(flat, env)
        env.reset()
        env.step(np.zeros((1, 2), np.float32))
    single = gymnasium.make("RoboschoolReacher-v1")
    single.reset()
    single.step(np.zeros(2, np.float32))
    single.close()
    env.close()
    print(f"compiled kernels are ready ({time.perf_counter() - began:.0f} s)")


if __name__ == "__main__":
    main()

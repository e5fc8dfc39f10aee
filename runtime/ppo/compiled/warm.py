"""Compiles the kernels before anything waits for them: `python -m runtime.ppo.compiled.warm` after an installation.

numba compiles for the processor that it runs on, at the first call with arrays of given types, and keeps the result
beside the code, or in the user's cache folder where that cannot be written.
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
from runtime.ppo.compiled.descent_kernels import UPDATE, descend, gradient_of, step
from runtime.ppo.compiled.flat_network import FlatNetwork, flatten
from runtime.ppo.compiled.network_kernels import act, values_of
from runtime.ppo.compiled.sampling_kernels import advantages, collect, normalize, to_environment
from runtime.ppo.rollout import Rollout


def is_warm() -> bool:
    """Whether another process has compiled the kernels already."""
    return is_kept(descend) and is_kept(act)


def compile_learning(flat: FlatNetwork) -> None:
    """All that an update calls, on one row of zeros."""
    one, parameters = _rollout(flat), flat.gather()
    scratch, deltas = flat.scratch(1), flat.scratch(1)
    gradient, first, second = (np.zeros_like(parameters) for _ in range(3))
    seen, gains = one.observations[:, 0], one.rewards
    values_of(flat.table[0], parameters, seen, scratch, np.zeros(1, np.float32))
    values = np.zeros((2, 1), np.float32)
    advantages(one.rewards, values, values[:1], one.terminated, one.truncated, 0.9, 0.9, gains)
    columns = one.actions[:, 0], one.logp[:, 0], one.inputs[:, 0], gains[:, 0], values[0]
    update = np.zeros(1, UPDATE)
    gradient_of(flat.table[0], update[0], parameters, seen, columns, scratch, deltas, gradient)
    step(update.copy(), parameters, gradient, first, second)
    descend(flat.table, update, parameters, first, second, seen, columns, np.zeros((1, 1), np.int64))


def compile_acting(flat: FlatNetwork) -> None:
    """All that a rollout calls between steps that Python makes."""
    one = _rollout(flat)
    seen, noise = one.observations[0], np.zeros((1, flat.noise_size), np.float32)
    normalize(seen, seen[0], np.ones_like(seen[0]), 1.0, seen)
    act(flat.table[0], flat.gather(), seen, noise, flat.scratch(1), one.actions[0], one.logp[0], one.inputs[0])
    zeros = np.zeros(flat.action_size, np.float32)
    to_environment(one.actions[0], zeros, zeros, zeros, one.actions[0])


def compile_collecting(flat: FlatNetwork, env: RoboschoolVectorEnv) -> None:
    """A rollout of no steps in compiled worlds."""
    one = _rollout(flat)
    ones, zeros = np.ones(flat.action_size, np.float32), np.zeros(one.observations.shape[2], np.float32)
    buffers = (
        *(one.observations, one.observations, one.actions, one.logp, one.inputs, one.rewards),
        *(one.terminated, one.truncated, one.last_observations, np.zeros((1, 1)), np.zeros((1, 1), np.int64)),
    )
    filtered, state = (zeros, zeros, 1.0), (env.observations, env.last_observations)
    noise = np.zeros((1, 1, flat.noise_size), np.float32)
    worlds, span, ranges, limit = env.native.worlds, (0, 0), (ones, ones, ones), env.max_steps
    collect(flat.table[0], flat.gather(), filtered, ranges, worlds, state, buffers, noise, 1, (0, 1), span, limit)


def _rollout(flat: FlatNetwork) -> Rollout:
    row = flat.table[0]
    one = Rollout.empty(1, 1, (int(row["layers"][0, 0]),), flat.action_size, int(row["distribution_inputs"]))
    for column in vars(one).values():
        column.fill(0)
    return one


def main() -> None:
    """Compiles everything, for a small network and a robot; the results serve all of them."""
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

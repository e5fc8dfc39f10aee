"""The environments of an env runner, stepped one after another in one process and written into arrays."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from ray.rllib.env.env_context import EnvContext

from envs.roboschool.vector_env import RoboschoolVectorEnv
from runtime.environments.spec import EnvironmentRaisedError, EnvSpec
from runtime.errors import JobError, find_cause
from runtime.rllib.env_maker import EnvMaker

_logger = logging.getLogger(__name__)
# Steps many copies at once, in compiled code where it can.
_ARRAY_ENV = RoboschoolVectorEnv


class SyncEnvs:
    """Steps N environments one after another; the step that ends an episode starts the next one.

    What Gymnasium's SyncVectorEnv does with `AutoresetMode.SAME_STEP`, without allocating arrays at each step.

    Attributes:
        observations: (N, …) float32 current observations.
        final_observations: (N, …) float32; where an episode has just ended, its final observation.
        rewards: (N,) of the last step.
        terminated: (N,) bool.
        truncated: (N,) bool.
        returns: (N,); where an episode has just ended, its return.
        lengths: (N,); where an episode has just ended, its steps.

    Args:
        makers: A callable for each environment that makes it.
        restarts: Whether an environment that raises is replaced by a new one; its episode counts as truncated.
    """

    def __init__(self, makers: list[Any], *, restarts: bool) -> None:
        self._makers = makers
        self._restarts = restarts
        self._envs = [make() for make in makers]
        self.num_envs = len(makers)
        first = self._envs[0]
        self.single_observation_space = first.observation_space
        self.single_action_space = first.action_space
        self.observation_space = batch_space(first.observation_space, self.num_envs)
        self.action_space = batch_space(first.action_space, self.num_envs)
        shape = first.observation_space.shape or ()
        self.observations = np.zeros((self.num_envs, *shape), np.float32)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros(self.num_envs)
        self.terminated = np.zeros(self.num_envs, bool)
        self.truncated = np.zeros(self.num_envs, bool)
        self.returns = np.zeros(self.num_envs)
        self.lengths = np.zeros(self.num_envs, np.int64)

    @property
    def unwrapped(self) -> SyncEnvs:
        """Returns this object; RLlib unwraps its environments."""
        return self

    def reset(self, *, seed: int | None = None) -> None:
        """Starts an episode in each environment; environment i is seeded with seed + i."""
        for i, env in enumerate(self._envs):
            self.observations[i] = env.reset(seed=None if seed is None else seed + i)[0]

    def advance(self, actions: NDArray[Any]) -> None:
        """Steps every environment, into this object's own arrays.

        Args:
            actions: (N, …), in the environments' units.
        """
        actions = actions.astype(self.single_action_space.dtype)  # a copy: an environment may keep its last action
        for i in range(self.num_envs):
            try:
                self._step(i, actions[i])
            except Exception as error:
                self._replace(i, error)

    def _step(self, i: int, action: Any) -> None:
        env = self._envs[i]
        self.terminated[i] = self.truncated[i] = False
        observation, self.rewards[i], terminated, truncated, info = env.step(action)
        self.terminated[i], self.truncated[i] = terminated, truncated
        if terminated or truncated:
            self.final_observations[i] = observation
            self.returns[i], self.lengths[i] = info["episode"]["r"], info["episode"]["l"]
            observation = env.reset()[0]
        self.observations[i] = observation

    def _replace(self, i: int, error: Exception) -> None:
        has_raised = isinstance(error, EnvironmentRaisedError) or find_cause(error, JobError) is None
        if not (self._restarts and has_raised):
            raise error
        _logger.warning("%s; a new environment replaces it", error)
        monitor = self._envs[i]
        if not (self.terminated[i] or self.truncated[i]):  # else the reset raised, after an episode that counts
            self.final_observations[i] = self.observations[i]
            self.rewards[i] = 0.0
            self.truncated[i] = True
            self.returns[i] = monitor.get_wrapper_attr("episode_return")
            self.lengths[i] = monitor.get_wrapper_attr("episode_steps")
        with contextlib.suppress(Exception):
            monitor.close()
        self._envs[i] = self._makers[i]()
        self.observations[i] = self._envs[i].reset()[0]

    def close(self) -> None:
        """Closes every environment."""
        for env in self._envs:
            env.close()


def is_compiled(spec: EnvSpec) -> bool:
    """Whether compiled code can step an environment in this process."""
    return _is_array_env(spec) and _ARRAY_ENV.is_compiled(spec.name, spec.config)


def _is_array_env(spec: EnvSpec) -> bool:
    """Whether there is a vector environment that writes into arrays by itself."""
    is_bare = spec.creator is None and spec.reward_scale == 1.0 and spec.transitions_folder is None
    return is_bare and _ARRAY_ENV.can_make(spec.name, spec.config)


def count_env_bytes(spec: EnvSpec) -> float:
    """Returns the memory of an environment that writes into arrays by itself; of others it is not known, and 0."""
    return _ARRAY_ENV.bytes_per_env if _is_array_env(spec) else 0.0


def make_envs(maker: EnvMaker, config: Any, *, worker_index: int) -> SyncEnvs | RoboschoolVectorEnv:
    """Makes the environments of an env runner.

    Args:
        maker: The job's.
        config: RLlib's AlgorithmConfig.
        worker_index: Number of the env runner; 0 is the one in the learner's process.
    """
    spec = maker.spec
    count = config.num_envs_per_env_runner
    if _is_array_env(spec):
        return _ARRAY_ENV.make(spec.name, count, spec.config, horizon=spec.horizon, threads=maker.threads)
    workers = config.num_env_runners
    contexts = [
        EnvContext(dict(spec.config), worker_index=worker_index, vector_index=i, num_workers=workers)
        for i in range(count)
    ]
    return SyncEnvs(
        [lambda context=context: maker(context) for context in contexts],
        restarts=bool(config.restart_failed_sub_environments),
    )

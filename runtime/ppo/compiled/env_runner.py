"""RLlib's env runner on arrays: no episode objects, no connectors, and no Python in the loop where that is possible.

Roboschool's robots are stepped, and their network is run, by one compiled call for each of the runner's threads. Other
environments are stepped by Python, one after another, between compiled calls of the network. PyTorch runs the networks
that the kernels do not support.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Any

import numpy as np
from ray.rllib.utils.metrics import (
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    SAMPLE_TIMER,
    TIME_BETWEEN_SAMPLING,
    WEIGHTS_SEQ_NO,
)
from ray.tune.registry import ENV_CREATOR, _global_registry

from envs.roboschool.vector_env import RoboschoolVectorEnv
from runtime.policies.rllib_filter import find_filter
from runtime.ppo.compiled.compile_ahead import compile_acting, compile_collecting
from runtime.ppo.compiled.flat_network import FlatNetwork, UnsupportedError, flatten
from runtime.ppo.compiled.rollout_collectors import CompiledCollector, TorchCollector, action_range_of
from runtime.ppo.compiled.sync_envs import make_envs
from runtime.ppo.compiled.whole_episodes import WholeEpisodes
from runtime.ppo.rollout import Rollout
from runtime.rllib.env_runner import Runner
from runtime.rllib.episodes import LENGTHS, RETURNS

# Steps of each environment until it is checked how many episodes have ended.
_EVALUATION_STEPS = 64
_WHOLE_STEPS = 16


class FastRunner(Runner):
    """Collects `Rollout`s; spaces, the state of connectors, weights and metrics stay RLlib's."""

    def make_env(self) -> None:
        """Builds the environments; called by RLlib."""
        maker = _global_registry.get(ENV_CREATOR, self.config.env)
        self.env_name = maker.spec.name
        self.env: Any = make_envs(maker, self.config, worker_index=self.worker_index or 0)
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True
        self._recent: deque[tuple[float, int]] = deque(maxlen=self.config.metrics_num_episodes_for_smoothing)

    def make_module(self) -> None:
        """Builds the network; called by RLlib."""
        super().make_module()
        self.flat: FlatNetwork | None = None
        if self.env is None:
            return
        try:
            self.flat = flatten(self.module, self.env.single_action_space)
        except UnsupportedError as error:
            logging.getLogger(__name__).info("sampling by PyTorch: %s", error)
        self.action_range = action_range_of(self.env.single_action_space, self.config)
        if self.flat is not None and isinstance(self.env, RoboschoolVectorEnv) and self.env.native is not None:
            compile_collecting(self.flat, self.env)
        elif self.flat is not None:
            compile_acting(self.flat)

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Any]:
        """Collects a rollout; called by RLlib.

        Args:
            num_timesteps: Environment steps at least, of all environments together; RLlib's fragment length if None.
            num_episodes: Collect rollouts until so many episodes have ended, instead.
            explore: Whether actions are sampled; RLlib's setting if None.
            random_actions: Without effect here.
            force_reset: Whether to start new episodes first.
        """
        before: float | None = self._time_after_sampling
        if before is not None:
            self.metrics.log_value(TIME_BETWEEN_SAMPLING, time.perf_counter() - before)
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        explores = self.config.explore if explore is None else explore
        with self.metrics.log_time(SAMPLE_TIMER):
            if force_reset or self._needs_initial_reset or num_episodes is not None:
                self.env.reset(seed=self.take_env_seed())
                self._episodes = WholeEpisodes()
                self._needs_initial_reset = num_episodes is not None
            if num_episodes is not None:
                rollouts = self._sample_episodes(num_episodes, explores=explores)
            else:
                fragment = self.config.get_rollout_fragment_length(self.worker_index) * self.num_envs
                steps = -(-(fragment if num_timesteps is None else num_timesteps) // self.num_envs)
                sample = self._sample_whole if self.config.batch_mode == "complete_episodes" else self._collect
                rollout, episodes = sample(max(1, steps), explores=explores)
                self._report(rollout.env_steps(), episodes)
                rollouts = [rollout]
        self._time_after_sampling: float | None = time.perf_counter()
        return rollouts

    def _sample_episodes(self, count: int, *, explores: bool) -> list[Rollout]:
        rollouts: list[Rollout] = []
        episodes: list[tuple[float, int]] = []
        while len(episodes) < count:
            rollout, ended = self._collect(_EVALUATION_STEPS, explores=explores)
            rollouts.append(rollout)
            episodes += ended
        self._report(sum(rollout.env_steps() for rollout in rollouts), episodes[:count])
        return rollouts

    def _sample_whole(self, steps: int, *, explores: bool) -> tuple[Rollout, list[tuple[float, int]]]:
        """Collects until the episodes that have ended have `steps` steps for each environment."""
        episodes: list[tuple[float, int]] = []
        while self._episodes.count_steps() < steps * self.num_envs:
            rollout, ended = self._collect(min(steps, _WHOLE_STEPS), explores=explores)
            self._episodes.add(rollout)
            episodes += ended
        return self._episodes.take(), episodes

    def _collect(self, steps: int, *, explores: bool) -> tuple[Rollout, list[tuple[float, int]]]:
        """Collects `steps` steps of each environment; also returns return and length of each episode that ended."""
        if self.flat is None:
            return TorchCollector(self, steps, explores=explores).run()
        return CompiledCollector(self, steps, explores=explores).run()

    def _report(self, steps: int, episodes: list[tuple[float, int]]) -> None:
        """Logs once for all episodes what RLlib's env runner logs for each."""
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(episodes))
        if not episodes:
            return
        returns, lengths = zip(*episodes, strict=True)
        log = self.metrics.log_value
        log(RETURNS, np.array(returns), reduce="item_series")
        log(LENGTHS, np.array(lengths), reduce="item_series")
        self._recent += episodes
        returns, lengths = zip(*self._recent, strict=True)
        for series, mean, least, most in (
            (returns, EPISODE_RETURN_MEAN, EPISODE_RETURN_MIN, EPISODE_RETURN_MAX),
            (lengths, EPISODE_LEN_MEAN, EPISODE_LEN_MIN, EPISODE_LEN_MAX),
        ):
            log(mean, float(np.mean(series)), window=1)
            log(least, min(series), reduce="min", window=1)
            log(most, max(series), reduce="max", window=1)

    def get_metrics(self) -> Any:
        """Metrics since the last call, which RLlib aggregates."""
        return self.metrics.reduce()

    def observation_stats(self) -> Any:
        """Returns the running statistics of RLlib's observation filter, or None without a filter."""
        observation_filter = find_filter(self)
        return None if observation_filter is None else observation_filter.running_stats

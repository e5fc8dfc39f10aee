"""RLlib's env runner with sampling on arrays: without episode objects, without connectors, without Python if possible.

Roboschool's robots are stepped, observed and acted on by one compiled call for each of the runner's threads; other
environments one after the other, by Python, between compiled calls of the network; networks that are not compiled by
PyTorch.
"""

from __future__ import annotations

import functools
import logging
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
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

from envs.roboschool.vector_env import RoboschoolVectorEnv, in_threads
from runtime.environments import EnvironmentFaultError
from runtime.ppo.direct_envs import build_envs
from runtime.ppo.episodes import LENGTHS, RETURNS
from runtime.ppo.flat import FlatNetwork, NotCoveredError, flatten
from runtime.ppo.network_kernels import CATEGORICAL, STATE_DEPENDENT, act
from runtime.ppo.rollout import Rollout
from runtime.ppo.runner import Runner
from runtime.ppo.sampling_kernels import collect, normalize, to_environment
from runtime.ppo.warm import compile_acting, compile_collecting

_CLIP = 10.0  # of normalised observations, as RLlib's MeanStdFilter
_SMALL = 1e-8
_SEEDS_APART = 10_000  # of runners' environments
_EVALUATED_STEPS = 64  # of each environment, between looks at how many episodes have ended


class FastRunner(Runner):
    """Samples `Rollout`s; spaces, connectors' state, weights and metrics stay RLlib's."""

    def make_env(self) -> None:
        """Builds the environments; called by RLlib."""
        maker = _global_registry.get(ENV_CREATOR, self.config.env)
        self.env_name = maker.spec.name
        self.env: Any = build_envs(maker, self.config, worker_index=self.worker_index or 0)
        self.num_envs = self.env.num_envs
        self._needs_initial_reset = True
        self._recent: deque[tuple[float, int]] = deque(maxlen=self.config.metrics_num_episodes_for_smoothing)

    def make_module(self) -> None:
        """Builds the network; called by RLlib."""
        super().make_module()
        self._flat: FlatNetwork | None = None
        if self.env is None:
            return
        try:
            self._flat = flatten(self.module, self.env.single_action_space)
        except NotCoveredError as error:
            logging.getLogger(__name__).info("sampling by PyTorch: %s", error)
        self._scaling = _scaling(self.env.single_action_space, self.config)
        if self._flat is not None and isinstance(self.env, RoboschoolVectorEnv) and self.env.native is not None:
            compile_collecting(self._flat, self.env)
        elif self._flat is not None:
            compile_acting(self._flat)

    def sample(
        self,
        *,
        num_timesteps: int | None = None,
        num_episodes: int | None = None,
        explore: bool | None = None,
        random_actions: bool = False,
        force_reset: bool = False,
    ) -> list[Any]:
        """One rollout of at least so many steps, or several with at least so many ended episodes."""
        before: float | None = self._time_after_sampling
        if before is not None:
            self.metrics.log_value(TIME_BETWEEN_SAMPLING, time.perf_counter() - before)
        self.metrics.log_value(WEIGHTS_SEQ_NO, self._weights_seq_no, window=1)
        explores = self.config.explore if explore is None else explore
        with self.metrics.log_time(SAMPLE_TIMER):
            if force_reset or self._needs_initial_reset or num_episodes is not None:
                self.env.reset(seed=self._first_seed() if self._needs_initial_reset else None)
                self._needs_initial_reset = num_episodes is not None
            if num_episodes is not None:
                rollouts = self._sample_episodes(num_episodes, explores=explores)
            else:
                fragment = self.config.get_rollout_fragment_length(self.worker_index) * self.num_envs
                steps = -(-(fragment if num_timesteps is None else num_timesteps) // self.num_envs)
                rollout, ended = self._collect(max(1, steps), explores=explores)
                self._report(rollout.env_steps(), ended)
                rollouts = [rollout]
        self._time_after_sampling: float | None = time.perf_counter()
        return rollouts

    def _first_seed(self) -> int | None:
        """Of the first environment, the others' following; far from those of the next runner."""
        return None if self._seed is None else self._seed + _SEEDS_APART * (self.worker_index or 0)

    def _sample_episodes(self, count: int, *, explores: bool) -> list[Rollout]:
        rollouts: list[Rollout] = []
        found: list[tuple[float, int]] = []
        while len(found) < count:
            rollout, ended = self._collect(_EVALUATED_STEPS, explores=explores)
            rollouts.append(rollout)
            found += ended
        self._report(sum(one.env_steps() for one in rollouts), found[:count])
        return rollouts

    def _collect(self, steps: int, *, explores: bool) -> tuple[Rollout, list[tuple[float, int]]]:
        """A rollout of T steps, and return and length of each episode that ended in it."""
        if self._flat is None:
            return _TorchSampling(self, steps, explores=explores).run()
        return _CompiledSampling(self, steps, explores=explores).run()

    def _report(self, steps: int, ended: list[tuple[float, int]]) -> None:
        """Logs what RLlib's runner logs, once for all episodes."""
        self._log_env_steps(metric=self._metrics_num_env_steps_sampled, num_steps=steps)
        self._increase_sampled_metrics(steps, len(ended))
        if not ended:
            return
        returns, lengths = zip(*ended, strict=True)
        log = self.metrics.log_value
        log(RETURNS, np.array(returns), reduce="item_series")
        log(LENGTHS, np.array(lengths), reduce="item_series")
        self._recent += ended
        returns, lengths = zip(*self._recent, strict=True)
        for series, mean, least, most in (
            (returns, EPISODE_RETURN_MEAN, EPISODE_RETURN_MIN, EPISODE_RETURN_MAX),
            (lengths, EPISODE_LEN_MEAN, EPISODE_LEN_MIN, EPISODE_LEN_MAX),
        ):
            log(mean, float(np.mean(series)), window=1)
            log(least, min(series), reduce="min", window=1)
            log(most, max(series), reduce="max", window=1)

    def get_metrics(self) -> Any:
        """What RLlib aggregates."""
        return self.metrics.reduce()

    def observation_stats(self) -> Any:
        """RLlib's running statistics of observations, or None without a filter."""
        for connector in self._env_to_module.connectors:
            if type(connector).__name__ == "MeanStdFilter":
                if connector._filters is None:
                    connector._init_new_filters()
                return connector._filters[None].running_stats
        return None


class _Sampling:
    """What all ways of sampling share: buffers, the observation filter, and how long it may stay as it is.

    Args:
        runner: Whose environments and network.
        steps: T.
        explores: Whether actions are drawn, or the likeliest.
    """

    def __init__(self, runner: FastRunner, steps: int, *, explores: bool) -> None:
        self.env, self.module, self.explores, self.name = runner.env, runner.module, explores, runner.env_name
        self.steps, self.scaling = steps, runner._scaling
        self.stats = runner.observation_stats()
        shape = self.env.single_observation_space.shape
        self.raws = np.empty((steps, runner.num_envs, *shape), np.float32)
        # From the global generator, whose state checkpoints keep.
        self.rng = np.random.default_rng(np.random.randint(2**31))
        self.rollout: Rollout

    def run(self) -> tuple[Rollout, list[tuple[float, int]]]:
        ended: list[tuple[float, int]] = []
        for begin, end in self._parts():
            ended += self.go(begin, end)
            if self.stats is not None:
                push(self.stats, self.raws[begin:end].reshape(-1, self.raws.shape[-1]))
        rollout = self.rollout
        if not np.isfinite(rollout.rewards).all():
            raise EnvironmentFaultError(
                f"reward of {self.name}: got NaN or an infinite one; expected finite numbers. The last checkpoint is "
                "kept; mend the environment and start the job again to go on from it."
            )
        rollout.truncated &= ~rollout.terminated
        rollout.following[:] = self.filtered(self.env.observations)
        if rollout.truncated.any():
            cut = rollout.last_observations[rollout.truncated]
            rollout.last_observations[rollout.truncated] = self.filtered(cut)
        return rollout, ended

    def go(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Steps `begin` to `end`, with one state of the filter."""
        raise NotImplementedError

    def _parts(self) -> Iterator[tuple[int, int]]:
        """Spans of steps in which the filter stays as it is: never more than it has seen before."""
        begin = 0
        while begin < self.steps:
            seen = self.steps if self.stats is None else int(self.stats.num_pushes) // self.env.num_envs
            end = min(self.steps, begin + max(1, seen))
            yield begin, end
            begin = end

    def filter_numbers(self) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """Mean and deviation (O,), and the bound, of what the network sees."""
        size = int(np.prod(self.env.single_observation_space.shape))
        if self.stats is None:
            return np.zeros(size, np.float32), np.ones(size, np.float32), float(np.inf)
        deviation = (self.stats.std + _SMALL).astype(np.float32)
        return self.stats.mean.astype(np.float32), deviation, _CLIP

    def filtered(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Observations as the network sees them."""
        if self.stats is None:
            return raw
        mean, deviation, clip = self.filter_numbers()
        found: NDArray[np.float32] = np.clip((raw - mean) / deviation, -clip, clip).astype(np.float32)
        return found


class _CompiledSampling(_Sampling):
    """With the network compiled; and in compiled worlds without Python."""

    def __init__(self, runner: FastRunner, steps: int, *, explores: bool) -> None:
        super().__init__(runner, steps, explores=explores)
        flat = runner._flat
        assert flat is not None
        self.flat, self.parameters = flat, flat.gather()
        inputs = int(flat.table[0]["distribution_inputs"])
        shape = self.env.single_observation_space.shape
        self.rollout = Rollout.empty(steps, runner.num_envs, shape, flat.action_size, inputs)
        self.every = 1
        if flat.kind == STATE_DEPENDENT:
            self.every = int(self.module.model_config["sde_sample_freq"])
        self.noise = self._draw(runner.num_envs)

    def _draw(self, count: int) -> NDArray[np.float32]:
        """(T / every, N, …) for `act`."""
        shape = -(-self.steps // self.every), count, self.flat.noise_size
        is_choice = self.flat.kind == CATEGORICAL
        if not self.explores:
            return np.full(shape, -1.0 if is_choice else 0.0, np.float32)
        if is_choice:
            return self.rng.random(shape, np.float32)
        return self.rng.standard_normal(shape, np.float32)

    def go(self, begin: int, end: int) -> list[tuple[float, int]]:
        if isinstance(self.env, RoboschoolVectorEnv) and self.env.native is not None:
            return self._go_compiled(begin, end)
        return list(self._go_in_python(begin, end))

    def _go_compiled(self, begin: int, end: int) -> list[tuple[float, int]]:
        env, one = self.env, self.rollout
        shape = one.rewards.shape
        if not hasattr(self, "returns"):
            self.returns, self.lengths = np.empty(shape), np.zeros(shape, np.int64)
        filtered = self.filter_numbers()
        calls = [functools.partial(self._collect, part, filtered, begin, end) for part in env.slices]
        in_threads(calls)
        has_ended = one.terminated[begin:end] | one.truncated[begin:end]
        returns, lengths = self.returns[begin:end][has_ended], self.lengths[begin:end][has_ended]
        return list(zip(returns.tolist(), lengths.tolist(), strict=True))

    def _collect(self, part: slice, filtered: Any, begin: int, end: int) -> None:
        env, one = self.env, self.rollout
        buffers = (
            *(self.raws, one.observations, one.actions, one.logp, one.inputs, one.rewards),
            *(one.terminated, one.truncated, one.last_observations, self.returns, self.lengths),
        )
        collect(
            self.flat.table[0],
            self.parameters,
            filtered,
            self.scaling,
            env.native.worlds,
            (env.observations, env.last_observations),
            buffers,
            self.noise,
            self.every,
            (part.start, part.stop),
            (begin, end),
            env.max_steps,
        )

    def _go_in_python(self, begin: int, end: int) -> Iterator[tuple[float, int]]:
        env, one, flat = self.env, self.rollout, self.flat
        scratch, (mean, deviation, clip) = flat.scratch(env.num_envs), self.filter_numbers()
        moves = np.empty_like(one.actions[0])
        is_choice = flat.kind == CATEGORICAL
        for t in range(begin, end):
            self.raws[t] = env.observations
            normalize(env.observations, mean, deviation, clip, one.observations[t])
            drawn = self.noise[t // self.every]
            act(
                flat.table[0],
                self.parameters,
                one.observations[t],
                drawn,
                scratch,
                one.actions[t],
                one.logp[t],
                one.inputs[t],
            )
            if is_choice:
                env.advance(one.actions[t, :, 0].astype(np.int64))
            else:
                to_environment(one.actions[t], *self.scaling, moves)
                env.advance(moves)
            yield from record_step(one, env, t)


class _TorchSampling(_Sampling):
    """With the network as it is, on a batch of all environments."""

    def __init__(self, runner: FastRunner, steps: int, *, explores: bool) -> None:
        super().__init__(runner, steps, explores=explores)
        self._began = False

    def go(self, begin: int, end: int) -> list[tuple[float, int]]:
        ended: list[tuple[float, int]] = []
        for t in range(begin, end):
            self.raws[t] = self.env.observations
            seen = self.filtered(self.env.observations)
            actions, logp, inputs = self._act(seen)
            if not self._began:
                self._began = True
                shape = self.env.single_observation_space.shape
                width = int(np.prod(actions.shape[1:]))
                self.rollout = Rollout.empty(self.steps, self.env.num_envs, shape, width, inputs.shape[1])
            one = self.rollout
            one.observations[t], one.logp[t], one.inputs[t] = seen, logp, inputs
            one.actions[t] = actions.reshape(one.actions[t].shape)
            self.env.advance(self._to_environment(actions))
            ended += record_step(one, self.env, t)
        return ended

    def _act(self, seen: NDArray[np.float32]) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        module = self.module
        with torch.inference_mode():
            batch = {Columns.OBS: torch.from_numpy(seen)}
            found = module.forward_exploration(batch) if self.explores else module.forward_inference(batch)
            inputs = found[Columns.ACTION_DIST_INPUTS]
            distribution = module.get_exploration_action_dist_cls().from_logits(inputs)
            if not self.explores:
                distribution = distribution.to_deterministic()
            actions = found[Columns.ACTIONS] if Columns.ACTIONS in found else distribution.sample()
            logp = found.get(Columns.ACTION_LOGP)
            if logp is None:
                logp = distribution.logp(actions) if self.explores else torch.zeros(len(seen))
        return actions.numpy(), logp.numpy(), inputs.numpy()

    def _to_environment(self, actions: NDArray[Any]) -> NDArray[Any]:
        if actions.dtype.kind in "iu":
            return actions
        moves = np.empty_like(actions)
        to_environment(actions, *self.scaling, moves)
        return moves


def record_step(rollout: Rollout, env: Any, t: int) -> list[tuple[float, int]]:
    """Notes what step `t` of all environments gave; return and length of each episode that it ended."""
    rollout.rewards[t], rollout.terminated[t], rollout.truncated[t] = env.rewards, env.terminated, env.truncated
    has_ended = env.terminated | env.truncated
    if not has_ended.any():
        return []
    rollout.last_observations[t, has_ended] = env.last_observations[has_ended]
    return list(zip(env.returns[has_ended].tolist(), env.lengths[has_ended].tolist(), strict=True))


def push(stats: Any, raw: NDArray[np.float32]) -> None:
    """Adds (B, O) observations to RLlib's RunningStat, and to what it tells other runners.

    Source: Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance.
    """
    count, mean = len(raw), raw.mean(axis=0, dtype=np.float64)
    squares = np.square(raw - mean).sum(axis=0)
    for suffix in ("", "_delta"):
        before = getattr(stats, f"num_pushes{suffix}")
        total = before + count
        old = getattr(stats, f"mean{suffix}_array")
        sums = getattr(stats, f"sum_sq_diff{suffix}_array")
        away = mean - old
        sums += squares + away * away * (before * count / total)
        old += away * (count / total)
        setattr(stats, f"num_pushes{suffix}", total)


def _scaling(space: gymnasium.Space[Any], config: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Lower bound and half the range (A,) of actions that a policy of ±1 is scaled to; a range of 0 scales nothing."""
    if not isinstance(space, gymnasium.spaces.Box):
        return np.zeros(1, np.float32), np.zeros(1, np.float32)
    low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
    if config.normalize_actions and space.is_bounded("both"):
        return low, np.asarray((high - low) / 2, np.float32)
    return np.zeros_like(low), np.zeros_like(low)

"""Collects rollouts: in compiled worlds, in Python environments with a compiled network, or with PyTorch's network."""

from __future__ import annotations

import abc
import functools
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.utils.filter import RunningStat

from envs.roboschool.vector_env import RoboschoolVectorEnv, in_threads
from runtime.environments.spec import EnvironmentFaultError
from runtime.policies.rllib_filter import leave_mask
from runtime.ppo.compiled.network_kernels import CATEGORICAL, STATE_DEPENDENT, sample_actions
from runtime.ppo.compiled.rollout_kernels import collect_rollout, list_buffers, normalize_observations, scale_actions
from runtime.ppo.rollout import Rollout

# Low, high and half range (A,) of `scale_actions`.
ActionRange = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_CLIP = 10.0  # of normalized observations, as RLlib's MeanStdFilter
_SMALL = 1e-8  # added to the deviation, as RLlib's MeanStdFilter


class RolloutCollector(abc.ABC):
    """Collects one rollout; subclasses differ in what runs the network and the environments.

    The statistics of the observation filter are frozen for spans of steps, and updated between them.

    Args:
        runner: Env runner with the environments, the network and the filter.
        steps: T.
        explores: Whether actions are sampled; else they are the most likely ones.
    """

    def __init__(self, runner: Any, steps: int, *, explores: bool) -> None:
        self.env = runner.env
        self.module = runner.module
        self.explores = explores
        self.name = runner.env_name
        self.steps = steps
        self.action_range: ActionRange = runner.action_range
        self.stats = runner.observation_stats()
        self.raw_observations: NDArray[np.float32] = np.empty((0, 0), np.float32)
        if self.stats is not None:
            shape = self.env.single_observation_space.shape
            self.raw_observations = np.empty((steps, runner.num_envs, *shape), np.float32)
        # Seeded from PyTorch's generator, whose state checkpoints keep; some environments seed NumPy's global one.
        self.rng = np.random.default_rng(int(torch.randint(2**31, ())))
        self.rollout: Rollout

    def run(self) -> tuple[Rollout, list[tuple[float, int]]]:
        """Collects the rollout.

        Returns:
            The rollout, and return and length of each episode that ended in it.

        Raises:
            EnvironmentFaultError: A reward is not a finite number.
        """
        episodes: list[tuple[float, int]] = []
        for begin, end in self._spans():
            episodes += self.collect(begin, end)
            if self.stats is not None:
                raw = self.raw_observations[begin:end]
                update_statistics(self.stats, raw.reshape(-1, *raw.shape[2:]))
        rollout = self.rollout
        if not np.isfinite(rollout.rewards).all():
            raise EnvironmentFaultError(
                f"reward of {self.name}: got NaN or an infinite one; expected finite numbers. The last checkpoint is "
                "kept; fix the environment and start the job again to resume from it."
            )
        rollout.truncated &= ~rollout.terminated
        rollout.next_observations[:] = self.normalize(self.env.observations)
        if rollout.truncated.any():
            final = rollout.final_observations[rollout.truncated]
            rollout.final_observations[rollout.truncated] = self.normalize(final)
        return rollout, episodes

    @abc.abstractmethod
    def collect(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Collects steps `begin` to `end` with frozen statistics; returns return and length of episodes that ended."""

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Spans of steps with frozen statistics, none longer than what the statistics were computed from."""
        begin = 0
        while begin < self.steps:
            seen = self.steps if self.stats is None else int(self.stats.num_pushes) // self.env.num_envs
            end = min(self.steps, begin + max(1, seen))
            yield begin, end
            begin = end

    def normalization(self) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
        """Mean (O,), deviation (O,) and clip of `normalize_observations`, which change nothing without a filter."""
        size = int(np.prod(self.env.single_observation_space.shape))
        if self.stats is None:
            return np.zeros(size, np.float32), np.ones(size, np.float32), float(np.inf)
        stats = self.stats
        if not stats.num_pushes:  # before the first step only the initial observations are known
            stats = RunningStat(stats.shape)
            update_statistics(stats, self.env.observations)
        space = self.env.single_observation_space
        mean = leave_mask(stats.mean.astype(np.float32), space, 0.0)
        return mean, leave_mask((stats.std + _SMALL).astype(np.float32), space, 1.0), _CLIP

    def normalize(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Normalizes observations as the network sees them."""
        if self.stats is None:
            return observations
        mean, deviation, clip = self.normalization()
        normalized: NDArray[np.float32] = np.clip((observations - mean) / deviation, -clip, clip).astype(np.float32)
        return normalized


class CompiledCollector(RolloutCollector):
    """Runs the network compiled; Roboschool's compiled worlds are stepped without Python, other environments by it."""

    def __init__(self, runner: Any, steps: int, *, explores: bool) -> None:
        super().__init__(runner, steps, explores=explores)
        flat = runner.flat
        assert flat is not None
        self.flat = flat
        self.parameters = flat.gather()
        distribution_size = int(flat.table[0]["distribution_size"])
        shape = self.env.single_observation_space.shape
        self.rollout = Rollout.empty(steps, runner.num_envs, shape, flat.action_size, distribution_size)
        self.noise_every = 1
        if flat.kind == STATE_DEPENDENT:
            self.noise_every = int(self.module.model_config["sde_sample_freq"])
        self.noise = self._draw_noise(runner.num_envs)

    def _draw_noise(self, num_envs: int) -> NDArray[np.float32]:
        """Draws the (T / noise_every, N, …) noise that `sample_actions` takes."""
        shape = -(-self.steps // self.noise_every), num_envs, self.flat.noise_size
        is_discrete = self.flat.kind == CATEGORICAL
        if not self.explores:
            return np.full(shape, -1.0 if is_discrete else 0.0, np.float32)
        if is_discrete:
            return self.rng.random(shape, np.float32)
        return self.rng.standard_normal(shape, np.float32)

    def collect(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Collects steps `begin` to `end` with frozen statistics; returns return and length of episodes that ended."""
        if isinstance(self.env, RoboschoolVectorEnv) and self.env.native is not None:
            return self._collect_compiled(begin, end)
        return list(self._collect_in_python(begin, end))

    def _collect_compiled(self, begin: int, end: int) -> list[tuple[float, int]]:
        env, rollout = self.env, self.rollout
        shape = rollout.rewards.shape
        if not hasattr(self, "returns"):
            self.returns = np.empty(shape)
            self.lengths = np.zeros(shape, np.int64)
        normalization = self.normalization()
        calls = [functools.partial(self._collect_part, part, normalization, begin, end) for part in env.slices]
        in_threads(calls)
        has_ended = rollout.terminated[begin:end] | rollout.truncated[begin:end]
        returns, lengths = self.returns[begin:end][has_ended], self.lengths[begin:end][has_ended]
        return list(zip(returns.tolist(), lengths.tolist(), strict=True))

    def _collect_part(self, part: slice, normalization: Any, begin: int, end: int) -> None:
        """Collects from some of the worlds, on the calling thread."""
        env, rollout = self.env, self.rollout
        raw_observations = rollout.observations if self.stats is None else self.raw_observations
        buffers = list_buffers(rollout, raw_observations, self.returns, self.lengths)
        collect_rollout(
            self.flat.table[0],
            self.parameters,
            normalization,
            self.action_range,
            env.native.worlds,
            (env.observations, env.final_observations),
            buffers,
            self.noise,
            self.noise_every,
            (part.start, part.stop),
            (begin, end),
            env.max_steps,
        )

    def _collect_in_python(self, begin: int, end: int) -> Iterator[tuple[float, int]]:
        env, rollout, flat = self.env, self.rollout, self.flat
        activations = flat.activations(env.num_envs)
        (mean, deviation, clip) = self.normalization()
        scaled = np.empty_like(rollout.actions[0])
        is_discrete = flat.kind == CATEGORICAL
        for t in range(begin, end):
            if self.stats is not None:
                self.raw_observations[t] = env.observations
            normalize_observations(env.observations, mean, deviation, clip, rollout.observations[t])
            sample_actions(
                flat.table[0],
                self.parameters,
                rollout.observations[t],
                self.noise[t // self.noise_every],
                activations,
                rollout.actions[t],
                rollout.log_probs[t],
                rollout.action_distribution_inputs[t],
            )
            if is_discrete:
                env.advance(rollout.actions[t, :, 0].astype(np.int64))
            else:
                scale_actions(rollout.actions[t], *self.action_range, scaled)
                env.advance(scaled)
            yield from record_step(rollout, env, t)


class TorchCollector(RolloutCollector):
    """Runs the network by PyTorch, on a batch of all environments."""

    def __init__(self, runner: Any, steps: int, *, explores: bool) -> None:
        super().__init__(runner, steps, explores=explores)
        self._has_buffers = False

    def collect(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Collects steps `begin` to `end` with frozen statistics; returns return and length of episodes that ended."""
        episodes: list[tuple[float, int]] = []
        for t in range(begin, end):
            if self.stats is not None:
                self.raw_observations[t] = self.env.observations
            observations = self.normalize(self.env.observations)
            actions, log_probs, distribution_inputs = self._sample_actions(observations)
            if not self._has_buffers:
                self._has_buffers = True
                shape = self.env.single_observation_space.shape
                width = int(np.prod(actions.shape[1:]))
                num_envs = self.env.num_envs
                distribution_size = distribution_inputs.shape[1]
                self.rollout = Rollout.empty(self.steps, num_envs, shape, width, distribution_size)
            rollout = self.rollout
            rollout.observations[t], rollout.log_probs[t] = observations, log_probs
            rollout.action_distribution_inputs[t] = distribution_inputs
            rollout.actions[t] = actions.reshape(rollout.actions[t].shape)
            self.env.advance(self._scale_actions(actions))
            episodes += record_step(rollout, self.env, t)
        return episodes

    def _sample_actions(
        self, observations: NDArray[np.float32]
    ) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.float32]]:
        module = self.module
        with torch.inference_mode():
            batch = {Columns.OBS: torch.from_numpy(observations)}
            outputs = module.forward_exploration(batch) if self.explores else module.forward_inference(batch)
            distribution_inputs = outputs[Columns.ACTION_DIST_INPUTS]
            distribution = module.get_exploration_action_dist_cls().from_logits(distribution_inputs)
            if not self.explores:
                distribution = distribution.to_deterministic()
            actions = outputs[Columns.ACTIONS] if Columns.ACTIONS in outputs else distribution.sample()
            log_probs = outputs.get(Columns.ACTION_LOGP)
            if log_probs is None:
                log_probs = distribution.logp(actions) if self.explores else torch.zeros(len(observations))
        return actions.numpy(), log_probs.numpy(), distribution_inputs.numpy()

    def _scale_actions(self, actions: NDArray[Any]) -> NDArray[Any]:
        if actions.dtype.kind in "iu":
            return actions
        scaled = np.empty_like(actions)
        scale_actions(actions, *self.action_range, scaled)
        return scaled


def record_step(rollout: Rollout, env: Any, t: int) -> list[tuple[float, int]]:
    """Records the results of step `t` of all environments; returns return and length of episodes that it ended."""
    rollout.rewards[t], rollout.terminated[t], rollout.truncated[t] = env.rewards, env.terminated, env.truncated
    has_ended = env.terminated | env.truncated
    if not has_ended.any():
        return []
    rollout.final_observations[t, has_ended] = env.final_observations[has_ended]
    return list(zip(env.returns[has_ended].tolist(), env.lengths[has_ended].tolist(), strict=True))


def update_statistics(stats: Any, observations: NDArray[np.float32]) -> None:
    """Adds (B, O) raw observations to RLlib's RunningStat, and to the part of it that other runners get.

    Source: Chan, Golub, LeVeque 1983, Algorithms for computing the sample variance.
    """
    count = len(observations)
    mean = observations.mean(axis=0, dtype=np.float64)
    squares = np.square(observations - mean).sum(axis=0)
    for suffix in ("", "_delta"):
        before = getattr(stats, f"num_pushes{suffix}")
        total = before + count
        old_mean = getattr(stats, f"mean{suffix}_array")
        old_squares = getattr(stats, f"sum_sq_diff{suffix}_array")
        shift = mean - old_mean
        old_squares += squares + shift * shift * (before * count / total)
        old_mean += shift * (count / total)
        setattr(stats, f"num_pushes{suffix}", total)


def action_range_of(space: gymnasium.Space[Any], config: Any) -> ActionRange:
    """Low, high and half range (A,) of `scale_actions`, by RLlib's `normalize_actions` and `clip_actions`."""
    size = int(np.prod(space.shape or (1,)))
    low, high = np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)
    half_range = np.zeros(size, np.float32)
    if isinstance(space, gymnasium.spaces.Box):
        is_scaled = config.normalize_actions and space.is_bounded("both")
        if is_scaled or (config.clip_actions and not config.normalize_actions):
            low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
        if is_scaled:
            half_range = np.asarray((high - low) / 2, np.float32)
    return low, high, half_range

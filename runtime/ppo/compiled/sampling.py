"""Ways to sample a rollout: in compiled worlds, in Python's with the network compiled, and with PyTorch's network."""

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
from runtime.ppo.compiled.network_kernels import CATEGORICAL, STATE_DEPENDENT, act
from runtime.ppo.compiled.sampling_kernels import collect, normalize, to_environment
from runtime.ppo.rollout import Rollout

# Bounds and half the range (A,) of `to_environment`.
Scaling = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_CLIP = 10.0  # of normalised observations, as RLlib's MeanStdFilter
_SMALL = 1e-8


class Sampling(abc.ABC):
    """What all ways of sampling share: buffers, the observation filter, and how long it may stay as it is.

    Args:
        runner: Whose environments and network.
        steps: T.
        explores: Whether actions are drawn, or the likeliest.
    """

    def __init__(self, runner: Any, steps: int, *, explores: bool) -> None:
        self.env, self.module, self.explores, self.name = runner.env, runner.module, explores, runner.env_name
        self.steps = steps
        self.scaling: Scaling = runner.scaling
        self.stats = runner.observation_stats()
        self.raws: NDArray[np.float32] = np.empty((0, 0), np.float32)
        if self.stats is not None:
            shape = self.env.single_observation_space.shape
            self.raws = np.empty((steps, runner.num_envs, *shape), np.float32)
        # From PyTorch's generator, whose state checkpoints keep; NumPy's own is at times seeded by environments.
        self.rng = np.random.default_rng(int(torch.randint(2**31, ())))
        self.rollout: Rollout

    def run(self) -> tuple[Rollout, list[tuple[float, int]]]:
        """The rollout, and return and length of each episode that ended in it.

        Raises:
            EnvironmentFaultError: A reward is not a finite number.
        """
        ended: list[tuple[float, int]] = []
        for begin, end in self._parts():
            ended += self.go(begin, end)
            if self.stats is not None:
                push(self.stats, self.raws[begin:end].reshape(-1, *self.raws.shape[2:]))
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

    @abc.abstractmethod
    def go(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Steps `begin` to `end`, with one state of the filter."""

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
        stats = self.stats
        if not stats.num_pushes:  # before the first step, what it starts from is all that is known
            stats = RunningStat(stats.shape)
            push(stats, self.env.observations)
        return stats.mean.astype(np.float32), (stats.std + _SMALL).astype(np.float32), _CLIP

    def filtered(self, raw: NDArray[np.float32]) -> NDArray[np.float32]:
        """Observations as the network sees them."""
        if self.stats is None:
            return raw
        mean, deviation, clip = self.filter_numbers()
        found: NDArray[np.float32] = np.clip((raw - mean) / deviation, -clip, clip).astype(np.float32)
        return found


class CompiledSampling(Sampling):
    """With the network compiled; and in compiled worlds without Python."""

    def __init__(self, runner: Any, steps: int, *, explores: bool) -> None:
        super().__init__(runner, steps, explores=explores)
        flat = runner.flat
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
        """Steps `begin` to `end`, with one state of the filter."""
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
        raws = one.observations if self.stats is None else self.raws
        buffers = (
            *(raws, one.observations, one.actions, one.logp, one.inputs, one.rewards),
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
            if self.stats is not None:
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


class TorchSampling(Sampling):
    """With the network as it is, on a batch of all environments."""

    def __init__(self, runner: Any, steps: int, *, explores: bool) -> None:
        super().__init__(runner, steps, explores=explores)
        self._began = False

    def go(self, begin: int, end: int) -> list[tuple[float, int]]:
        """Steps `begin` to `end`, with one state of the filter."""
        ended: list[tuple[float, int]] = []
        for t in range(begin, end):
            if self.stats is not None:
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


def scaling_of(space: gymnasium.Space[Any], config: Any) -> Scaling:
    """Bounds and half the range (A,) of `to_environment`, as RLlib's settings ask for."""
    size = int(np.prod(space.shape or (1,)))
    low, high = np.full(size, -np.inf, np.float32), np.full(size, np.inf, np.float32)
    half = np.zeros(size, np.float32)
    if isinstance(space, gymnasium.spaces.Box):
        is_scaled = config.normalize_actions and space.is_bounded("both")
        if is_scaled or (config.clip_actions and not config.normalize_actions):
            low, high = (np.asarray(bound, np.float32).reshape(-1) for bound in (space.low, space.high))
        if is_scaled:
            half = np.asarray((high - low) / 2, np.float32)
    return low, high, half

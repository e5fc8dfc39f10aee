"""Gymnasium vector environment: steps many copies of a robot in one call, without the GIL, on several threads."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from envs.roboschool.registration import ROBOSCHOOL_IDS, robot_of
from envs.roboschool.robots import COMPATS, Robot, build_robot, check_compat

_MOST_THREADS = 16  # Bullet numbers at most 64 threads, and never reuses a number


class RoboschoolVectorEnv(VectorEnv[NDArray[np.float32], NDArray[np.float32], NDArray[Any]]):
    """N robots of one kind, each in a world of its own (about 29 MB), new episodes begun in the step that ends one.

    Where compiled code cannot step them (see `native.native_fallback_reason`), Python steps them one after another.

    Args:
        robot: Its name in the env id.
        num_envs: N.
        compat: As in `RoboschoolEnv`.
        max_episode_steps: Step limit of an episode; Roboschool's own limit if None.
        threads: Number of threads that step the worlds.

    Raises:
        ValueError: `compat` or `render_mode` has another value.
    """

    # Measured: 29 MB for each of Bullet's DIRECT clients, nearly all of it buffers of fixed size.
    bytes_per_env = 29e6
    native: Any = None
    _robots: Sequence[Robot] = ()
    metadata = {"render_modes": [], "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012  # Gymnasium's way

    @staticmethod
    def can_make(env_id: str, settings: Mapping[str, Any]) -> bool:
        """Whether `make` knows an environment with such keyword arguments."""
        return env_id in ROBOSCHOOL_IDS and set(settings) <= {"compat"}

    @staticmethod
    def is_compiled(env_id: str, settings: Mapping[str, Any]) -> bool:
        """Whether compiled code steps an environment that `make` knows."""
        from envs.roboschool.native import native_fallback_reason

        compat = settings.get("compat", COMPATS[0])
        return compat in COMPATS and native_fallback_reason(robot_of(env_id), as_port=compat == "bullet") is None

    @classmethod
    def make(
        cls, env_id: str, num_envs: int, settings: Mapping[str, Any], *, horizon: int | None, threads: int
    ) -> RoboschoolVectorEnv:
        """Makes N copies of an environment by its id.

        Args:
            env_id: One of ROBOSCHOOL_IDS.
            num_envs: N.
            settings: Keyword arguments of the environment.
            horizon: Steps after which episodes are truncated, where that is earlier than Roboschool's own limit.
            threads: Threads that step the copies.
        """
        limit = ROBOSCHOOL_IDS[env_id].max_episode_steps
        most_steps = limit if horizon is None else min(limit, horizon)
        return cls(robot_of(env_id), num_envs, **settings, max_episode_steps=most_steps, threads=threads)

    def __init__(
        self,
        robot: str,
        num_envs: int = 1,
        *,
        compat: str = "roboschool",
        max_episode_steps: int | None = None,
        threads: int = 1,
        render_mode: str | None = None,
    ) -> None:
        from envs.roboschool.native import NativeWorlds, native_fallback_reason

        as_port = check_compat(compat) == "bullet"
        if render_mode is not None:
            raise ValueError(f"render_mode: got {render_mode!r}; expected None: frames come from a single env.")
        limit = ROBOSCHOOL_IDS[f"Roboschool{robot}-v1"].max_episode_steps
        self.max_steps = limit if max_episode_steps is None else max_episode_steps
        self.num_envs = num_envs
        self.slices = list(_slices(num_envs, threads))
        if native_fallback_reason(robot, as_port=as_port) is None:
            self.native = NativeWorlds(robot, num_envs, as_port=as_port)
            sizes = self.native.observation_size, self.native.action_size
        else:
            self._robots = [build_robot(robot, as_port=as_port) for _ in range(num_envs)]
            sizes = self._robots[0].observation_size, self._robots[0].action_size
        self.single_observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (sizes[0],), np.float32)
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (sizes[1],), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observations = np.zeros((num_envs, sizes[0]), np.float32)
        self.final_observations = np.zeros_like(self.observations)
        self.rewards = np.zeros(num_envs, np.float32)
        self.terminated = np.zeros(num_envs, bool)
        self.truncated = np.zeros(num_envs, bool)
        self.returns = np.zeros(num_envs)
        self.lengths = np.zeros(num_envs, np.int64)
        self._sums = np.zeros(num_envs)
        self._steps = np.zeros(num_envs, np.int64)
        self._rngs = [np.random.default_rng() for _ in range(num_envs)]

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begins an episode in every world; world i draws from seed + i, or from its own seed of a list.

        Raises:
            ValueError: The list does not hold N seeds.
        """
        if seed is not None:
            seeds = list(seed) if isinstance(seed, list) else [int(seed) + i for i in range(self.num_envs)]
            if len(seeds) != self.num_envs:
                raise ValueError(f"seed: got {len(seeds)} seeds; expected one, or {self.num_envs}.")
            if self.native is not None:
                self.native.seed(seeds)
            self._rngs = [np.random.default_rng(one) for one in seeds]
        self.begin(is_seeded=seed is not None)
        return self.observations.copy(), {}

    def begin(self, *, is_seeded: bool) -> None:
        """Begins an episode in every world, into `observations`."""
        if self.native is not None:
            from envs.roboschool import kernels

            self.native.require_open()
            kernels.reset_all(self.native.worlds, self.observations)
            return
        self._steps[:] = 0
        self._sums[:] = 0.0
        for i, (robot, rng) in enumerate(zip(self._robots, self._rngs, strict=True)):
            self.observations[i] = robot.reset(rng, is_seeded=is_seeded)

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps every world; an ended episode's last observation is in `infos["final_obs"]`.

        Raises:
            ValueError: There are not N actions of the robot's size.
        """
        self.advance(np.ascontiguousarray(actions, np.float32).reshape(self.action_space.shape or ()))
        infos: dict[str, Any] = {}
        ended = self.terminated | self.truncated
        if ended.any():
            final = np.full(self.num_envs, None, object)
            for i in np.flatnonzero(ended):
                final[i] = self.final_observations[i].copy()
            infos = {"final_obs": final, "_final_obs": ended, "final_info": {}, "_final_info": ended}
        return self.observations.copy(), self.rewards.copy(), self.terminated.copy(), self.truncated.copy(), infos

    def advance(self, actions: NDArray[np.float32]) -> None:
        """Steps every world into this object's own arrays, which the next step overwrites.

        Args:
            actions: (N, A) contiguous float32; not checked.
        """
        if self.native is None:
            self._advance_in_python(actions)
        else:
            self.native.require_open()
            in_threads([functools.partial(self._advance_slice, one, actions) for one in self.slices])

    def _advance_slice(self, one: slice, actions: NDArray[np.float32]) -> None:
        from envs.roboschool import kernels

        kernels.advance(
            self.native.worlds[one],
            actions[one],
            self.observations[one],
            self.final_observations[one],
            self.rewards[one],
            self.terminated[one],
            self.truncated[one],
            self.returns[one],
            self.lengths[one],
            self.max_steps,
        )

    def _advance_in_python(self, actions: NDArray[np.float32]) -> None:
        for i, (robot, rng) in enumerate(zip(self._robots, self._rngs, strict=True)):
            observation, reward, self.terminated[i] = robot.step(actions[i], rng)
            self.rewards[i] = reward
            self._sums[i] += reward
            self._steps[i] += 1
            self.truncated[i] = self._steps[i] >= self.max_steps
            if self.terminated[i] or self.truncated[i]:
                self.final_observations[i] = observation
                self.returns[i], self.lengths[i] = self._sums[i], self._steps[i]
                observation = robot.reset(rng, is_seeded=False)
                self._sums[i] = 0.0
                self._steps[i] = 0
            self.observations[i] = observation

    def close_extras(self, **kwargs: Any) -> None:
        """Frees the worlds; called by Gymnasium's `close`."""
        if self.native is not None:
            self.native.close()
        for robot in self._robots:
            robot.close()


def _slices(count: int, threads: int) -> Iterator[slice]:
    """Splits `count` worlds into a slice for each thread."""
    parts = max(1, min(threads, count, _MOST_THREADS))
    for begin, end in itertools.pairwise(np.linspace(0, count, parts + 1).astype(int).tolist()):
        yield slice(begin, end)


def in_threads(calls: Sequence[Callable[[], None]]) -> None:
    """Runs calls that release the GIL, each on its own thread; the first one on the caller's."""
    waiting = [_threads().submit(call) for call in calls[1:]]
    try:
        calls[0]()
    finally:
        for one in waiting:
            one.result()


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Returns the process's thread pool, created once because Bullet never reuses a thread's number."""
    return ThreadPoolExecutor(max_workers=min(_MOST_THREADS, os.cpu_count() or 1), thread_name_prefix="roboschool")


# A forked child inherits the pool without its threads.
os.register_at_fork(after_in_child=_threads.cache_clear)

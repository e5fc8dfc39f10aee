"""Provides gym's API of before 0.26 for new environments: `reset() -> obs`, a 4-tuple `step`, `wrappers.Monitor`."""

from __future__ import annotations

import hashlib
import importlib
import json
import secrets
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import gym
import gymnasium
import numpy as np

import envs  # noqa: F401  # registers the Roboschool ids
from runtime.compat.numpy_2020 import add_names
from runtime.container.environment_variables import in_users_script
from runtime.environments.gymnasium_ids import is_current, newest_version
from runtime.environments.old_gym import to_old_space
from runtime.outputs.video import Mp4Writer

# Steps after which Monitor ends an episode whose environment has no limit. Ray 0.8 sampled its actions and left any
# cycle in the end; `compute_action` is deterministic here, and never does.
LONGEST_EPISODE = 10_000


class OldEnv(gym.Env):  # type: ignore[misc]  # gym ships no types
    """An environment of Gymnasium or gym behind gym's API before 0.26.

    Attributes:
        gymnasium_env: The Gymnasium environment inside, or None; our trainer takes that one.
    """

    def __init__(self, env: Any, *, max_steps: int | None = None) -> None:
        self.env = env
        self._max_steps = max_steps
        self._steps = 0
        self.gymnasium_env = env if isinstance(env, gymnasium.Env) else None
        self.observation_space = to_old_space(env.observation_space)
        self.action_space = to_old_space(env.action_space)
        self.metadata = getattr(env, "metadata", {})
        self.spec = getattr(env, "spec", None)
        self._seed: int | None = None

    def seed(self, seed: int | None = None) -> list[int | None]:
        """Seeds the next reset."""
        self._seed = seed
        return [seed]

    def reset(self, **kwargs: Any) -> Any:
        """Starts an episode; returns the observation alone."""
        self._steps = 0
        if self.gymnasium_env is not None:
            seed = self._seed
            self._seed = None
            return self.gymnasium_env.reset(seed=seed)[0]
        first = self.env.reset(**kwargs)
        return first[0] if isinstance(first, tuple) and len(first) == 2 else first

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Steps the environment; returns observation, reward, done and info."""
        result = self.env.step(action)
        self._steps += 1
        if len(result) == 5:
            observation, reward, terminated, truncated, info = result
        else:
            observation, reward, terminated, info = result
            truncated = False
        truncated = truncated or (self._max_steps is not None and self._steps >= self._max_steps)
        if truncated and not terminated:
            info = {**info, "TimeLimit.truncated": True}
        return observation, reward, bool(terminated or truncated), info

    def render(self, mode: str = "human", **kwargs: Any) -> Any:
        """Returns a frame if the environment renders one; never opens a window."""
        if self.gymnasium_env is not None:
            self.gymnasium_env.unwrapped.render_mode = "rgb_array"
            return self.gymnasium_env.render()
        return self.env.render(mode=mode, **kwargs)

    def close(self) -> None:
        """Frees the environment."""
        close = getattr(self.env, "close", None)
        if close is not None:
            close()


def make(env_id: str, **kwargs: Any) -> OldEnv:
    """Makes an environment by id: one of Gymnasium's or ours, or one that the script registered with gym."""
    env_id = find_newest(env_id)
    if env_id in gymnasium.registry:
        return OldEnv(gymnasium.make(env_id, disable_env_checker=True, **kwargs))
    found = gym.envs.registration.spec(env_id)
    entry = found.entry_point
    if isinstance(entry, str):
        module, _, name = entry.partition(":")
        entry = getattr(importlib.import_module(module), name)
    return OldEnv(entry(**{**found.kwargs, **kwargs}), max_steps=found.max_episode_steps)


def is_of_script(env_id: str) -> bool:
    """Whether the script has registered an id with gym, which Gymnasium does not know."""
    return env_id not in gymnasium.registry and env_id in gym.envs.registration.registry


def find_newest(env_id: str) -> str:
    """Returns the id's newest version where the one asked for no longer runs, with a line on stderr; else the id."""
    if is_current(env_id) or is_of_script(env_id):
        return env_id
    newest = newest_version(env_id)
    if newest == env_id or not is_current(newest):
        return env_id
    sys.stderr.write(f"smrl: gym.make: {env_id} no longer runs; {newest} is made, whose returns may differ\n")
    return newest


class ObservationWrapper(gym.Wrapper):  # type: ignore[misc]  # gym ships no types
    """gym.ObservationWrapper over the old calls."""

    def reset(self, **kwargs: Any) -> Any:
        """Starts an episode and returns the changed observation."""
        return self.observation(self.env.reset(**kwargs))

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Steps the environment and changes the observation."""
        observation, reward, done, info = self.env.step(action)
        return self.observation(observation), reward, done, info

    def observation(self, observation: Any) -> Any:
        """Changes an observation; subclasses override it."""
        return observation


class RewardWrapper(gym.Wrapper):  # type: ignore[misc]  # gym ships no types
    """gym.RewardWrapper over the old calls."""

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Steps the environment and changes the reward."""
        observation, reward, done, info = self.env.step(action)
        return observation, self.reward(reward), done, info

    def reward(self, reward: float) -> float:
        """Changes a reward; subclasses override it."""
        return reward


def patch(module: ModuleType) -> None:
    """Gives gym 0.26 the calls of 2020, and NumPy the names that environments of 2020 use."""
    for wrapper in (ObservationWrapper, RewardWrapper):
        setattr(module, wrapper.__name__, wrapper)
        setattr(gym.core, wrapper.__name__, wrapper)
    module.make = gym.envs.make = gym.envs.registration.make = make  # type: ignore[attr-defined]
    gym.wrappers.Monitor = Monitor
    gym.utils.seeding.np_random = _np_random
    gym.utils.seeding.hash_seed = _hash_seed
    if gym.spaces.Box.__init__ is not _init_box:
        gym.spaces.Box.__init__ = _init_box
        gym.envs.registration.EnvSpec.__init__ = _init_spec
    add_names()


_init_box_026 = gym.spaces.Box.__init__


def _init_box(self: Any, low: Any, high: Any, shape: Any = None, dtype: Any = np.float32, seed: Any = None) -> None:
    """gym.spaces.Box, whose infinite bounds of whole numbers are the type's largest: gym 0.26 refuses unsigned ones."""
    _init_box_026(self, _within_type(low, dtype), _within_type(high, dtype), shape, dtype, seed)


_init_spec_026 = gym.envs.registration.EnvSpec.__init__


def _init_spec(self: Any, id: str, entry_point: Any = None, *args: Any, **kwargs: Any) -> None:
    """gym.envs.registration.EnvSpec, whose entry point may be missing: environments of 2020 describe themselves so."""
    _init_spec_026(self, id, entry_point, *args, **kwargs)


def _within_type(bound: Any, dtype: Any) -> Any:
    """Returns a bound of a Box with the type's largest and smallest number in place of infinity."""
    if not np.issubdtype(dtype, np.integer) or not np.any(np.isinf(bound)):
        return bound
    kept = np.asarray(bound, float)
    limits = np.iinfo(dtype)
    within = np.where(np.isinf(kept), 0, kept).astype(dtype)
    within[np.isposinf(kept)] = limits.max
    within[np.isneginf(kept)] = limits.min
    return within if within.ndim else within.item()


def _np_random(seed: int | None = None) -> tuple[np.random.RandomState, int]:
    """Returns the generator that environments of 2020 call `randint` and `rand` on, and its seed, drawn if None."""
    drawn = secrets.randbits(32) if seed is None else seed
    return np.random.RandomState(drawn % 2**32), drawn


def _hash_seed(seed: int | None = None, max_bytes: int = 8) -> int:
    """Returns a whole number of so many bytes that depends on a seed, which environments of 2020 seed others with."""
    drawn = secrets.randbits(32) if seed is None else seed
    return int.from_bytes(hashlib.sha512(str(drawn).encode()).digest()[:max_bytes], "little")


class Monitor:
    """`gym.wrappers.Monitor`: records videos of episodes into a folder and notes their returns.

    There is no video of an environment whose metadata name no `rgb_array` mode, as in gym, nor of one without frames.
    An episode ends after `LONGEST_EPISODE` steps.

    Args:
        env: An environment with the old calls.
        directory: Folder of the mp4 files and `openaigym.episode_stats.json`.
        video_callable: Function from an episode's number to whether it is recorded; None records episodes whose number
            is a cube, False records none.
        force: Accepted; files of earlier runs stay beside the new ones.
        resume: Accepted without effect.
    """

    def __init__(
        self,
        env: Any,
        directory: str,
        video_callable: Callable[[int], bool] | bool | None = None,
        force: bool = False,
        resume: bool = False,
        **ignored: Any,
    ) -> None:
        self.env = env
        self._folder = Path(directory)
        self._folder.mkdir(parents=True, exist_ok=True)
        self._is_recorded = _is_cube if video_callable is None else video_callable or (lambda episode: False)
        self._rewards: list[float] = []
        self._lengths: list[int] = []
        self._writer: Mp4Writer | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.env, name)

    def reset(self, **kwargs: Any) -> Any:
        """Starts an episode, and its video where one is due."""
        self._end_video()
        observation = self.env.reset(**kwargs)
        number = len(self._rewards)
        self._rewards.append(0.0)
        self._lengths.append(0)
        if callable(self._is_recorded) and self._is_recorded(number) and _has_frames(self.env):
            fps = float((self.env.metadata or {}).get("render_fps") or 30)
            self._writer = Mp4Writer(self._folder / f"openaigym.video.0.video{number:06d}.mp4", fps=fps)
            self._add_frame()
        return observation

    def step(self, action: Any) -> tuple[Any, float, bool, dict[str, Any]]:
        """Steps, and records the frame."""
        observation, reward, done, info = self.env.step(action)
        self._rewards[-1] += float(reward)
        self._lengths[-1] += 1
        if not done and self._lengths[-1] >= LONGEST_EPISODE:
            sys.stderr.write(
                f"smrl: Monitor: an episode did not end, and counts as it is after {LONGEST_EPISODE} steps\n"
            )
            done = True
            info = {**info, "TimeLimit.truncated": True}
        self._add_frame()
        if done:
            self._end_video()
            self._write_stats()
        return observation, reward, done, info

    def close(self) -> None:
        """Ends the video and the environment."""
        self._end_video()
        self._write_stats()
        self.env.close()

    def _add_frame(self) -> None:
        if self._writer is None:
            return
        frame = self.env.render(mode="rgb_array")
        if frame is not None:  # a video without any is dropped
            self._writer.add(frame)

    def _end_video(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_stats(self) -> None:
        stats = {"episode_rewards": self._rewards, "episode_lengths": self._lengths}
        (self._folder / "openaigym.episode_stats.json").write_text(json.dumps(stats), encoding="utf-8")


def _has_frames(env: Any) -> bool:
    metadata = env.metadata or {}
    return "rgb_array" in (metadata.get("render_modes") or metadata.get("render.modes") or ())


def _is_cube(episode: int) -> bool:
    return round(episode ** (1 / 3)) ** 3 == episode if episode < 1000 else episode % 1000 == 0


if in_users_script():  # one of Ray's processes unpickles an OldEnv before anything has imported gym
    patch(gym)

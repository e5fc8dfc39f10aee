"""Plays a policy in an environment, and records the episode as a video."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.environments.spec import EnvSpec, make_env
from runtime.outputs.video import DEFAULT_FPS, Mp4Writer
from runtime.policies.acting import ActingPolicy

_PLAYBACK_FPS = 30


@dataclass(frozen=True)
class Episode:
    """How an episode went."""

    total_reward: float
    steps: int


def play(env: Any, policy: ActingPolicy, *, seed: int | None) -> Episode:
    """Plays one episode without recording it."""
    playing = _Playing(env, policy, seed)
    for _ in playing.frames(None):
        pass
    return Episode(playing.total_reward, playing.steps)


class Recorder:
    """Records videos of episodes of one environment, which it makes once.

    Attributes:
        why_not: Why there is no video: the environment gives no frames, or recording failed. None while all is well.

    Args:
        spec: The environment.
        why_not: What is known beforehand.
    """

    def __init__(self, spec: EnvSpec, *, why_not: str | None = None) -> None:
        self._env: Any = None
        self._spec = spec
        self.why_not = why_not

    def record(
        self, policy: ActingPolicy, path: Path, *, seed: int | None = None, longest_s: float = math.inf
    ) -> Episode | None:
        """Plays one episode and writes it to an mp4.

        Args:
            policy: Acts deterministically.
            path: Where the file appears once it is whole.
            seed: Of the environment's reset.
            longest_s: Seconds after which the video is cut; an episode of some environments never ends.

        Returns:
            How the episode went; None, with `why_not` set, where there is no video.
        """
        if self.why_not is not None:
            return None
        try:
            return self._record(policy, path, seed, longest_s)
        except Exception as error:  # any environment may fail in its own way; a job goes on without pictures
            self.why_not = f"{self._spec.name} cannot be recorded: {type(error).__name__}: {error}"
            return None

    def _record(self, policy: ActingPolicy, path: Path, seed: int | None, longest_s: float) -> Episode | None:
        if self._env is None:
            self._env = make_env(self._spec, render=True)
            self._env.reset()
            if not isinstance(self._env.render(), np.ndarray):
                self.why_not = f"{self._spec.name} renders no frames"
                return None
        fps = float((self._env.metadata or {}).get("render_fps") or DEFAULT_FPS)
        skip = max(1, round(fps / _PLAYBACK_FPS))
        playing = _Playing(self._env, policy, seed)
        writer = Mp4Writer(path, fps=fps / skip)
        started = time.perf_counter()
        for frame in playing.frames(skip):
            writer.add(frame)
            if time.perf_counter() - started > longest_s:
                break
        writer.close()
        return Episode(playing.total_reward, playing.steps)

    def close(self) -> None:
        """Frees the environment."""
        if self._env is not None:
            self._env.close()


class _Playing:
    """An episode being played."""

    def __init__(self, env: Any, policy: ActingPolicy, seed: int | None) -> None:
        self._env, self._policy, self._seed = env, policy, seed
        self.total_reward, self.steps = 0.0, 0

    def frames(self, skip: int | None) -> Iterator[NDArray[np.uint8]]:
        """Every `skip`-th frame, the last one always; none at all for None."""
        observation, info = self._env.reset(seed=self._seed)
        takes_masks = self._policy.takes_masks
        self._policy.reset()
        has_ended = False
        while not has_ended:
            if skip is not None and self.steps % skip == 0:
                yield self._env.render()
            hints = {"mask": info["action_mask"]} if takes_masks else {}
            observation, reward, terminated, truncated, info = self._env.step(self._policy.act(observation, **hints))
            self.total_reward += float(reward)
            self.steps += 1
            has_ended = terminated or truncated
        if skip is not None:
            yield self._env.render()

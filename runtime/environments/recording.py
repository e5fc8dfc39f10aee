"""Plays a policy in an environment, and records the episode as a video."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.environments.agents import JointEnv
from runtime.environments.spec import EnvSpec, make_env
from runtime.outputs.video import DEFAULT_FPS, Mp4Writer
from runtime.policies.acting import ActingPolicy

_PLAYBACK_FPS = 30
_WITHOUT_DISPLAY = (
    ". Without a display, MuJoCo draws if MUJOCO_GL=egl is set and libEGL is installed (apt-get install libegl1)"
)


@dataclass(frozen=True)
class Episode:
    """Return and length of an episode.

    Attributes:
        total_reward: The return; the sum over all agents where there are several.
        steps: Environment steps.
        agents: The return of each of several agents; None where one acts.
    """

    total_reward: float
    steps: int
    agents: Mapping[str, float] | None = None


def play(env: Any, policy: ActingPolicy, *, seed: int | None) -> Episode:
    """Plays one episode without recording it."""
    playing = _Playing(env, policy, seed)
    for _ in playing.frames(None):
        pass
    return playing.episode()


class Recorder:
    """Records videos of episodes of one environment, which it makes once.

    Attributes:
        no_video_reason: Reason why videos cannot be recorded: the environment renders no frames, or recording failed;
            None while it works.

    Args:
        spec: The environment.
        no_video_reason: Reason that is known before the first recording.
    """

    def __init__(self, spec: EnvSpec, *, no_video_reason: str | None = None) -> None:
        self._env: Any = None
        self._spec = spec
        self.no_video_reason = no_video_reason

    def record(
        self, policy: ActingPolicy, path: Path, *, seed: int | None = None, longest_s: float = math.inf
    ) -> Episode | None:
        """Plays one episode and writes it to an mp4.

        Args:
            policy: Acts deterministically.
            path: Path of the file, which appears once it is complete.
            seed: Seed of the environment's reset.
            longest_s: Seconds after which the video is cut; an episode of some environments never ends.

        Returns:
            The episode's return and length; None, with `no_video_reason` set, if it could not be recorded.
        """
        if self.no_video_reason is not None:
            return None
        try:
            return self._record(policy, path, seed, longest_s)
        except Exception as error:  # any environment may fail in its own way; the job continues without videos
            remedy = _WITHOUT_DISPLAY if type(error).__module__.partition(".")[0] == "mujoco" else ""
            self.no_video_reason = f"{self._spec.name} cannot be recorded: {type(error).__name__}: {error}{remedy}"
            return None

    def _record(self, policy: ActingPolicy, path: Path, seed: int | None, longest_s: float) -> Episode | None:
        if self._env is None:
            self._env = make_env(self._spec, render=True)
            self._env.reset()
            if not isinstance(self._env.render(), np.ndarray):
                self.no_video_reason = f"{self._spec.name} renders no frames"
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
        return playing.episode()

    def close(self) -> None:
        """Frees the environment."""
        if self._env is not None:
            self._env.close()


class _Playing:
    """Runs one episode, frame by frame."""

    def __init__(self, env: Any, policy: ActingPolicy, seed: int | None) -> None:
        self._env = env
        self._policy = policy
        self._seed = seed
        self.total_reward = 0.0
        self.steps = 0
        self._agents: Mapping[str, float] | None = None

    def episode(self) -> Episode:
        """Describes the episode as far as it was played."""
        return Episode(self.total_reward, self.steps, self._agents)

    def frames(self, skip: int | None) -> Iterator[NDArray[np.uint8]]:
        """Yields every `skip`-th frame and the last one; yields none if `skip` is None."""
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
            if isinstance(self._env.unwrapped, JointEnv):
                self._agents = info["agents"]["returns"]
            has_ended = terminated or truncated
        if skip is not None:
            yield self._env.render()

"""Rollout videos: one deterministic episode as H.264 mp4, written aside and renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.environments import EnvSpec, make_env

if TYPE_CHECKING:
    from runtime.policy import Policy

_HEIGHT = 240
_PLAYBACK_FPS = 30
_DEFAULT_FPS = 30


@dataclass(frozen=True)
class Episode:
    """How an episode went."""

    total_reward: float
    steps: int


def play(env: Any, policy: Policy, *, seed: int | None) -> Episode:
    """Plays one episode without filming it."""
    playing = _Playing(env, policy, seed)
    for _ in playing.frames(None):
        pass
    return Episode(playing.total_reward, playing.steps)


class Recorder:
    """Films episodes of one environment, which it makes once; says whether the environment gives frames."""

    def __init__(self, spec: EnvSpec) -> None:
        self._env: Any = None
        self._spec = spec
        self.why_not: str | None = None

    def film(self, policy: Policy, path: Path, *, seed: int | None = None) -> Episode | None:
        """Plays one episode and writes it to an mp4.

        Args:
            policy: Acts deterministically.
            path: Where the file appears once it is whole.
            seed: Of the environment's reset.

        Returns:
            How the episode went; None, with `why_not` set, where the environment gives no frames.
        """
        if not self._open():
            return None
        fps = float((self._env.metadata or {}).get("render_fps") or _DEFAULT_FPS)
        skip = max(1, round(fps / _PLAYBACK_FPS))
        playing = _Playing(self._env, policy, seed)
        writer = Mp4Writer(path, fps=fps / skip)
        try:
            for frame in playing.frames(skip):
                writer.add(frame)
        except BaseException:
            writer.abandon()
            raise
        writer.close()
        return Episode(playing.total_reward, playing.steps)

    def _open(self) -> bool:
        if self._env is None and self.why_not is None:
            try:
                self._env = make_env(self._spec, render=True)
                self._env.reset()
                frame = self._env.render()
                if not isinstance(frame, np.ndarray):
                    self.why_not = f"{self._spec.name} renders no frames"
            except Exception as error:  # any environment may fail in its own way; a job goes on without pictures
                self.why_not = f"{self._spec.name} cannot render: {error}"
        return self.why_not is None

    def close(self) -> None:
        """Frees the environment."""
        if self._env is not None:
            self._env.close()


class _Playing:
    """An episode being played."""

    def __init__(self, env: Any, policy: Policy, seed: int | None) -> None:
        self._env, self._policy, self._seed = env, policy, seed
        self.total_reward, self.steps = 0.0, 0

    def frames(self, skip: int | None) -> Iterator[NDArray[np.uint8]]:
        """Every `skip`-th frame, the last one always; none at all for None."""
        observation, _ = self._env.reset(seed=self._seed)
        self._policy.reset()
        has_ended = False
        while not has_ended:
            if skip is not None and self.steps % skip == 0:
                yield self._env.render()
            observation, reward, terminated, truncated, _ = self._env.step(self._policy.act(observation))
            self.total_reward += float(reward)
            self.steps += 1
            has_ended = terminated or truncated
        if skip is not None:
            yield self._env.render()


class Mp4Writer:
    """Encodes frames as H.264, 240 pixels high, one encoder thread; the file appears when it is closed.

    Args:
        path: Where the file appears once it is whole.
        fps: Frames a second when played.
    """

    def __init__(self, path: Path, *, fps: float) -> None:
        import av

        path.parent.mkdir(parents=True, exist_ok=True)
        self._av, self._path, self._fps = av, path, fps
        self._aside = path.with_name(f".{path.name}.writing")
        self._container: Any = av.open(str(self._aside), "w", format="mp4", options={"movflags": "+faststart"})
        self._stream: Any = None

    def add(self, pixels: NDArray[np.uint8]) -> None:
        """Adds a frame (H, W, 3) uint8; all of a file have one size."""
        frame = self._av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
        if self._stream is None:
            self._open_stream(frame.width / frame.height)
        stream = self._stream
        self._container.mux(stream.encode(frame.reformat(stream.width, stream.height, "yuv420p")))

    def _open_stream(self, aspect: float) -> None:
        stream = self._stream = self._container.add_stream("libx264", rate=Fraction(self._fps).limit_denominator(1000))
        stream.height = _HEIGHT
        stream.width = round(_HEIGHT * aspect / 2) * 2  # 4:2:0 needs even sides
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        stream.codec_context.thread_count = 1

    def close(self) -> None:
        """Ends the file and puts it in its place; one without frames is dropped."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        if self._stream is not None:
            os.rename(self._aside, self._path)
        self._aside.unlink(missing_ok=True)

    def abandon(self) -> None:
        """Drops the file."""
        self._container.close()
        self._aside.unlink(missing_ok=True)

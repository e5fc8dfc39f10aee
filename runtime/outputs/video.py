"""Rollout videos: one deterministic episode as H.264 mp4."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtime.container.scratch import scratch_folder
from runtime.environments.spec import EnvSpec, make_env

if TYPE_CHECKING:
    from runtime.policies.acting import ActingPolicy

_HEIGHT = 240
_PLAYBACK_FPS = 30
_DEFAULT_FPS = 30


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
        fps = float((self._env.metadata or {}).get("render_fps") or _DEFAULT_FPS)
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


def as_gif(path: Path, *, height: int = 160, most_frames: int = 60) -> tuple[bytes, tuple[int, int]]:
    """An mp4 as a small GIF.

    Args:
        path: The mp4.
        height: Of the GIF; its width follows.
        most_frames: Frames are left out evenly above that.

    Returns:
        The bytes, and width and height.
    """
    import io

    import av
    from PIL import Image

    with av.open(str(path)) as video:
        stream = video.streams.video[0]
        every = max(1, math.ceil((stream.frames or most_frames) / most_frames))
        size = (round(stream.width * height / stream.height), height)
        kept = [frame for number, frame in enumerate(video.decode(stream)) if number % every == 0]
        if not kept:
            raise ValueError(f"{path}: got a video without frames")
        frames = [Image.fromarray(frame.to_ndarray(format="rgb24", width=size[0], height=size[1])) for frame in kept]
        fps = float(stream.average_rate or _DEFAULT_FPS)
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:], duration=round(1000 * every / fps), loop=0)
    return file.getvalue(), size


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


class Mp4Writer:
    """Encodes frames as H.264, one encoder thread; the file appears when it is closed.

    It is encoded in a temporary file elsewhere and written in one go under its own name: SageMaker's uploader acts
    when a file is closed, knows nothing of renames, and would find a file that was written aside gone.

    Args:
        path: Where the file appears.
        fps: Frames a second when played.
        height: Pixels; the width follows from the frames.
    """

    def __init__(self, path: Path, *, fps: float, height: int = _HEIGHT) -> None:
        import av

        self._av, self._path, self._fps, self._height = av, path, fps, height
        self._aside = tempfile.NamedTemporaryFile(suffix=".mp4", dir=scratch_folder())  # noqa: SIM115  # closed by close()
        self._container: Any = av.open(self._aside.name, "w", format="mp4", options={"movflags": "+faststart"})
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
        stream.height = self._height
        stream.width = round(self._height * aspect / 2) * 2  # 4:2:0 needs even sides
        stream.pix_fmt = "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        stream.codec_context.thread_count = 1

    def close(self) -> None:
        """Ends the video and writes its file; one without frames is dropped."""
        if self._stream is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_bytes(Path(self._aside.name).read_bytes())
        self._aside.close()

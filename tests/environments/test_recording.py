from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from runtime.environments.recording import Recorder, play
from runtime.environments.spec import EnvSpec
from tests.outputs.test_video import frames_of
from tests.toy_envs import NoFrames


class Still:
    """A policy that does nothing."""

    takes_masks = False

    def __init__(self, size: int) -> None:
        self._action = np.zeros(size, np.float32)

    def reset(self) -> None: ...

    def act(self, observation: Any, *, mask: Any = None) -> Any:
        return self._action


def test_a_recorded_episode_decodes_to_every_second_step(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("RoboschoolReacher-v1"))
    episode = recorder.record(Still(2), tmp_path / "a.mp4", seed=0)
    recorder.close()
    assert episode is not None
    assert episode.steps == 150
    frames = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 150 // 2 + 1
    assert frames[0].shape == (240, 320, 3)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


def test_an_environment_without_frames_is_said_to_have_none(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("tests.toy_envs:NoFrames"))
    assert recorder.record(Still(1), tmp_path / "a.mp4") is None
    assert recorder.no_video_reason is not None
    assert not list(tmp_path.iterdir())


def test_a_video_is_cut_when_its_time_is_up(tmp_path: Path) -> None:
    """An episode of some environments never ends; with no time at all, one frame is what is left."""
    recorder = Recorder(EnvSpec("RoboschoolReacher-v1"))
    episode = recorder.record(Still(2), tmp_path / "a.mp4", longest_s=0.0)
    recorder.close()
    assert episode is not None
    assert episode.steps == 0
    assert len(frames_of(tmp_path / "a.mp4")) == 1


def test_an_environment_that_fails_while_recorded_costs_only_the_video(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("tests.toy_envs:RaisesWhileRecorded"))

    class One(Still):
        def act(self, observation: Any, *, mask: Any = None) -> Any:
            return 1

    assert recorder.record(One(1), tmp_path / "a.mp4") is None
    assert "no more frames" in (recorder.no_video_reason or "")
    assert not list(tmp_path.iterdir())


class _WithoutDisplay(NoFrames):
    """Raises what MuJoCo does where there is no display."""

    def render(self) -> Any:
        raise type("FatalError", (Exception,), {"__module__": "mujoco"})("no OpenGL platform")


def test_a_robot_of_mujocos_without_a_display_is_said_to_need_egl(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("robot", creator=lambda config: _WithoutDisplay()))
    assert recorder.record(Still(1), tmp_path / "a.mp4") is None
    assert recorder.no_video_reason is not None
    assert recorder.no_video_reason.startswith("robot cannot be recorded: FatalError: no OpenGL platform. Without a ")
    assert "MUJOCO_GL=egl" in recorder.no_video_reason


def test_an_episode_is_the_same_without_recording(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("RoboschoolReacher-v1"))
    recorded = recorder.record(Still(2), tmp_path / "a.mp4", seed=4)
    env = gymnasium.make("RoboschoolReacher-v1")
    assert play(env, Still(2), seed=4) == recorded

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from envs.roboschool.robots import build_robot
from runtime.environments.spec import EnvSpec
from runtime.outputs.video import Mp4Writer, Recorder, play

av = pytest.importorskip("av")


class Still:
    """A policy that does nothing."""

    takes_masks = False

    def __init__(self, size: int) -> None:
        self._action = np.zeros(size, np.float32)

    def reset(self) -> None: ...

    def act(self, observation: Any, *, mask: Any = None) -> Any:
        return self._action


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"  # what browsers play
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def test_a_filmed_episode_decodes_to_every_second_step(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("RoboschoolReacher-v1"))
    episode = recorder.record(Still(2), tmp_path / "a.mp4", seed=0)
    recorder.close()
    assert episode is not None
    assert episode.steps == 150
    frames = frames_of(tmp_path / "a.mp4")
    assert len(frames) == 150 // 2 + 1
    assert frames[0].shape == (240, 320, 3)
    assert list(tmp_path.iterdir()) == [tmp_path / "a.mp4"]


@pytest.mark.parametrize("name", ["Hopper", "Reacher", "InvertedPendulum"])
def test_a_frame_shows_robot_floor_and_sky(name: str) -> None:
    env = gymnasium.make(f"Roboschool{name}-v1", render_mode="rgb_array")
    env.reset(seed=0)
    frame: Any = env.render()
    env.close()
    assert frame.shape == (240, 320, 3)
    colours = {tuple(pixel) for pixel in frame.reshape(-1, 3)[::7] // 32}
    assert len(colours) > 5
    assert frame.mean() > 80  # painted, not black
    top, bottom = frame[:20].mean(axis=(0, 1)), frame[-20:].mean(axis=(0, 1))
    if name != "Reacher":  # its camera looks down on the arena
        assert top[2] > top[0]  # blue above
        assert bottom[1] > bottom[2]  # green below
    saturation = frame.max(axis=2).astype(int) - frame.min(axis=2)
    assert (saturation > 90).sum() > 150  # the robot's own colours


def test_the_floor_moves_under_a_moving_camera() -> None:
    env: Any = gymnasium.make("RoboschoolHopper-v1", render_mode="rgb_array").unwrapped
    env.reset(seed=0)
    env.robot.close()
    env.robot = build_robot("Hopper", as_port=False)
    env.reset(seed=0)
    first = env.render()
    env.robot.torso_xyz = (env.robot.torso_xyz[0] + 0.5, *env.robot.torso_xyz[1:])
    assert np.abs(env.render().astype(int) - first).mean() > 2
    env.close()


def test_an_environment_without_frames_is_said_to_have_none(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("tests.toy_envs:NoFrames"))
    assert recorder.record(Still(1), tmp_path / "a.mp4") is None
    assert recorder.why_not is not None
    assert not list(tmp_path.iterdir())


def test_a_video_is_written_in_one_go_under_its_own_name(tmp_path: Path) -> None:
    """SageMaker's uploader copies what is closed: one event, of the right name, when the file is whole."""
    from inotify_simple import INotify, flags

    with INotify() as watch:
        watch.add_watch(tmp_path, flags.CLOSE_WRITE | flags.CREATE)  # as sagemaker_training.intermediate_output does
        writer = Mp4Writer(tmp_path / "a.mp4", fps=30)
        for _ in range(5):
            writer.add(np.zeros((240, 320, 3), np.uint8))
        assert not list(tmp_path.iterdir())
        writer.close()
        events = [(event.name, event.mask) for event in watch.read(timeout=1000)]
    assert events == [("a.mp4", flags.CREATE), ("a.mp4", flags.CLOSE_WRITE)]
    assert len(frames_of(tmp_path / "a.mp4")) == 5


def test_a_film_is_cut_when_its_time_is_up(tmp_path: Path) -> None:
    """An episode of some environments never ends; with no time at all, one frame is what is left."""
    recorder = Recorder(EnvSpec("RoboschoolReacher-v1"))
    episode = recorder.record(Still(2), tmp_path / "a.mp4", longest_s=0.0)
    recorder.close()
    assert episode is not None
    assert episode.steps == 0
    assert len(frames_of(tmp_path / "a.mp4")) == 1


def test_an_environment_that_fails_while_filmed_costs_the_film_alone(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("tests.toy_envs:RaisesWhileFilmed"))

    class One(Still):
        def act(self, observation: Any) -> Any:
            return 1

    assert recorder.record(One(1), tmp_path / "a.mp4") is None
    assert "no more film" in (recorder.why_not or "")
    assert not list(tmp_path.iterdir())


def test_playing_without_filming_gives_the_same_episode(tmp_path: Path) -> None:
    recorder = Recorder(EnvSpec("RoboschoolReacher-v1"))
    filmed = recorder.record(Still(2), tmp_path / "a.mp4", seed=4)
    env = gymnasium.make("RoboschoolReacher-v1")
    assert play(env, Still(2), seed=4) == filmed

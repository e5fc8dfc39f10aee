from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from PIL import Image, ImageSequence

from envs.roboschool.robots import build_robot
from runtime.outputs.video import Mp4Writer, as_gif, poster_of

av = pytest.importorskip("av")


def frames_of(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"  # what browsers play
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


@pytest.mark.parametrize("name", ["Hopper", "Reacher", "InvertedPendulum"])
def test_a_frame_shows_robot_floor_and_sky(name: str) -> None:
    env = gymnasium.make(f"Roboschool{name}-v1", render_mode="rgb_array")
    env.reset(seed=0)
    frame: Any = env.render()
    env.close()
    assert frame.shape == (240, 320, 3)
    colors = {tuple(pixel) for pixel in frame.reshape(-1, 3)[::7] // 32}
    assert len(colors) > 5
    assert frame.mean() > 80  # painted, not black
    top, bottom = frame[:20].mean(axis=(0, 1)), frame[-20:].mean(axis=(0, 1))
    if name != "Reacher":  # its camera looks down on the arena
        assert top[2] > top[0]  # blue above
        assert bottom[1] > bottom[2]  # green below
    saturation = frame.max(axis=2).astype(int) - frame.min(axis=2)
    assert (saturation > 90).sum() > 150  # the robot's own colors


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


def test_an_animation_keeps_the_colors_of_small_objects(tmp_path: Path) -> None:
    env: Any = gymnasium.make("RoboschoolReacher-v1", render_mode="rgb_array")
    env.reset(seed=0)
    writer = Mp4Writer(tmp_path / "a.mp4", fps=30)
    for _ in range(3):
        env.step(env.action_space.sample())
        writer.add(env.render())
    writer.close()
    env.close()
    data, size = as_gif(tmp_path / "a.mp4")
    with Image.open(io.BytesIO(data)) as animation:
        frames = [np.asarray(frame.convert("RGB")).astype(int) for frame in ImageSequence.Iterator(animation)]
        assert (animation.size, len(frames)) == (size, 3)
    frame = frames[0]
    assert (frame[..., 0] - frame[..., 1] > 80).any()  # the red target
    assert (frame[..., 2] - frame[..., 0] > 80).any()  # the blue arm


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


def test_a_poster_is_the_frame_of_its_second(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    writer = Mp4Writer(path, fps=10)
    for brightness in [0] * 10 + [255] * 10:  # black for a second, then white
        writer.add(np.full((240, 320, 3), brightness, np.uint8))
    writer.close()
    for at_s, brightness in ((0.0, 0), (0.9, 0), (1.0, 255), (99.0, 255)):
        jpeg = poster_of(path, at_s=at_s)
        assert jpeg is not None
        with Image.open(io.BytesIO(jpeg)) as poster:
            assert (poster.format, poster.size) == ("JPEG", (320, 240))
            assert np.asarray(poster).mean() == pytest.approx(brightness, abs=3)


def test_what_is_no_video_has_no_poster(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    path.write_bytes(b"\0\0\0\x20ftypisom")
    assert poster_of(path) is None
    assert poster_of(tmp_path / "absent.mp4") is None

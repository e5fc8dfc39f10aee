"""Gymnasium environment of a Roboschool robot."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.roboschool.robots import Robot, build_robot, check_compat


class RoboschoolEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A Roboschool robot with Roboschool's own rules and rewards.

    Each environment holds a Bullet world of its own (about 29 MB), freed by `close`.

    Args:
        robot: Its name in the env id.
        compat: `"roboschool"`, or `"bullet"` for the numbers of pybullet_envs_gymnasium 0.6.0.
        render_mode: `"rgb_array"` or None.
        render_width: Width of a frame in pixels.
        render_height: Height of a frame in pixels.

    Raises:
        ValueError: `compat` or `render_mode` has another value.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 60}  # noqa: RUF012  # Gymnasium declares it so

    def __init__(
        self,
        robot: str,
        *,
        compat: str = "roboschool",
        render_mode: str | None = None,
        render_width: int = 320,
        render_height: int = 240,
    ) -> None:
        as_port = check_compat(compat) == "bullet"
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: got {render_mode!r}; expected 'rgb_array' or None.")
        self.render_mode = render_mode
        self.render_size = render_width, render_height
        self.robot_name = robot
        self._as_port = as_port
        self.robot: Robot = _build(robot, as_port=as_port)
        self._camera: Any = None
        ones = np.ones(self.robot.action_size, np.float32)
        self.action_space = gymnasium.spaces.Box(-ones, ones, dtype=np.float32)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.robot.observation_size,), dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Starts an episode; equal seeds give equal episodes."""
        super().reset(seed=seed)
        return self.robot.reset(self.np_random, is_seeded=seed is not None), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step of 0.0165 s; the step limit is the TimeLimit wrapper's.

        Raises:
            ValueError: The action has another size than the robot's.
        """
        # Compiled code does not check the bounds of an array.
        moves = np.ascontiguousarray(action, np.float32).reshape(self.action_space.shape or ())
        observation, reward, terminated = self.robot.step(moves, self.np_random)
        return observation, reward, terminated, False, {}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # Gymnasium leaves the frame's type open
        """Returns a frame (height, width, 3) uint8 in `"rgb_array"` mode, else None."""
        if self.render_mode is None:
            return None
        from envs.roboschool.native import NativeRobot

        if self._camera is None:
            from envs.roboschool.camera import Camera, view_of

            # Bullet renders through the Python API only: a Python robot takes the pose of a compiled one.
            self._rendered: Any = self.robot
            if isinstance(self.robot, NativeRobot):
                self._rendered = build_robot(self.robot_name, as_port=self._as_port)
            self._camera = Camera(self._rendered.world, view_of(self.robot_name), self.render_size)
        if isinstance(self.robot, NativeRobot):
            self.robot.pose_double(self._rendered)
        frame: NDArray[np.uint8] = self._camera.take(self._rendered.camera_target())
        return frame

    def close(self) -> None:
        """Frees the worlds; harmless when called again."""
        self.robot.close()
        if self._camera is not None:
            self._rendered.close()


def _build(name: str, *, as_port: bool) -> Robot:
    """Builds a compiled robot, or the Python one where compiled code cannot be used."""
    from envs.roboschool.native import NativeRobot, native_fallback_reason

    if native_fallback_reason(name, as_port=as_port) is None:
        return NativeRobot(name, as_port=as_port)
    return build_robot(name, as_port=as_port)

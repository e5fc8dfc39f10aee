"""The Gymnasium face of every Roboschool robot."""

from __future__ import annotations

from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.roboschool.courses import FlagRun, StraightAhead
from envs.roboschool.flagrun_harder import FlagRunHarder
from envs.roboschool.pendulum import DoublePendulum, SinglePendulum
from envs.roboschool.reacher import Reacher
from envs.roboschool.walker import Walker
from envs.roboschool.walker_specs import WALKERS
from envs.roboschool.world import World

COMPATS = ("roboschool", "bullet")


class Robot(Protocol):
    """What the env asks of a robot."""

    observation_size: int
    action_size: int
    world: World

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> NDArray[np.float32]:
        """Starts an episode; one with a new seed must not depend on earlier ones."""

    def step(self, action: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.float32], float, bool]:
        """Observation, reward, and whether the episode has ended by the task's own rule."""

    def camera_target(self) -> tuple[float, float, float]:
        """Where a camera should look, in m."""

    def close(self) -> None:
        """Frees the world."""


def build_robot(name: str, *, as_port: bool) -> Robot:
    """Builds a robot by its name in the env id, as `Hopper` in `RoboschoolHopper-v1`."""
    match name:
        case "Reacher":
            return Reacher(as_port=as_port)
        case "InvertedPendulum" | "InvertedPendulumSwingup":
            return SinglePendulum(swing_up=name.endswith("Swingup"))
        case "InvertedDoublePendulum":
            return DoublePendulum()
        case "HumanoidFlagrun":
            return Walker(WALKERS["humanoid"], FlagRun(as_port=as_port), as_port=as_port)
        case "HumanoidFlagrunHarder":
            return Walker(WALKERS["humanoid"], FlagRunHarder(as_port=as_port), as_port=as_port)
        case "Humanoid" if not as_port:
            course = StraightAhead(start_height_m=1.4, yaw_spread=np.pi / 16)
            return Walker(WALKERS["humanoid"], course, as_port=False)
    return Walker(WALKERS[name.lower()], StraightAhead(), as_port=as_port)


class RoboschoolEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """A Roboschool robot under Roboschool's own rules.

    Each holds a Bullet world of its own (about 29 MB), freed by `close`.

    Args:
        robot: Its name in the env id.
        compat: `"roboschool"`, or `"bullet"` for the numbers of pybullet_envs_gymnasium 0.6.0.
        render_mode: `"rgb_array"` or None.
        render_width: Of a frame, in pixels.
        render_height: Of a frame, in pixels.

    Raises:
        ValueError: `compat` or `render_mode` is neither of its values.
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
        if compat not in COMPATS:
            raise ValueError(f"compat: got {compat!r}; expected one of {', '.join(COMPATS)}.")
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode: got {render_mode!r}; expected 'rgb_array' or None.")
        self.render_mode = render_mode
        self.render_size = render_width, render_height
        self.robot_name = robot
        self.robot = build_robot(robot, as_port=compat == "bullet")
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
        """One step of 0.0165 s; the step limit is the TimeLimit wrapper's."""
        observation, reward, terminated = self.robot.step(action, self.np_random)
        return observation, reward, terminated, False, {}

    def render(self) -> NDArray[np.uint8] | None:  # type: ignore[override]  # Gymnasium leaves the frame's type open
        """A frame (height, width, 3) uint8 in `"rgb_array"` mode, else None."""
        if self.render_mode is None:
            return None
        if self._camera is None:
            from envs.roboschool.camera import Camera, view_of

            self._camera = Camera(self.robot.world, view_of(self.robot_name), self.render_size)
        frame: NDArray[np.uint8] = self._camera.take(self.robot.camera_target())
        return frame

    def close(self) -> None:
        """Frees the world; harmless when called again."""
        self.robot.close()

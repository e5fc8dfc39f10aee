"""Builds robots by name, as Python classes on pybullet's own API: the reference rules, and the ones that render."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.roboschool.courses import FlagRun, StraightAhead
from envs.roboschool.flagrun_harder import FlagRunHarder
from envs.roboschool.pendulum import DoublePendulum, SinglePendulum
from envs.roboschool.reacher import Reacher
from envs.roboschool.walker import Walker
from envs.roboschool.walker_specs import WALKERS
from envs.roboschool.world import BodyPose, World

COMPATS = ("roboschool", "bullet")


class Robot(Protocol):
    """Interface of every robot, stepped by Python or by compiled code."""

    observation_size: int
    action_size: int

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> NDArray[np.float32]:
        """Starts an episode; one with a new seed must not depend on earlier ones."""

    def step(self, action: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.float32], float, bool]:
        """Observation, reward, and whether the episode has ended by the task's own rule."""

    def close(self) -> None:
        """Frees the world."""


class RenderedRobot(Robot, Protocol):
    """A robot on pybullet's own API, whose world a camera can render."""

    world: World

    def pose(self, bodies: Mapping[int, BodyPose], target: tuple[float, float]) -> None:
        """Moves the bodies, and the flag if there is one, to where those of another world are."""

    def camera_target(self) -> tuple[float, float, float]:
        """Returns the point that a camera follows, in m."""


def check_compat(compat: str) -> str:
    """Checks `compat` and returns it.

    Raises:
        ValueError: `compat` is not one of COMPATS.
    """
    if compat not in COMPATS:
        raise ValueError(f"compat: got {compat!r}; expected one of {', '.join(COMPATS)}.")
    return compat


def build_robot(name: str, *, as_port: bool) -> RenderedRobot:
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

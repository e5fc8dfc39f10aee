"""A cart with one or two poles.

Source of the numbers: openai/roboschool 1.0.49; Swingup is the task that its authors meant (the released class
attribute was overwritten, so that it ran the plain pendulum; the PyBullet port has the meant one too).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.roboschool.world import BodyPose, World

_FALLEN_RAD = 0.2
SINGLE_FORCE_N = 100.0
DOUBLE_FORCE_N = 200.0


class _Cart:
    """The bodies, and the calls that both tasks share."""

    def __init__(self, xml: str) -> None:
        self.world = World(xml, gravity=9.8, substeps=1, has_floor=False)
        self.body = self.world.bodies[-1]
        self.links = self.world.link_names(self.body)
        self.world.disable_motors(self.body)
        self.joints = list(self.world.joint_names(self.body).values())

    def reset(self, pole_angles: list[float]) -> None:
        self.world.restore()
        self.world.reset_joints(self.body, self.joints[1:], pole_angles)
        self.world.save()

    def push(self, force_n: float) -> None:
        p, client = self.world.api, self.world.client
        p.setJointMotorControl2(self.body, self.joints[0], p.TORQUE_CONTROL, force=force_n, physicsClientId=client)
        p.stepSimulation(physicsClientId=client)

    def read(self) -> list[tuple[float, float]]:
        states = self.world.api.getJointStates(self.body, self.joints, physicsClientId=self.world.client)
        return [(state[0], state[1]) for state in states]


class SinglePendulum:
    """One pole, to be held up or swung up.

    Observation (5, float32): cart position (m) and speed, cosine and sine of the pole's angle, its speed.
    """

    observation_size = 5
    action_size = 1

    def __init__(self, *, swing_up: bool) -> None:
        self.swing_up = swing_up
        self.cart = _Cart("inverted_pendulum.xml")
        self.world = self.cart.world

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> NDArray[np.float32]:
        """Starts with the pole within 0.1 rad of up, or of down for the swing-up."""
        self.cart.reset([(3.1415 if self.swing_up else 0.0) + rng.uniform(-0.1, 0.1)])
        return self._observe()

    def step(self, action: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.float32], float, bool]:
        """Pushes the cart for one step of 0.0165 s; `rng` is unused."""
        self.cart.push(SINGLE_FORCE_N * min(max(float(action[0]), -1.0), 1.0))
        observation = self._observe()
        if self.swing_up:
            return observation, math.cos(self._theta), False
        return observation, 1.0, abs(self._theta) > _FALLEN_RAD

    def _observe(self) -> NDArray[np.float32]:
        (x, vx), (self._theta, theta_dot) = self.cart.read()
        return np.array((x, vx, math.cos(self._theta), math.sin(self._theta), theta_dot), np.float32)

    def pose(self, bodies: Mapping[int, BodyPose], target: tuple[float, float]) -> None:
        """Moves the bodies to where those of another world are."""
        self.world.pose(bodies)

    def camera_target(self) -> tuple[float, float, float]:
        """Returns the middle of the rail, in m."""
        return 0.0, 0.0, 0.3

    def close(self) -> None:
        """Frees the world."""
        self.world.close()


class DoublePendulum:
    """Two poles, one on the other, to be held up.

    Observation (9, float32): cart position (m) and speed, the upper pole's x, then cosine, sine and speed of each
    pole's angle.
    """

    observation_size = 9
    action_size = 1

    def __init__(self) -> None:
        self.cart = _Cart("inverted_double_pendulum.xml")
        self.world = self.cart.world

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> NDArray[np.float32]:
        """Starts with both poles within 0.1 rad of up."""
        self.cart.reset(rng.uniform(-0.1, 0.1, size=2).tolist())
        return self._observe()

    def step(self, action: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.float32], float, bool]:
        """Pushes the cart for one step of 0.0165 s; `rng` is unused."""
        self.cart.push(DOUBLE_FORCE_N * min(max(float(action[0]), -1.0), 1.0))
        observation = self._observe()
        # 1.2 m is upright: the upper pole's middle is at 0.9 m, its tip 0.3 m above.
        tip_z = self._pole_z + 0.3
        return observation, 10.0 - (0.01 * self._pole_x**2 + (tip_z - 2.0) ** 2), tip_z <= 1.0

    def _observe(self) -> NDArray[np.float32]:
        (x, vx), (theta, theta_dot), (gamma, gamma_dot) = self.cart.read()
        world = self.world
        pole = world.api.getLinkState(self.cart.body, self.cart.links["pole2"], physicsClientId=world.client)[0]
        self._pole_x = pole[0]
        self._pole_z = pole[2]
        angles = (math.cos(theta), math.sin(theta), theta_dot, math.cos(gamma), math.sin(gamma), gamma_dot)
        return np.array((x, vx, self._pole_x, *angles), np.float32)

    def pose(self, bodies: Mapping[int, BodyPose], target: tuple[float, float]) -> None:
        """Moves the bodies to where those of another world are."""
        self.world.pose(bodies)

    def camera_target(self) -> tuple[float, float, float]:
        """Returns the middle of the rail, in m."""
        return 0.0, 0.0, 0.5

    def close(self) -> None:
        """Frees the world."""
        self.world.close()

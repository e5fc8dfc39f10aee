"""Reacher: a flat arm with two joints brings its fingertip to a target.

Source of the numbers: openai/roboschool 1.0.49.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.roboschool.world import BodyPose, World

_TARGET_HALF_RANGE_M = 0.27
TORQUE_NM = 0.05


class Reacher:
    """The arm in its own world.

    Observation (9, float32): target x, y; fingertip minus target x, y (m); cosine and sine of the central angle;
    0.1 × its speed; the elbow's angle scaled to ±1; 0.1 × its speed.
    """

    observation_size = 9
    action_size = 2

    def __init__(self, *, as_port: bool) -> None:
        self._as_port = as_port
        self.world = World("reacher.xml", gravity=0.0, substeps=1, has_floor=False)
        parts = [(body, self.world.link_names(body)) for body in self.world.bodies]
        self.arm, self.arm_links = next(part for part in parts if "fingertip" in part[1])
        self.target, self.target_links = next(part for part in parts if "target" in part[1])
        self.world.disable_motors(self.arm)
        self.world.disable_motors(self.target)
        self.joints = list(self.world.joint_names(self.arm).values())
        self._target_joints = list(self.world.joint_names(self.target).values())

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> NDArray[np.float32]:
        """Puts target and joints at random and returns the first observation."""
        target_xy = [rng.uniform(-_TARGET_HALF_RANGE_M, _TARGET_HALF_RANGE_M) for _ in range(2)]
        self.world.reset_joints(self.target, self._target_joints, target_xy)
        angles = [rng.uniform(-3.14, 3.14) for _ in range(2)]
        self.world.reset_joints(self.arm, self.joints, angles)
        # Nothing pushes the target during an episode, so it is read once.
        p, client = self.world.api, self.world.client
        states = p.getJointStates(self.target, self._target_joints, physicsClientId=client)
        self._target_xy = states[0][0], states[1][0]
        self._target_xyz = p.getLinkState(self.target, self.target_links["target"], physicsClientId=client)[0]
        observation = self._observe()
        self._potential = self._closeness()
        return observation

    def step(self, action: NDArray[Any], rng: np.random.Generator) -> tuple[NDArray[np.float32], float, bool]:
        """Applies two torques for one step of 0.0165 s; never ends an episode.

        Args:
            action: (2,) in ±1; clipped for the motors, unclipped in the costs, as in Roboschool.
            rng: Unused.
        """
        p, client = self.world.api, self.world.client
        # port: its costs are float32, by NumPy's rules of today; Roboschool's were Python's own numbers.
        a0, a1 = action if self._as_port else action.tolist()
        torques = [TORQUE_NM * min(max(float(a), -1.0), 1.0) for a in (a0, a1)]
        p.setJointMotorControlArray(self.arm, self.joints, p.TORQUE_CONTROL, forces=torques, physicsClientId=client)
        p.stepSimulation(physicsClientId=client)
        observation = self._observe()
        before = self._potential
        self._potential = self._closeness()
        work = abs(a0 * self._theta_dot) + abs(a1 * self._gamma_dot)
        stuck = -0.1 if abs(abs(self._gamma) - 1.0) < 0.01 else 0.0
        effort = -0.10 * work - 0.01 * (abs(a0) + abs(a1))
        return observation, self._potential - before + float(effort) + stuck, False

    def _closeness(self) -> float:
        return -100.0 * math.sqrt(sum(d * d for d in self._to_target))

    def _observe(self) -> NDArray[np.float32]:
        p, client = self.world.api, self.world.client
        central, elbow = p.getJointStates(self.arm, self.joints, physicsClientId=client)
        tip = p.getLinkState(self.arm, self.arm_links["fingertip"], physicsClientId=client)[0]
        target = self._target_xyz
        self._to_target = (tip[0] - target[0], tip[1] - target[1], tip[2] - target[2])
        # port: scales the unlimited central joint by Bullet's limits of 1..0, which doubles and shifts the angle.
        theta = 1.0 - 2.0 * central[0] if self._as_port else central[0]
        self._theta_dot = 0.1 * central[1]
        self._gamma = elbow[0] / 3.0
        self._gamma_dot = 0.1 * elbow[1]
        return np.array(
            (
                *self._target_xy,
                self._to_target[0],
                self._to_target[1],
                math.cos(theta),
                math.sin(theta),
                self._theta_dot,
                self._gamma,
                self._gamma_dot,
            ),
            np.float32,
        )

    def pose(self, bodies: Mapping[int, BodyPose], target: tuple[float, float]) -> None:
        """Moves the bodies to where those of another world are."""
        self.world.pose(bodies)

    def camera_target(self) -> tuple[float, float, float]:
        """Returns the middle of the arena, in m."""
        return 0.0, 0.0, 0.0

    def close(self) -> None:
        """Frees the world."""
        self.world.close()

"""Step and observation of the walking robots: Hopper, Walker2d, HalfCheetah, Ant and Humanoid.

`walker_rewards` has their rewards, `walker_specs` their differences, `courses` their targets.

Source of the numbers: openai/roboschool 1.0.49. With `as_port` they are those of pybullet_envs_gymnasium 0.6.0,
whose differences from Roboschool are marked "port" below.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from envs.roboschool.walker_rewards import joint_at_limit_cost, joints_at_limits_cost, motor_cost, walker_reward
from envs.roboschool.walker_specs import WalkerSpec
from envs.roboschool.world import BodyPose, World

FloatArray = NDArray[np.float32]

_PORT_RESTITUTION = 0.5  # Roboschool's floor has Bullet's default of 0


class Course(Protocol):
    """A walker's target, and the parts of the reward that depend on it."""

    target: tuple[float, float]

    def place(self, walker: Walker) -> None:
        """Adds the course's bodies to the robot's world, once."""

    def show_target(self, walker: Walker, target: tuple[float, float]) -> None:
        """Moves the marker of the target to where it is in another world."""

    def forget(self) -> None:
        """Clears the state of earlier episodes, before an episode with a new seed."""

    def start(self, walker: Walker, rng: np.random.Generator) -> None:
        """Begins an episode: poses the robot and sets the target."""

    def tick(self, walker: Walker, rng: np.random.Generator) -> None:
        """Moves the target if the rules require it, before the observation is built."""

    def alive(self, walker: Walker, z: float, rng: np.random.Generator) -> float:
        """Returns the alive reward at torso height `z` (m); negative ends the episode."""

    def potential(self, walker: Walker, distance_m: float) -> float:
        """Returns the potential whose increase over a step is the progress reward."""

    def potential_before(self, walker: Walker, remembered: float) -> float:
        """Returns the potential before the step: `remembered`, or recomputed where the target has just moved."""

    def electricity_factor(self, walker: Walker) -> float:
        """Returns the factor on the cost of mechanical work."""


class Walker:
    """A walking robot in its own world.

    Observation (8 + 2 joints + feet, float32, within ±5): torso height over its start; sine and cosine of the
    heading to the target; 0.3 × torso velocity in the robot's frame; roll, pitch; each joint's position scaled
    to ±1 and 0.1 × its speed; floor contact of each foot, as of the step before.
    """

    def __init__(self, spec: WalkerSpec, course: Course, *, as_port: bool) -> None:
        self.spec = spec
        self.course = course
        self._as_port = as_port
        restitution = _PORT_RESTITUTION if as_port else 0.0
        self.world = World(
            spec.xml, gravity=9.8, substeps=4, has_floor=True, restitution=restitution, has_friction_cone=as_port
        )
        self.body = self.world.bodies[0]
        self._name_parts()
        self._name_joints()
        self.world.disable_motors(self.body)
        self._feet_flags = [0.0] * len(spec.feet)
        self.joint_limit_cost = joint_at_limit_cost(as_port=as_port)
        self.never_falls = as_port and spec.port_never_ends
        self._first_episode = True
        course.place(self)

    def _name_parts(self) -> None:
        links = self.world.link_names(self.body)
        self.feet = [links[name] for name in self.spec.feet]
        # The torso is a link of its own in the planar robots, the base of the body in Ant and Humanoid.
        self.torso = links.get("torso", -1)
        self._links = list(links.values())
        self._torso_row = self._links.index(self.torso) if self.torso >= 0 else -1
        # port: the base of the body is a part, too.
        self._counts_base = self._as_port and self.torso < 0
        self.part_count = len(self._links) + self._counts_base

    def _name_joints(self) -> None:
        joints = self.world.joint_names(self.body)
        self.joints = list(joints.values())
        self.motors = [joints[name] for name in self.spec.motors] or self.joints
        limits = np.array([self.world.joint_limits(self.body, joint) for joint in self.joints])
        self.limit_low = limits[:, 0]
        self.limit_scale = 2.0 / (limits[:, 1] - limits[:, 0])
        # The port multiplies Humanoid's torques in float32, the others' in float64; chaos makes it matter to parity.
        self.torques = np.array(self.spec.torques_nm, np.float32 if self.spec.motors else np.float64)
        self.observation_size = 8 + 2 * len(self.joints) + len(self.feet)
        self.action_size = len(self.motors)

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> FloatArray:
        """Starts an episode with joint angles in ±0.1 rad and returns its first observation."""
        restored = self.world.restore()
        self.world.reset_joints(self.body, self.joints, rng.uniform(-0.1, 0.1, size=len(self.joints)))
        self._feet_flags = [0.0] * len(self.feet)
        self._standing_z = self.spec.standing_z_m
        if is_seeded:
            self.course.forget()
        self.course.start(self, rng)
        observation = self._observe(rng)
        self._potential = self.course.potential(self, self.target_distance)
        if not restored:
            self.world.save()
        if self._as_port and self._first_episode:
            # port: from the first reset on, the floor counts as a part of the robot and pulls the mean to 0, 0.
            self.part_count += 1
            self._first_episode = False
        return observation

    def step(self, action: NDArray[Any], rng: np.random.Generator) -> tuple[FloatArray, float, bool]:
        """Applies torques for one step of 0.0165 s.

        Args:
            action: (A,) in ±1; clipped for the motors, unclipped in the electricity cost, as in Roboschool.
            rng: Draws of the course (new flags, thrown cubes).

        Returns:
            Observation (O,), reward, and whether the robot has fallen.
        """
        p = self.world.api
        world = self.world
        course = self.course
        torques = self.torques * np.minimum(np.maximum(action, -1.0), 1.0)
        p.setJointMotorControlArray(
            self.body, self.motors, p.TORQUE_CONTROL, forces=torques.tolist(), physicsClientId=world.client
        )
        p.stepSimulation(physicsClientId=world.client)
        observation = self._observe(rng)
        alive = course.alive(self, float(observation[0]) + self.standing_z, rng)
        before = self._potential if self._as_port else course.potential_before(self, self._potential)
        self._potential = course.potential(self, self.target_distance)
        collisions = self._update_foot_contacts()
        reward = walker_reward(
            alive=alive,
            progress=self._potential - before,
            motors=motor_cost(
                action,
                self._joint_speeds,
                effort_scale=self.spec.effort_scale,
                electricity_factor=course.electricity_factor(self),
            ),
            joints_at_limits=joints_at_limits_cost(self._joint_positions, each=self.joint_limit_cost),
            feet_collisions=0 if self._as_port else collisions,  # port: the feet collision cost is switched off
        )
        fallen = (alive < 0 and not self.never_falls) or not math.isfinite(float(observation.sum()))
        return observation, float(reward), fallen

    @property
    def standing_z(self) -> float:
        """Height in m that observation 0 is relative to."""
        assert self._standing_z is not None
        return self._standing_z

    def _observe(self, rng: np.random.Generator) -> FloatArray:
        self._read_joints()
        self._read_parts()
        self.course.tick(self, rng)
        return self._build_observation()

    def _read_joints(self) -> None:
        states = self.world.api.getJointStates(self.body, self.joints, physicsClientId=self.world.client)
        raw = np.array([state[:2] for state in states])
        self._first_joint_speed = float(raw[0, 1])
        self._joint_positions = ((raw[:, 0] - self.limit_low) * self.limit_scale - 1.0).astype(np.float32)
        self._joint_speeds = (0.1 * raw[:, 1]).astype(np.float32)

    def _read_parts(self) -> None:
        """Reads the torso's pose (m, quaternion) and velocity (m/s), and the mean x, y of all parts."""
        p = self.world.api
        client = self.world.client
        body = self.body
        if self.torso >= 0:
            states = p.getLinkStates(body, self._links, computeLinkVelocity=1, physicsClientId=client)
            torso = states[self._torso_row]
            self.torso_xyz, orientation, self.torso_velocity = torso[0], torso[1], torso[6]
            places = []
        else:
            states = p.getLinkStates(body, self._links, physicsClientId=client)
            self.torso_xyz, orientation = p.getBasePositionAndOrientation(body, physicsClientId=client)
            self.torso_velocity = p.getBaseVelocity(body, physicsClientId=client)[0]
            places = [self.torso_xyz] if self._counts_base else []
        self.link_states = states
        # NumPy's sum, rounding included: the port's mean is NumPy's.
        sums = np.add.reduce(np.array(places + [state[0] for state in states])[:, :2].T.copy(), axis=1)
        self.mean_x, self.mean_y = (float(total) / self.part_count for total in sums)
        self._orientation = orientation
        self.roll, self.pitch, self.yaw = p.getEulerFromQuaternion(orientation)

    @property
    def target_distance(self) -> float:
        """Distance in m from the mean of the parts to the course's target."""
        target_x, target_y = self.course.target
        x, y = target_x - self.mean_x, target_y - self.mean_y
        return math.sqrt(x * x + y * y)

    def _build_observation(self) -> FloatArray:
        z = self.torso_xyz[2]
        if self._standing_z is None:
            self._standing_z = z
        target_x, target_y = self.course.target
        angle = math.atan2(target_y - self.mean_y, target_x - self.mean_x) - self.yaw
        cos_yaw, sin_yaw = math.cos(self.yaw), math.sin(self.yaw)
        vx, vy, vz = self._observed_velocity()
        joints = len(self.joints)
        observation = np.empty(self.observation_size, np.float32)
        observation[:8] = (
            z - self._standing_z,
            math.sin(angle),
            math.cos(angle),
            0.3 * (cos_yaw * vx + sin_yaw * vy),
            0.3 * (cos_yaw * vy - sin_yaw * vx),
            0.3 * vz,
            self.roll,
            self.pitch,
        )
        observation[8 : 8 + 2 * joints : 2] = self._joint_positions
        observation[9 : 9 + 2 * joints : 2] = self._joint_speeds
        observation[8 + 2 * joints :] = self._feet_flags
        np.maximum(observation, -5.0, out=observation)
        np.minimum(observation, 5.0, out=observation)
        return observation

    def _observed_velocity(self) -> Sequence[float]:
        """Returns the torso's velocity in m/s, as Roboschool's engine reported it.

        Bullet 2.87 added the speed of the next joint, along the link's own x axis, to the velocity of a link that has
        no joint of its own, as the planar robots' torso. Roboschool's planar policies were trained on that sum.

        Source: btMultiBody::compTreeLinkVelocities of Bullet 2.87; seen by stepping the library in Roboschool's wheel.
        """
        if self._as_port or self.torso < 0:
            velocity: Sequence[float] = self.torso_velocity
            return velocity
        x, y, z, w = self._orientation
        axis = 1.0 - 2.0 * (y * y + z * z), 2.0 * (x * y + w * z), 2.0 * (x * z - w * y)
        return [speed + self._first_joint_speed * part for speed, part in zip(self.torso_velocity, axis, strict=True)]

    def _update_foot_contacts(self) -> int:
        """Updates which feet touch the floor; returns how many feet touch anything else."""
        p = self.world.api
        world = self.world
        on_floor, on_other = set(), set()
        if self._as_port:
            contacts = p.getContactPoints(self.body, world.floor, physicsClientId=world.client)
            on_floor = {contact[3] for contact in contacts if contact[4] == -1}
        else:
            for contact in p.getContactPoints(self.body, physicsClientId=world.client):
                if contact[2] == world.floor:
                    on_floor.add(contact[3])
                else:
                    on_other.add(contact[3])
                    if contact[2] == self.body:
                        on_other.add(contact[4])
        self._feet_flags = [float(foot in on_floor) for foot in self.feet]
        return sum(foot in on_other for foot in self.feet)

    @property
    def feet_flags(self) -> list[float]:
        """1.0 for each foot on the floor, as of the last completed step."""
        return self._feet_flags

    def lay_down(self, *, height_m: float, roll: float, pitch: float, yaw: float) -> None:
        """Puts the base at the origin at a height with an orientation in rad, at rest."""
        p, client = self.world.api, self.world.client
        turn = p.getQuaternionFromEuler((roll, pitch, yaw))
        p.resetBasePositionAndOrientation(self.body, (0.0, 0.0, height_m), turn, physicsClientId=client)

    def pose(self, bodies: Mapping[int, BodyPose], target: tuple[float, float]) -> None:
        """Moves the bodies, and the flag if there is one, to where those of another world are."""
        self.world.pose(bodies)
        self.course.show_target(self, target)
        self._read_parts()

    def camera_target(self) -> tuple[float, float, float]:
        """Point that a camera follows, in m: the torso, at a fixed height, so that the picture does not bob."""
        return self.torso_xyz[0], self.torso_xyz[1], 0.8

    def close(self) -> None:
        """Frees the world."""
        self.world.close()

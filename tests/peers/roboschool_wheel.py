"""Plays robots of OpenAI's Roboschool: the Python code and the Bullet 2.87 of its last wheel, as they were released.

The wheel's binding for Python is built for Python 3.7 and Qt. This module stands in for that binding alone: the few
calls of `cpp_household` that the robots make, on the C API of the wheel's own Bullet. gym is stood in for as far as
the robots import it.

Run: python roboschool_wheel.py WHEEL_FOLDER, with a JSON object for each job on a line of standard input:
`{"robot": "Hopper", "seed": 0, "actions": [[…], …]}` steps through actions, `{"robot": "Hopper", "seed": 0, "agent":
"hopper.npz", "episodes": 2}` plays an agent of its zoo. A line of JSON answers each.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np

HANDLE, INT, DOUBLE, TEXT = ctypes.c_void_p, ctypes.c_int, ctypes.c_double, ctypes.c_char_p
MODULES = ("pendulums", "reacher", "mujoco_walkers", "humanoid_flagrun")
SELF_COLLISION = 8 | 32
TORQUE, POSITION_AND_VELOCITY = 1, 2
REVOLUTE, PRISMATIC = 0, 1
PROTOTYPES: dict[str, tuple[Any, list[Any]]] = {
    "b3ConnectPhysicsDirect": (HANDLE, []),
    "b3SubmitClientCommandAndWaitStatus": (HANDLE, [HANDLE, HANDLE]),
    "b3InitResetSimulationCommand": (HANDLE, [HANDLE]),
    "b3LoadMJCFCommandInit": (HANDLE, [HANDLE, TEXT]),
    "b3LoadMJCFCommandSetFlags": (None, [HANDLE, INT]),
    "b3GetStatusBodyIndices": (INT, [HANDLE, HANDLE, INT]),
    "b3LoadUrdfCommandInit": (HANDLE, [HANDLE, TEXT]),
    "b3LoadUrdfCommandSetStartPosition": (INT, [HANDLE, DOUBLE, DOUBLE, DOUBLE]),
    "b3LoadUrdfCommandSetFlags": (INT, [HANDLE, INT]),
    "b3GetStatusBodyIndex": (INT, [HANDLE]),
    "b3GetBodyInfo": (INT, [HANDLE, INT, HANDLE]),
    "b3GetNumJoints": (INT, [HANDLE, INT]),
    "b3GetJointInfo": (INT, [HANDLE, INT, INT, HANDLE]),
    "b3InitPhysicsParamCommand": (HANDLE, [HANDLE]),
    "b3PhysicsParamSetGravity": (INT, [HANDLE, DOUBLE, DOUBLE, DOUBLE]),
    "b3PhysicsParamSetNumSolverIterations": (INT, [HANDLE, INT]),
    "b3PhysicsParamSetDefaultContactERP": (INT, [HANDLE, DOUBLE]),
    "b3PhysicsParamSetTimeStep": (INT, [HANDLE, DOUBLE]),
    "b3PhysicsParamSetNumSubSteps": (INT, [HANDLE, INT]),
    "b3JointControlCommandInit2": (HANDLE, [HANDLE, INT, INT]),
    "b3JointControlSetDesiredPosition": (INT, [HANDLE, INT, DOUBLE]),
    "b3JointControlSetKp": (INT, [HANDLE, INT, DOUBLE]),
    "b3JointControlSetKd": (INT, [HANDLE, INT, DOUBLE]),
    "b3JointControlSetMaximumForce": (INT, [HANDLE, INT, DOUBLE]),
    "b3JointControlSetDesiredForceTorque": (INT, [HANDLE, INT, DOUBLE]),
    "b3InitStepSimulationCommand": (HANDLE, [HANDLE]),
    "b3RequestActualStateCommandInit": (HANDLE, [HANDLE, INT]),
    "b3RequestActualStateCommandComputeLinkVelocity": (INT, [HANDLE, INT]),
    "b3GetStatusActualState": (INT, [HANDLE] * 8),
    "b3GetLinkState": (None, [HANDLE, HANDLE, INT, HANDLE]),
    "b3CreatePoseCommandInit": (HANDLE, [HANDLE, INT]),
    "b3CreatePoseCommandSetJointPosition": (INT, [HANDLE, HANDLE, INT, DOUBLE]),
    "b3CreatePoseCommandSetJointVelocity": (INT, [HANDLE, HANDLE, INT, DOUBLE]),
    "b3CreatePoseCommandSetBasePosition": (INT, [HANDLE, DOUBLE, DOUBLE, DOUBLE]),
    "b3CreatePoseCommandSetBaseOrientation": (INT, [HANDLE, DOUBLE, DOUBLE, DOUBLE, DOUBLE]),
    "b3CreatePoseCommandSetBaseLinearVelocity": (INT, [HANDLE, HANDLE]),
    "b3InitRequestContactPointInformation": (HANDLE, [HANDLE]),
    "b3SetContactFilterBodyA": (None, [HANDLE, INT]),
    "b3SetContactFilterLinkA": (None, [HANDLE, INT]),
    "b3GetContactPointInformation": (None, [HANDLE, HANDLE]),
}


class JointInfo(ctypes.Structure):
    """The beginning of `b3JointInfo` in Bullet 2.87."""

    _fields_ = (
        *(("link_name", TEXT), ("joint_name", TEXT), ("kind", INT), ("position_at", INT), ("speed_at", INT)),
        *(("number", INT), ("flags", INT), ("damping", DOUBLE), ("friction", DOUBLE), ("low", DOUBLE)),
        *(("high", DOUBLE), ("max_force", DOUBLE), ("max_speed", DOUBLE), ("rest", DOUBLE * 64)),
    )


class BodyInfo(ctypes.Structure):
    """`b3BodyInfo`."""

    _fields_ = (("base_name", TEXT), ("rest", DOUBLE * 512))


class ContactPoint(ctypes.Structure):
    """`b3ContactPointData`."""

    _fields_ = (
        *(("flags", INT), ("body_a", INT), ("body_b", INT), ("link_a", INT), ("link_b", INT)),
        ("numbers", DOUBLE * 11),
    )


class Contacts(ctypes.Structure):
    """`b3ContactInformation`."""

    _fields_ = (("count", INT), ("points", ctypes.POINTER(ContactPoint)))


class Pose:
    """A position in m and an orientation."""

    def __init__(self) -> None:
        self.place: tuple[float, ...] = (0.0, 0.0, 0.0)
        self.turn: tuple[float, ...] = (0.0, 0.0, 0.0, 1.0)

    def set_xyz(self, x: float, y: float, z: float) -> None:
        """Sets the position."""
        self.place = float(x), float(y), float(z)

    def set_rpy(self, roll: float, pitch: float, yaw: float) -> None:
        """Sets the orientation from roll, pitch and yaw in rad."""
        (cr, sr), (cp, sp), (cy, sy) = ((math.cos(a / 2), math.sin(a / 2)) for a in (roll, pitch, yaw))
        self.turn = (
            *(cy * sr * cp - sy * cr * sp, cy * cr * sp + sy * sr * cp),
            *(sy * cr * cp - cy * sr * sp, cy * cr * cp + sy * sr * sp),
        )

    def xyz(self) -> tuple[float, ...]:
        """Returns the position."""
        return self.place

    def rpy(self) -> tuple[float, float, float]:
        """Returns roll, pitch and yaw in rad."""
        x, y, z, w = self.turn
        sine = -2.0 * (x * z - y * w) / (x * x + y * y + z * z + w * w)
        return (
            math.atan2(2.0 * (y * z + x * w), -x * x - y * y + z * z + w * w),
            math.asin(min(max(sine, -1.0), 1.0)),
            math.atan2(2.0 * (x * y + z * w), x * x - y * y - z * z + w * w),
        )


class Part:
    """A link of a body, or with number -1 its base."""

    def __init__(self, robot: Robot, number: int, name: str) -> None:
        self.robot, self.number, self.name = robot, number, name
        self.where = Pose()
        self.velocity: tuple[float, ...] = (0.0, 0.0, 0.0)

    def pose(self) -> Pose:
        """Returns the pose of the center of mass, as last read."""
        return self.where

    def speed(self) -> tuple[float, ...]:
        """Returns the velocity in m/s, as last read."""
        return self.velocity

    def contact_list(self) -> list[Part]:
        """Returns what touches the part."""
        world = self.robot.world
        bullet, client = world.bullet, world.client
        command = bullet.b3InitRequestContactPointInformation(client)
        bullet.b3SetContactFilterBodyA(command, self.robot.body)
        bullet.b3SetContactFilterLinkA(command, self.number)
        world.submit(command)
        found = Contacts()
        bullet.b3GetContactPointInformation(client, ctypes.byref(found))
        points = [found.points[i] for i in range(found.count)]
        return [world.robots[point.body_b].part(point.link_b) for point in points if point.body_b in world.robots]


class Joint:
    """A joint that moves."""

    power_coef = 0.0

    def __init__(self, robot: Robot, info: JointInfo) -> None:
        self.robot, self.info, self.name = robot, info, info.joint_name.decode()
        self.position = self.joint_speed = self.torque = 0.0
        self.is_torque_driven = False

    def limits(self) -> tuple[float, ...]:
        """Returns limits, largest force and largest speed."""
        return self.info.low, self.info.high, self.info.max_force, self.info.max_speed

    def set_motor_torque(self, torque: float) -> None:
        """Sets the torque of the following steps; the first call takes the position motor's force away."""
        if not self.is_torque_driven:
            world, info = self.robot.world, self.info
            command = world.bullet.b3JointControlCommandInit2(world.client, self.robot.body, POSITION_AND_VELOCITY)
            world.bullet.b3JointControlSetDesiredPosition(command, info.position_at, 0.0)
            world.bullet.b3JointControlSetKp(command, info.speed_at, 0.1)
            world.bullet.b3JointControlSetKd(command, info.speed_at, 0.1)
            world.bullet.b3JointControlSetMaximumForce(command, info.speed_at, 0.0)
            world.submit(command)
        self.is_torque_driven = True
        self.torque = float(torque)

    def reset_current_position(self, position: float, speed: float) -> None:
        """Puts the joint somewhere."""
        world = self.robot.world
        command = world.bullet.b3CreatePoseCommandInit(world.client, self.robot.body)
        world.bullet.b3CreatePoseCommandSetJointPosition(world.client, command, self.info.number, float(position))
        world.bullet.b3CreatePoseCommandSetJointVelocity(world.client, command, self.info.number, float(speed))
        world.submit(command)

    def current_position(self) -> tuple[float, float]:
        """Returns position and speed, in the engine's units."""
        return float(np.float32(self.position)), float(np.float32(self.joint_speed))

    def current_relative_position(self) -> tuple[float, float]:
        """Returns the position in its range as -1 to 1, and the scaled speed."""
        position, speed = self.current_position()
        low, high = float(np.float32(self.info.low)), float(np.float32(self.info.high))
        if low < high:
            position = 2.0 * (position - 0.5 * (low + high)) / (high - low)
        return position, speed * (0.1 if self.info.kind == REVOLUTE else 0.5)


class Robot:
    """A body."""

    def __init__(self, world: World, body: int) -> None:
        self.world, self.body = world, body
        world.robots[body] = self
        about = BodyInfo()
        world.bullet.b3GetBodyInfo(world.client, body, ctypes.byref(about))
        self.root_part = Part(self, -1, about.base_name.decode())
        self.parts: list[Part] = []
        self.joints: list[Joint] = []
        for number in range(world.bullet.b3GetNumJoints(world.client, body)):
            info = JointInfo()
            world.bullet.b3GetJointInfo(world.client, body, number, ctypes.byref(info))
            self.parts.append(Part(self, number, info.link_name.decode()))
            if info.kind in (REVOLUTE, PRISMATIC):
                self.joints.append(Joint(self, info))

    def part(self, number: int) -> Part:
        """Returns the part of a link's number."""
        return self.root_part if number < 0 else self.parts[number]

    def set_pose_and_speed(self, pose: Pose, *velocity: float) -> None:
        """Puts the base somewhere."""
        world = self.world
        command = world.bullet.b3CreatePoseCommandInit(world.client, self.body)
        world.bullet.b3CreatePoseCommandSetBasePosition(command, *pose.place)
        world.bullet.b3CreatePoseCommandSetBaseOrientation(command, *pose.turn)
        world.bullet.b3CreatePoseCommandSetBaseLinearVelocity(command, (DOUBLE * 3)(*velocity))
        world.submit(command)

    def query_position(self) -> None:
        """Reads the poses and velocities of all parts and joints."""
        world = self.world
        bullet = world.bullet
        command = bullet.b3RequestActualStateCommandInit(world.client, self.body)
        bullet.b3RequestActualStateCommandComputeLinkVelocity(command, 1)
        status = world.submit(command)
        positions, speeds = ctypes.POINTER(DOUBLE)(), ctypes.POINTER(DOUBLE)()
        nothing = [None] * 4
        bullet.b3GetStatusActualState(status, *nothing, ctypes.byref(positions), ctypes.byref(speeds), None)
        self.root_part.where.place = tuple(positions[0:3])
        self.root_part.where.turn = tuple(positions[3:7])
        self.root_part.velocity = tuple(speeds[0:3])
        for part in self.parts:
            state = (DOUBLE * 64)()
            bullet.b3GetLinkState(world.client, status, part.number, state)
            # Position and quaternion of the center of mass, of the inertial frame and of the link; then its velocity.
            part.where.place, part.where.turn, part.velocity = tuple(state[0:3]), tuple(state[3:7]), tuple(state[21:24])
        for joint in self.joints:
            joint.position, joint.joint_speed = positions[joint.info.position_at], speeds[joint.info.speed_at]


class World:
    """A Bullet world, with Roboschool's settings."""

    bullet: Any

    def __init__(self, gravity: float, timestep: float) -> None:
        self.gravity, self.timestep = gravity, timestep
        self.client = self.bullet.b3ConnectPhysicsDirect()
        self.robots: dict[int, Robot] = {}
        self.is_set_up = False

    def submit(self, command: Any) -> Any:
        """Sends a command and returns its status."""
        return self.bullet.b3SubmitClientCommandAndWaitStatus(self.client, command)

    def clean_everything(self) -> None:
        """Empties the world."""
        self.submit(self.bullet.b3InitResetSimulationCommand(self.client))
        self.robots.clear()
        self.is_set_up = False

    def load_mjcf(self, path: str) -> list[Robot]:
        """Loads a MuJoCo model."""
        command = self.bullet.b3LoadMJCFCommandInit(self.client, path.encode())
        self.bullet.b3LoadMJCFCommandSetFlags(command, SELF_COLLISION)
        bodies = (INT * 512)()
        count = self.bullet.b3GetStatusBodyIndices(self.submit(command), bodies, len(bodies))
        return [Robot(self, body) for body in bodies[:count]]

    def load_urdf(self, path: str, pose: Pose, fixed_base: bool, self_collision: bool) -> Robot:
        """Loads a URDF body."""
        command = self.bullet.b3LoadUrdfCommandInit(self.client, path.encode())
        self.bullet.b3LoadUrdfCommandSetStartPosition(command, *pose.place)
        self.bullet.b3LoadUrdfCommandSetFlags(command, SELF_COLLISION)
        return Robot(self, self.bullet.b3GetStatusBodyIndex(self.submit(command)))

    def step(self, frame_skip: int) -> None:
        """Steps the world, and reads all bodies."""
        bullet = self.bullet
        if not self.is_set_up:
            command = bullet.b3InitPhysicsParamCommand(self.client)
            bullet.b3PhysicsParamSetGravity(command, 0.0, 0.0, -self.gravity)
            bullet.b3PhysicsParamSetNumSolverIterations(command, 5)
            bullet.b3PhysicsParamSetDefaultContactERP(command, 0.9)
            bullet.b3PhysicsParamSetTimeStep(command, self.timestep * frame_skip)
            bullet.b3PhysicsParamSetNumSubSteps(command, frame_skip)
            self.submit(command)
            self.is_set_up = True
        for robot in self.robots.values():
            driven = [joint for joint in robot.joints if joint.is_torque_driven]
            if driven:
                command = bullet.b3JointControlCommandInit2(self.client, robot.body, TORQUE)
                for joint in driven:
                    bullet.b3JointControlSetDesiredForceTorque(command, joint.info.speed_at, joint.torque)
                self.submit(command)
        self.submit(bullet.b3InitStepSimulationCommand(self.client))
        for robot in self.robots.values():
            robot.query_position()

    def __getattr__(self, name: str) -> Any:
        """What the robots draw with."""
        if name.startswith(("test_window", "set_glsl", "new_camera", "debug_", "load_thingy")):
            return lambda *_: None
        raise AttributeError(name)


class Draws:
    """NumPy's generator of today, with the calls that the robots make of gym's."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.uniform = rng.uniform
        self.randint = lambda high: int(rng.uniform() >= 0.5) if high == 2 else int(rng.integers(high))


def load_robots(folder: Path) -> dict[str, Any]:
    """Imports the wheel's modules of robots, on its own Bullet; returns the classes by name."""
    bullet = ctypes.CDLL(str(folder / "roboschool" / ".libs" / "libPhysicsClientC_API.so.2.87"))
    for name, (returns, takes) in PROTOTYPES.items():
        function = getattr(bullet, name)
        function.restype, function.argtypes = returns, takes
    World.bullet = bullet
    stand_ins: dict[str, dict[str, Any]] = {
        "gym": {"Env": type("Env", (), {})},
        "gym.spaces": {"Box": lambda low, high, **_: (low, high)},
        "gym.utils": {},
        "gym.utils.seeding": {"np_random": lambda seed: (None, seed)},
        "roboschool": {"__path__": [str(folder / "roboschool")]},
        "roboschool.cpp_household": {"World": World, "Pose": Pose},
    }
    for name, members in stand_ins.items():
        module = types.ModuleType(name)
        vars(module).update(members)
        sys.modules[name] = module
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)
    modules = [importlib.import_module(f"roboschool.gym_{name}") for name in MODULES]
    return {name: member for module in modules for name, member in vars(module).items()}


def make_robot(kind: Any, rng: np.random.Generator) -> Any:
    """Builds one of the wheel's environments, which draws from `rng`."""
    env = kind()
    env.np_random = Draws(rng)
    env.spec = types.SimpleNamespace(max_episode_steps=1000)
    return env


def follow(env: Any, actions: list[list[float]]) -> dict[str, Any]:
    """Steps through actions; returns all observations and rewards."""
    observations, rewards = [np.asarray(env.reset()).tolist()], []
    for action in actions:
        observation, reward, *_ = env.step(np.array(action, np.float32))
        observations.append(np.asarray(observation).tolist())
        rewards.append(float(reward))
    return {"observations": observations, "rewards": rewards}


def play(env: Any, agent: str, episodes: int, limit: int) -> dict[str, Any]:
    """Plays whole episodes; returns their returns and lengths."""
    with np.load(agent) as arrays:
        weights = {name: arrays[name].astype(np.float32) for name in arrays.files}
    returns, lengths = [], []
    for _ in range(episodes):
        observation, total, length, is_over = np.asarray(env.reset(), np.float32), 0.0, 0, False
        while not is_over and length < limit:
            hidden = np.maximum(observation @ weights["dense1_w"] + weights["dense1_b"], 0)
            hidden = np.maximum(hidden @ weights["dense2_w"] + weights["dense2_b"], 0)
            observation, reward, is_over, _ = env.step(hidden @ weights["final_w"] + weights["final_b"])
            observation = np.asarray(observation, np.float32)
            total, length = total + float(reward), length + 1
        returns.append(total)
        lengths.append(length)
    return {"returns": returns, "lengths": lengths}


def main(folder: Path) -> None:
    """Answers the jobs on standard input."""
    kinds = load_robots(folder)
    for line in sys.stdin:
        job = json.loads(line)
        env = make_robot(kinds[f"Roboschool{job['robot']}"], np.random.default_rng(job["seed"]))
        limit = 150 if job["robot"] == "Reacher" else 1000
        answer = follow(env, job["actions"]) if "actions" in job else play(env, job["agent"], job["episodes"], limit)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Bullet worlds that compiled code steps: built through Bullet's C API, and checked against a Python robot's."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import tempfile
import warnings
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.roboschool import bullet, kernels, native_world
from envs.roboschool.courses import FlagRun, StraightAhead
from envs.roboschool.flagrun_harder import CUBE_HALF_SIZE_M, CUBE_MASS_KG, CUBE_START_M, FlagRunHarder
from envs.roboschool.pendulum import DOUBLE_FORCE_N, SINGLE_FORCE_N, DoublePendulum, SinglePendulum
from envs.roboschool.reacher import TORQUE_NM, Reacher
from envs.roboschool.robots import RenderedRobot, Robot, build_robot
from envs.roboschool.walker import Walker
from envs.roboschool.walker_specs import WALKERS
from envs.roboschool.world import (
    CONTACT_ERP,
    FLOOR_FRICTION,
    POSITION_AT,
    SOLVER_ITERATIONS,
    SPEED_AT,
    STEP_S,
    BodyPose,
    data_file,
    import_pybullet,
    mjcf_flags,
)

# The second of two episodes is short; the first is long enough for every robot to land on its feet.
_CHECKED_STEPS = 70
_FIRST_EPISODE = 60
# With a second body in the world, one world in ten of Bullet 3.2.7 rounds unlike the others, by either API.
_HARDERS_EPISODE = 10
_HARDERS_TOLERANCE = 0.01
_ALIVE_RULES = {
    "hopper": native_world.HOPS,
    "walker2d": native_world.HOPS,
    "halfcheetah": native_world.RUNS_ON_PAWS,
    "ant": native_world.KEEPS_BELLY_UP,
    "humanoid": native_world.STANDS,
}


class NativeWorlds:
    """Bullet worlds of one robot, each in a client of its own.

    Attributes:
        worlds: (N,) records of `native_world.WORLD`.
        theirs: The record of the Python robot, whose bodies may have other numbers.
        rngs: Random generator of each world.

    Args:
        name: Name of the robot, as in its env id.
        count: Number of worlds N.
        as_port: Whether to use the rules of pybullet_envs_gymnasium.
    """

    def __init__(self, name: str, count: int, *, as_port: bool) -> None:
        described = _describe_robot(name, as_port=as_port)
        self.theirs = described["record"]
        self.worlds = np.repeat(described["record"][None], count)
        self.observation_size, self.action_size = described["sizes"]
        library = bullet.load()
        self._clients: list[int] = []
        for world in self.worlds:
            client = library.b3ConnectPhysicsDirect()
            self._clients.append(client)
            numbers = _fill_world(client, described)
            world["client"], world["body"] = client, numbers[int(world["body"])]
            world["target_body"] = numbers.get(int(world["target_body"]), -1)
            world["saved"] = library.b3GetStatusGetStateId(
                bullet.submit(client, library.b3SaveStateCommandInit(client))
            )
        self.seed([None] * count)

    def seed(self, seeds: Sequence[int | np.random.Generator | None]) -> None:
        """Gives each world its own random generator."""
        self.rngs = [np.random.default_rng(seed) for seed in seeds]
        self.worlds["past_tasks"] = self.worlds["successes"] = 0  # an episode with a new seed depends on no earlier one
        # The kernels draw from NumPy's own C structure, which lives as long as the generator.
        self.worlds["bit_generator"] = [rng.bit_generator.ctypes.bit_generator.value for rng in self.rngs]

    def require_open(self) -> None:
        """Checks that the worlds are open; compiled code does not.

        Raises:
            RuntimeError: The worlds are closed.
        """
        if not self._clients:
            raise RuntimeError("this environment is closed; make another")

    def close(self) -> None:
        """Frees the clients; a second call does nothing."""
        library = bullet.load()
        while self._clients:
            library.b3DisconnectSharedMemory(self._clients.pop())


class NativeRobot:
    """One robot, stepped by compiled code.

    Args:
        name: Name of the robot, as in its env id.
        as_port: Whether to use the rules of pybullet_envs_gymnasium.
    """

    def __init__(self, name: str, *, as_port: bool) -> None:
        self._native = NativeWorlds(name, 1, as_port=as_port)
        self.observation_size = self._native.observation_size
        self.action_size = self._native.action_size
        self._observations = np.zeros((1, self.observation_size), np.float32)
        self._rng: np.random.Generator | None = None

    def reset(self, rng: np.random.Generator, *, is_seeded: bool) -> NDArray[np.float32]:
        """Begins an episode."""
        self._draw_from(rng)
        kernels.reset_all(self._native.worlds, self._observations)
        observation: NDArray[np.float32] = self._observations[0].copy()
        return observation

    def step(self, action: NDArray[np.float32], rng: np.random.Generator) -> tuple[NDArray[np.float32], float, bool]:
        """Steps the robot; returns observation, reward, and whether the episode has terminated."""
        self._draw_from(rng)
        reward, has_ended = kernels.step_first(self._native.worlds, action, self._observations)
        return self._observations[0].copy(), reward, has_ended

    def pose_double(self, double: RenderedRobot) -> None:
        """Moves the bodies of a Python robot of the same name to where these are."""
        self._native.require_open()
        mine = self._native.worlds[0]
        theirs = self._native.theirs
        has_second = mine["kind"] == native_world.REACHER or mine["is_harder"]
        names = ["body", "target_body"] if has_second else ["body"]
        bodies = {}
        for name in names:
            body = int(theirs[name])
            infos, joints = double.world.joint_infos(body), double.world.moving_joints(body)
            base = np.empty(7)
            positions = np.empty(len(joints))
            joints_at = np.array([infos[joint][POSITION_AT] for joint in joints])
            kernels.read_pose(self._native.worlds, int(mine[name]), base, joints_at, positions)
            bodies[body] = BodyPose(base.tolist(), positions.tolist())
        double.pose(bodies, (float(mine["target"][0]), float(mine["target"][1])))

    def _draw_from(self, rng: np.random.Generator) -> None:
        self._native.require_open()
        if rng is not self._rng:
            self._native.seed([rng])
            self._rng = rng

    def close(self) -> None:
        """Frees the world."""
        self._native.close()


@functools.cache
def native_fallback_reason(name: str, *, as_port: bool) -> str | None:
    """Returns why Python has to step a robot in this process, or None if compiled code can.

    Compiled code is compared with the Python robot over its first steps, once per process.
    """
    if name == "HumanoidFlagrunHarder" and as_port:
        return "the port's rules of it are not compiled"
    try:
        difference = _compare(name, as_port=as_port)
    except Exception as error:  # a library that is not as expected fails in any way
        difference = f"{type(error).__name__}: {error}"
    if difference is not None:
        warnings.warn(f"{name}: Bullet's C API is not used: {difference}", RuntimeWarning, stacklevel=2)
    return difference


def _compare(name: str, *, as_port: bool) -> str | None:
    """Describes how the first steps of compiled and Python rules differ; None if they agree."""
    reference = build_robot(name, as_port=as_port)
    native = NativeWorlds(name, 1, as_port=as_port)
    observation = np.empty((1, native.observation_size), np.float32)
    rng, theirs = np.random.default_rng(0), np.random.default_rng(1)
    is_harder = bool(native.theirs["is_harder"])
    episode = _HARDERS_EPISODE if is_harder else _FIRST_EPISODE
    tolerance = _HARDERS_TOLERANCE if is_harder else 0.0
    try:
        native.seed([np.random.default_rng(1)])
        for step in range(_CHECKED_STEPS):
            if step % episode == 0:
                kernels.reset_all(native.worlds, observation)
                expected = reference.reset(theirs, is_seeded=True)
                reward = 0.0
                ended = False
                mine: tuple[float, bool] = (0.0, False)
            else:
                action = rng.uniform(-1.2, 1.2, native.action_size).astype(np.float32)
                mine = kernels.step_first(native.worlds, action, observation)
                expected, reward, ended = reference.step(action, theirs)
            distance = max(float(np.abs(observation[0] - expected).max()), abs(mine[0] - reward))
            if not distance <= tolerance or mine[1] != ended:
                return f"step {step} differs from the Python API's"
    finally:
        native.close()
        reference.close()
    return None


@functools.cache
def _describe_robot(name: str, *, as_port: bool) -> dict[str, Any]:
    """Reads a robot's record and sizes, and the contents of its world, from the Python robot."""
    robot = build_robot(name, as_port=as_port)
    world = robot.world
    try:
        record = np.zeros((), native_world.WORLD)
        record["as_port"] = as_port
        record["is_first_episode"] = 1
        record["floor"] = world.floor
        record["tip"] = record["torso"] = -1
        motors = _describe_rules(record, robot, name)
        infos = world.joint_infos(int(record["body"]))
        joints = list(world.joint_names(int(record["body"])).values())
        record["joints"], record["motors"], record["links"] = len(joints), len(motors), len(infos)
        _fill(record, "joint_numbers", joints)
        _fill(record, "joint_positions_at", [infos[joint][POSITION_AT] for joint in joints])
        _fill(record, "joint_speeds_at", [infos[joint][SPEED_AT] for joint in joints])
        _fill(record, "motors_at", [infos[joint][SPEED_AT] for joint in motors])
        driven = {body: world.joint_infos(body) for body in world.torque_driven}
        return {
            "record": record,
            "sizes": (robot.observation_size, robot.action_size),
            "world": {
                name: getattr(world, name)
                for name in ("xml", "gravity", "substeps", "restitution", "has_friction_cone", "floor", "bodies")
            },
            "motors_off": {
                body: [(info[POSITION_AT], info[SPEED_AT]) for info in found if info[SPEED_AT] >= 0]
                for body, found in driven.items()
            },
        }
    finally:
        robot.close()


def _describe_rules(record: Any, robot: Robot, name: str) -> Sequence[int]:
    """Fills in what differs between robots; returns the joints that motors drive."""
    if isinstance(robot, Walker):
        _describe_walker(record, robot)
        return robot.motors
    if isinstance(robot, Reacher):
        record["kind"], record["body"], record["target_body"] = native_world.REACHER, robot.arm, robot.target
        record["tip"], record["torso"] = robot.arm_links["fingertip"], robot.target_links["target"]
        record["torques"] = TORQUE_NM
        return robot.joints
    if isinstance(robot, SinglePendulum):
        record["kind"] = native_world.SWING_UP if robot.swing_up else native_world.PENDULUM
        record["torques"] = SINGLE_FORCE_N
    else:
        assert isinstance(robot, DoublePendulum), name
        record["kind"] = native_world.DOUBLE_PENDULUM
        record["tip"] = robot.cart.links["pole2"]
        record["torques"] = DOUBLE_FORCE_N
    record["body"] = robot.cart.body
    return robot.cart.joints[:1]


def _describe_walker(record: Any, walker: Walker) -> None:
    spec, course = walker.spec, walker.course
    flags = course.flags if isinstance(course, FlagRunHarder) else course
    straight = flags.straight if isinstance(flags, FlagRun) else flags
    assert isinstance(straight, StraightAhead), type(course).__name__
    record["kind"], record["body"], record["torso"] = native_world.WALKER, walker.body, walker.torso
    record["is_flagrun"], record["is_harder"] = isinstance(flags, FlagRun), isinstance(course, FlagRunHarder)
    if isinstance(course, FlagRunHarder):
        record["target_body"], record["pelvis"] = course.cube, course.pelvis
    record["never_falls"] = walker.never_falls
    record["has_float32_torques"] = walker.torques.dtype == np.float32
    record["alive_rule"] = _ALIVE_RULES[next(key for key, known in WALKERS.items() if known is spec)]
    record["feet"] = len(walker.feet)
    record["part_count"] = walker.part_count
    record["fixed_standing_z"] = math.nan if spec.standing_z_m is None else spec.standing_z_m
    record["start_height"] = math.nan if straight.start_height_m is None else straight.start_height_m
    record["yaw_spread"], record["effort_scale"] = straight.yaw_spread, spec.effort_scale
    record["joint_limit_cost"], record["target"][:2] = walker.joint_limit_cost, course.target
    _fill(record, "foot_links", walker.feet)
    _fill(record, "torques", walker.torques)
    _fill(record, "limit_low", walker.limit_low)
    _fill(record, "limit_scale", walker.limit_scale)


def _fill(record: Any, name: str, values: Sequence[float] | NDArray[Any]) -> None:
    record[name][: len(values)] = values


def _fill_world(client: int, described: dict[str, Any]) -> dict[int, int]:
    """Loads floor and robot into an empty world, in the order of `World`.

    Returns:
        The body's number here by its number in the Python API; omitted scenery has none.
    """
    library = bullet.load()
    world = described["world"]
    command = library.b3InitPhysicsParamCommand(client)
    library.b3PhysicsParameterSetDeterministicOverlappingPairs(command, 1)
    library.b3PhysicsParamSetEnableConeFriction(command, int(world["has_friction_cone"]))
    library.b3PhysicsParamSetGravity(command, 0.0, 0.0, -world["gravity"])
    library.b3PhysicsParamSetDefaultContactERP(command, CONTACT_ERP)
    library.b3PhysicsParamSetTimeStep(command, STEP_S)
    library.b3PhysicsParamSetNumSolverIterations(command, SOLVER_ITERATIONS)
    library.b3PhysicsParamSetNumSubSteps(command, world["substeps"])
    bullet.submit(client, command)
    if world["floor"] >= 0:
        for floor in bullet.load_bodies(client, "Sdf", data_file("plane_stadium.sdf")):
            command = library.b3InitChangeDynamicsInfo(client)
            library.b3ChangeDynamicsInfoSetLateralFriction(command, floor, -1, FLOOR_FRICTION)
            library.b3ChangeDynamicsInfoSetRestitution(command, floor, -1, world["restitution"])
            bullet.submit(client, command)
    with _without_scenery(data_file("mjcf", world["xml"])) as path:
        bodies = bullet.load_bodies(client, "MJCF", path, flags=mjcf_flags(import_pybullet()))
    numbers = dict(zip(reversed(world["bodies"]), reversed(bodies), strict=False))
    if described["record"]["is_harder"]:
        cube = bullet.add_cube(client, mass_kg=CUBE_MASS_KG, half_size_m=CUBE_HALF_SIZE_M, place_m=CUBE_START_M)
        numbers[int(described["record"]["target_body"])] = cube
    for body, joints in described["motors_off"].items():
        for position_at, speed_at in joints:
            command = library.b3JointControlCommandInit2(client, numbers[body], bullet.CONTROL_POSITION)
            library.b3JointControlSetDesiredPosition(command, position_at, 0.0)
            library.b3JointControlSetKp(command, speed_at, 0.1)
            library.b3JointControlSetDesiredVelocity(command, speed_at, 0.0)
            library.b3JointControlSetKd(command, speed_at, 0.1)
            library.b3JointControlSetMaximumForce(command, speed_at, 0.0)
            bullet.submit(client, command)
    return numbers


@contextlib.contextmanager
def _without_scenery(path: str) -> Iterator[str]:
    """Yields a file of the robot without walls and planes that touch nothing but cost a third of Reacher's time."""
    tree = ElementTree.parse(path)
    place = tree.find("worldbody")
    scenery = [] if place is None else place.findall("geom")
    if place is None or not scenery or any(item.get("conaffinity") != "0" for item in scenery):
        yield path
        return
    for item in scenery:
        place.remove(item)
    with tempfile.TemporaryDirectory() as folder:
        bare = os.path.join(folder, os.path.basename(path))
        tree.write(bare)
        yield bare

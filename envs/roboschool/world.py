"""One Bullet world: a private DIRECT client with one robot in it, read and driven in as few calls as possible."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

# Compiled code holds it too; by this line envs.compiled knows that it comes from here.
STEP_S = 0.0165
SOLVER_ITERATIONS = 5
CONTACT_ERP = 0.9
FLOOR_FRICTION = 0.8
# Of Bullet's joint infos: where the joint's position and velocity stand in a body's state.
POSITION_AT = 3
SPEED_AT = 4


def import_pybullet() -> Any:
    """Imports pybullet without the build-time line that its C code prints on stderr."""
    import sys

    if "pybullet" in sys.modules:
        return sys.modules["pybullet"]
    sys.stderr.flush()
    kept = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import pybullet
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
    return pybullet


class BodyPose(NamedTuple):
    """Pose of a body.

    Attributes:
        base: Position in m and quaternion of the base.
        joints: Position in rad or m of each joint that moves, sensed or not, in order.
    """

    base: Sequence[float]
    joints: Sequence[float]


class World:
    """A Bullet simulation of one MJCF robot, with Roboschool's solver settings.

    Args:
        xml: The robot's file among those of the pybullet wheel.
        gravity: Downward acceleration in m/s².
        substeps: Bullet's own steps in a step of 0.0165 s.
        has_floor: Whether to load a floor.
        restitution: Restitution of the floor.
        has_friction_cone: Whether friction is limited to a cone, Bullet's default since 2.88, or to a pyramid, as in
            Roboschool's Bullet 2.87: each of two tangential directions on its own.

    Attributes:
        client: Bullet's number of this DIRECT client.
        bodies: Bullet's numbers of the bodies in the MJCF file, in file order.
        floor: Bullet's number of the floor, or -1.
        torque_driven: Bodies whose position motors are disabled.
    """

    def __init__(
        self,
        xml: str,
        *,
        gravity: float,
        substeps: int,
        has_floor: bool,
        restitution: float = 0.0,
        has_friction_cone: bool = False,
    ) -> None:
        self.xml = xml
        self.gravity = gravity
        self.substeps = substeps
        self.restitution = restitution
        self.has_friction_cone = has_friction_cone
        self.torque_driven: list[int] = []
        p = self.api = import_pybullet()
        # connect(DIRECT) and not BulletClient(): that one tries shared memory first and may join a foreign server.
        self.client: int = p.connect(p.DIRECT)
        client = {"physicsClientId": self.client}
        p.setPhysicsEngineParameter(
            deterministicOverlappingPairs=1, enableConeFriction=int(has_friction_cone), **client
        )
        p.setGravity(0, 0, -gravity, **client)
        p.setDefaultContactERP(CONTACT_ERP, **client)
        p.setPhysicsEngineParameter(
            fixedTimeStep=STEP_S, numSolverIterations=SOLVER_ITERATIONS, numSubSteps=substeps, **client
        )
        self.floor = self._load_floor(restitution) if has_floor else -1
        self.bodies: tuple[int, ...] = p.loadMJCF(data_file("mjcf", xml), flags=mjcf_flags(p), **client)
        self._saved = -1

    def _load_floor(self, restitution: float) -> int:
        floors = self.api.loadSDF(data_file("plane_stadium.sdf"), physicsClientId=self.client)
        for floor in floors:
            self.api.changeDynamics(
                floor, -1, lateralFriction=FLOOR_FRICTION, restitution=restitution, physicsClientId=self.client
            )
        return int(floors[0])

    def link_names(self, body: int) -> dict[str, int]:
        """Bullet's link number of each link of a body, by the link's name, in order."""
        return {name: i for i, (_, name) in enumerate(self._names(body))}

    def joint_names(self, body: int) -> dict[str, int]:
        """Returns the number of each joint that moves and that the robot senses, by name, in order."""
        found = {}
        for i, (name, _) in enumerate(self._names(body)):
            if not name.startswith(("ignore", "jointfix")):
                found[name] = i
        return found

    def joint_infos(self, body: int) -> list[tuple[Any, ...]]:
        """Bullet's getJointInfo of every joint of a body."""
        count = self.api.getNumJoints(body, physicsClientId=self.client)
        return [self.api.getJointInfo(body, i, physicsClientId=self.client) for i in range(count)]

    def moving_joints(self, body: int) -> list[int]:
        """Numbers of the joints that move; planar robots have some that nothing senses."""
        return [joint for joint, info in enumerate(self.joint_infos(body)) if info[SPEED_AT] >= 0]

    def _names(self, body: int) -> list[tuple[str, str]]:
        return [(info[1].decode(), info[12].decode()) for info in self.joint_infos(body)]

    def joint_limits(self, body: int, joint: int) -> tuple[float, float]:
        """Lower and upper limit in rad or m; lower > upper means unlimited."""
        info = self.api.getJointInfo(body, joint, physicsClientId=self.client)
        return float(info[8]), float(info[9])

    def disable_motors(self, body: int) -> None:
        """Disables Bullet's default position motors, so that torques alone drive the joints."""
        self.torque_driven.append(body)
        p = self.api
        count = self.api.getNumJoints(body, physicsClientId=self.client)
        for i in range(count):
            p.setJointMotorControl2(
                body, i, p.POSITION_CONTROL, positionGain=0.1, velocityGain=0.1, force=0, physicsClientId=self.client
            )

    def reset_joints(self, body: int, joints: Sequence[int], positions: Iterable[float]) -> None:
        """Puts joints at positions (rad or m) at rest, in one call."""
        self.api.resetJointStatesMultiDof(
            body,
            joints,
            targetValues=[[position] for position in positions],
            targetVelocities=[[0.0]] * len(joints),
            physicsClientId=self.client,
        )

    def pose(self, bodies: Mapping[int, BodyPose]) -> None:
        """Moves bodies, at rest, to where those of another world are."""
        for body, pose in bodies.items():
            base = pose.base[:3], pose.base[3:]
            self.api.resetBasePositionAndOrientation(body, *base, physicsClientId=self.client)
            self.reset_joints(body, self.moving_joints(body), pose.joints)

    def restore(self) -> bool:
        """Returns to the saved state; false when none was saved yet."""
        if self._saved < 0:
            return False
        self.api.restoreState(self._saved, physicsClientId=self.client)
        return True

    def save(self) -> None:
        """Remembers the present state, once, for `restore`."""
        if self._saved < 0:
            self._saved = self.api.saveState(physicsClientId=self.client)

    def close(self) -> None:
        """Frees the client (about 29 MB); a second call does nothing."""
        if self.client >= 0:
            self.api.disconnect(physicsClientId=self.client)
            self.client = -1


def mjcf_flags(p: Any) -> int:
    """Returns the flags for loading robots: parts collide with each other, except parents with their children."""
    flags: int = p.URDF_USE_SELF_COLLISION | p.URDF_USE_SELF_COLLISION_EXCLUDE_ALL_PARENTS
    return flags | int(p.URDF_GOOGLEY_UNDEFINED_COLORS)


def data_file(*parts: str) -> str:
    """Returns the path of a file that the pybullet wheel ships."""
    import pybullet_data

    return os.path.join(pybullet_data.getDataPath(), *parts)

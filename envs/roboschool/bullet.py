"""Bindings of Bullet's C API, which the pybullet wheel exports, for compiled loops that step worlds without Python.

pybullet's own calls cost a microsecond or more each, and never release the GIL. Its library exports the C functions
behind them: `load` binds them for set-up (ctypes), `step`, `read_state` and the others below for
compiled code. A client is a pointer to its own Bullet server in this process.

Source: bullet3 3.25, examples/SharedMemory/PhysicsClientC_API.h and SharedMemoryPublic.h.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from envs.compiled import without_gil
from envs.roboschool.world import import_pybullet

_POINTER, _INT, _DOUBLE = types.intp, types.int32, types.float64
_C_TYPES = {_POINTER: ctypes.c_void_p, _INT: ctypes.c_int, _DOUBLE: ctypes.c_double}
# What set-up calls: the C function, what it returns and what it takes.
_SET_UP = {
    "b3ConnectPhysicsDirect": (_POINTER, ()),
    "b3DisconnectSharedMemory": (_INT, (_POINTER,)),
    "b3InitPhysicsParamCommand": (_POINTER, (_POINTER,)),
    "b3PhysicsParameterSetDeterministicOverlappingPairs": (_INT, (_POINTER, _INT)),
    "b3PhysicsParamSetEnableConeFriction": (_INT, (_POINTER, _INT)),
    "b3PhysicsParamSetGravity": (_INT, (_POINTER, _DOUBLE, _DOUBLE, _DOUBLE)),
    "b3PhysicsParamSetDefaultContactERP": (_INT, (_POINTER, _DOUBLE)),
    "b3PhysicsParamSetTimeStep": (_INT, (_POINTER, _DOUBLE)),
    "b3PhysicsParamSetNumSolverIterations": (_INT, (_POINTER, _INT)),
    "b3PhysicsParamSetNumSubSteps": (_INT, (_POINTER, _INT)),
    "b3LoadSdfCommandInit": (_POINTER, (_POINTER, _POINTER)),
    "b3LoadMJCFCommandInit": (_POINTER, (_POINTER, _POINTER)),
    "b3LoadMJCFCommandSetFlags": (_INT, (_POINTER, _INT)),
    "b3GetStatusBodyIndices": (_INT, (_POINTER, _POINTER, _INT)),
    "b3CreateCollisionShapeCommandInit": (_POINTER, (_POINTER,)),
    "b3CreateCollisionShapeAddBox": (_INT, (_POINTER, _POINTER)),
    "b3GetStatusCollisionShapeUniqueId": (_INT, (_POINTER,)),
    "b3CreateMultiBodyCommandInit": (_POINTER, (_POINTER,)),
    "b3CreateMultiBodyBase": (_INT, (_POINTER, _DOUBLE, _INT, _INT, _POINTER, _POINTER, _POINTER, _POINTER)),
    "b3GetStatusBodyIndex": (_INT, (_POINTER,)),
    "b3InitChangeDynamicsInfo": (_POINTER, (_POINTER,)),
    "b3ChangeDynamicsInfoSetLateralFriction": (_INT, (_POINTER, _INT, _INT, _DOUBLE)),
    "b3ChangeDynamicsInfoSetRestitution": (_INT, (_POINTER, _INT, _INT, _DOUBLE)),
    "b3JointControlSetDesiredPosition": (_INT, (_POINTER, _INT, _DOUBLE)),
    "b3JointControlSetKp": (_INT, (_POINTER, _INT, _DOUBLE)),
    "b3JointControlSetDesiredVelocity": (_INT, (_POINTER, _INT, _DOUBLE)),
    "b3JointControlSetKd": (_INT, (_POINTER, _INT, _DOUBLE)),
    "b3JointControlSetMaximumForce": (_INT, (_POINTER, _INT, _DOUBLE)),
    "b3SaveStateCommandInit": (_POINTER, (_POINTER,)),
    "b3GetStatusGetStateId": (_INT, (_POINTER,)),
}
# What compiled loops call.
_HOT = {
    "b3SubmitClientCommandAndWaitStatus": (_POINTER, (_POINTER, _POINTER)),
    "b3JointControlCommandInit2": (_POINTER, (_POINTER, _INT, _INT)),
    "b3JointControlSetDesiredForceTorque": (_INT, (_POINTER, _INT, _DOUBLE)),
    "b3InitStepSimulationCommand": (_POINTER, (_POINTER,)),
    "b3RequestActualStateCommandInit": (_POINTER, (_POINTER, _INT)),
    "b3RequestActualStateCommandComputeLinkVelocity": (_INT, (_POINTER, _INT)),
    "b3GetStatusActualState2": (_INT, (_POINTER,) * 13),
    "b3InitRequestContactPointInformation": (_POINTER, (_POINTER,)),
    "b3SetContactFilterBodyA": (_INT, (_POINTER, _INT)),
    "b3SetContactFilterBodyB": (_INT, (_POINTER, _INT)),
    "b3GetContactPointInformation": (_INT, (_POINTER, _POINTER)),
    "b3CreatePoseCommandInit": (_POINTER, (_POINTER, _INT)),
    "b3CreatePoseCommandSetBasePosition": (_INT, (_POINTER, _DOUBLE, _DOUBLE, _DOUBLE)),
    "b3CreatePoseCommandSetBaseOrientation": (_INT, (_POINTER, _DOUBLE, _DOUBLE, _DOUBLE, _DOUBLE)),
    "b3CreatePoseCommandSetBaseLinearVelocity": (_INT, (_POINTER, _POINTER)),
    "b3CreatePoseCommandSetBaseAngularVelocity": (_INT, (_POINTER, _POINTER)),
    "b3CreatePoseCommandSetJointPosition": (_INT, (_POINTER, _POINTER, _INT, _DOUBLE)),
    "b3CreatePoseCommandSetJointVelocity": (_INT, (_POINTER, _POINTER, _INT, _DOUBLE)),
    "b3LoadStateCommandInit": (_POINTER, (_POINTER,)),
    "b3LoadStateSetStateId": (_INT, (_POINTER, _INT)),
}
CONTROL_TORQUE = 1
CONTROL_POSITION = 2
# Of b3ContactPointData, in bytes.
_CONTACT_SIZE = 176
_BODY_B_AT = 8
_LINK_A_AT = 12
_LINK_B_AT = 16


@functools.cache
def load() -> Any:
    """Loads pybullet's library for compiled code, and returns its functions for set-up.

    Raises:
        AttributeError: The library lacks one of them.
    """
    path = import_pybullet().__file__
    llvmlite.binding.load_library_permanently(path)
    library = ctypes.CDLL(path)
    for name, (returns, takes) in (_SET_UP | _HOT).items():
        function = getattr(library, name)
        function.restype = _C_TYPES[returns]
        function.argtypes = [_C_TYPES[kind] for kind in takes]
    return library


def submit(client: int, command: int) -> int:
    """Sends a command; returns the handle of its status."""
    return int(load().b3SubmitClientCommandAndWaitStatus(client, command) or 0)


def load_bodies(client: int, kind: str, path: str, *, flags: int | None = None) -> list[int]:
    """Loads an `Sdf` or `MJCF` file; returns Bullet's numbers of its bodies."""
    library = load()
    command = getattr(library, f"b3Load{kind}CommandInit")(client, ctypes.c_char_p(os.fsencode(path)))
    if flags is not None:
        library.b3LoadMJCFCommandSetFlags(command, flags)
    found = (ctypes.c_int * 16)()
    count = library.b3GetStatusBodyIndices(submit(client, command), ctypes.cast(found, ctypes.c_void_p), len(found))
    if count <= 0:
        raise OSError(f"{path}: Bullet loads no body from it")
    return list(found[:count])


def add_cube(client: int, *, mass_kg: float, half_size_m: float, place_m: tuple[float, float, float]) -> int:
    """Adds a cube; returns Bullet's number of it."""
    library = load()

    def doubles(*values: float) -> ctypes.c_void_p:
        return ctypes.cast((ctypes.c_double * len(values))(*values), ctypes.c_void_p)

    command = library.b3CreateCollisionShapeCommandInit(client)
    library.b3CreateCollisionShapeAddBox(command, doubles(*[half_size_m] * 3))
    shape = library.b3GetStatusCollisionShapeUniqueId(submit(client, command))
    command = library.b3CreateMultiBodyCommandInit(client)
    here, upright = doubles(0.0, 0.0, 0.0), doubles(0.0, 0.0, 0.0, 1.0)
    library.b3CreateMultiBodyBase(command, mass_kg, shape, -1, doubles(*place_m), upright, here, upright)
    return int(library.b3GetStatusBodyIndex(submit(client, command)))


def _hot(name: str) -> Any:
    returns, takes = _HOT[name]
    return types.ExternalFunction(name, returns(*takes))


_submit = _hot("b3SubmitClientCommandAndWaitStatus")
_control = _hot("b3JointControlCommandInit2")
_set_torque = _hot("b3JointControlSetDesiredForceTorque")
_begin_step = _hot("b3InitStepSimulationCommand")
_request_state = _hot("b3RequestActualStateCommandInit")
_with_velocity = _hot("b3RequestActualStateCommandComputeLinkVelocity")
_get_state = _hot("b3GetStatusActualState2")
_request_contacts = _hot("b3InitRequestContactPointInformation")
_contacts_of = _hot("b3SetContactFilterBodyA")
_contacts_with = _hot("b3SetContactFilterBodyB")
_get_contacts = _hot("b3GetContactPointInformation")
_pose = _hot("b3CreatePoseCommandInit")
_pose_base = _hot("b3CreatePoseCommandSetBasePosition")
_turn_base = _hot("b3CreatePoseCommandSetBaseOrientation")
_move_base = _hot("b3CreatePoseCommandSetBaseLinearVelocity")
_spin_base = _hot("b3CreatePoseCommandSetBaseAngularVelocity")
_pose_joint = _hot("b3CreatePoseCommandSetJointPosition")
_pose_speed = _hot("b3CreatePoseCommandSetJointVelocity")
_load_state = _hot("b3LoadStateCommandInit")
_state_number = _hot("b3LoadStateSetStateId")


def _read(kind: types.Type) -> Any:
    @intrinsic  # type: ignore[untyped-decorator]  # numba has no types
    def read(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            pointer = builder.inttoptr(arguments[0], context.get_value_type(kind).as_pointer())
            return builder.load(pointer)

        return kind(types.intp), generate

    return read


_read_double, _read_pointer, _read_int = _read(types.float64), _read(types.intp), _read(types.int32)


@intrinsic  # type: ignore[untyped-decorator]  # numba has no types
def next_double(typing_context: Any, bit_generator: Any) -> Any:
    """Draws a uniform number in 0..1 from a NumPy bit generator, given the address of its C structure."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        # numpy/random/bitgen.h: state, next_uint64, next_uint32, next_double, next_raw; a pointer each.
        address = cgutils.voidptr_t
        members = builder.inttoptr(arguments[0], address.as_pointer())
        state = builder.load(builder.gep(members, [ir.Constant(ir.IntType(64), 0)]))
        function = builder.load(builder.gep(members, [ir.Constant(ir.IntType(64), 3)]))
        draw = ir.FunctionType(ir.DoubleType(), [address]).as_pointer()
        return builder.call(builder.bitcast(function, draw), [state])

    return types.float64(types.intp), generate


@without_gil
def uniform(bit_generator: int, low: float, high: float) -> float:
    """Draws the same number as `Generator.uniform(low, high)`, bit for bit."""
    return low + (high - low) * next_double(bit_generator)


@without_gil
def step(client: int, body: int, motors: Any, torques: Any, count: int) -> None:
    """Applies `count` torques (Nm) at velocity indices `motors`, and steps the world."""
    command = _control(client, np.int32(body), np.int32(CONTROL_TORQUE))
    for i in range(count):
        _set_torque(command, np.int32(motors[i]), torques[i])
    _submit(client, command)
    _submit(client, _begin_step(client))


@without_gil
def read_state(client: int, body: int, links_velocity: int, found: Any) -> None:
    """Reads a body's state.

    Args:
        client: Client of the world.
        body: Number of the body.
        links_velocity: Whether to compute the velocities of links.
        found: (4,) intp; gets the addresses of positions, velocities, link poses and link velocities, valid until the
            next command: numbers of `position`, `speed`, `link_pose` and `link_speed`.
    """
    command = _request_state(client, np.int32(body))
    if links_velocity:
        _with_velocity(command, np.int32(1))
    status = _submit(client, command)
    at = found.ctypes.data
    _get_state(status, 0, 0, 0, 0, 0, at, at + 8, 0, 0, 0, at + 16, at + 24)


@without_gil
def position(found: Any, index: int) -> float:
    """Reads positions: the base's position and quaternion at 0..6, then joints by their position index."""
    return _read_double(found[0] + 8 * index)


@without_gil
def speed(found: Any, index: int) -> float:
    """Reads velocities: the base's at 0..5, then joints by their velocity index."""
    return _read_double(found[1] + 8 * index)


@without_gil
def link_pose(found: Any, link: int, index: int) -> float:
    """Reads position (m) at 0..2 and quaternion at 3..6 of a link's center of mass."""
    return _read_double(found[2] + 8 * (7 * link + index))


@without_gil
def link_speed(found: Any, link: int, index: int) -> float:
    """Reads the velocity (m/s) of a link's center of mass at 0..2."""
    return _read_double(found[3] + 8 * (6 * link + index))


@without_gil
def read_contacts(client: int, body: int, other: int, found: Any) -> Any:
    """Reads a body's contacts, or only those with one other body if that is not -1.

    Returns:
        Number of contacts; `contact` reads them until the next command, from `found` (4,) intp.
    """
    command = _request_contacts(client)
    _contacts_of(command, np.int32(body))
    if other >= 0:
        _contacts_with(command, np.int32(other))
    _submit(client, command)
    _get_contacts(client, found.ctypes.data)
    return np.int64(_read_int(found.ctypes.data))


@without_gil
def contact(found: Any, number: int) -> Any:
    """Reads a contact: own link, other body, and the other body's link."""
    at = found[1] + _CONTACT_SIZE * number
    link, other, other_link = _read_int(at + _LINK_A_AT), _read_int(at + _BODY_B_AT), _read_int(at + _LINK_B_AT)
    return np.int64(link), np.int64(other), np.int64(other_link)


@without_gil
def pose_joints(client: int, body: int, joints: Any, positions: Any, count: int) -> None:
    """Sets joint positions (rad or m), at rest."""
    command = _pose(client, np.int32(body))
    for i in range(count):
        _pose_joint(client, command, np.int32(joints[i]), positions[i])
        _pose_speed(client, command, np.int32(joints[i]), 0.0)
    _submit(client, command)


@without_gil
def pose_base(client: int, body: int, height: float, x: float, y: float, z: float, w: float) -> None:
    """Sets the height (m) of a base above the origin and its orientation, at rest."""
    command = _pose(client, np.int32(body))
    _pose_base(command, 0.0, 0.0, height)
    _turn_base(command, x, y, z, w)
    _submit(client, command)


@without_gil
def put_base(client: int, body: int, place: Any) -> None:
    """Puts a base at (3,) `place` in m, upright and at rest."""
    command = _pose(client, np.int32(body))
    _pose_base(command, place[0], place[1], place[2])
    _turn_base(command, 0.0, 0.0, 0.0, 1.0)
    _submit(client, command)


@without_gil
def throw_base(client: int, body: int, velocity: Any) -> None:
    """Gives a base a (3,) float64 velocity in m/s, without rotation."""
    still = np.zeros(3)
    command = _pose(client, np.int32(body))
    _move_base(command, velocity.ctypes.data)
    _spin_base(command, still.ctypes.data)
    _submit(client, command)


@without_gil
def restore(client: int, state: int) -> None:
    """Returns to a saved state."""
    command = _load_state(client)
    _state_number(command, np.int32(state))
    _submit(client, command)

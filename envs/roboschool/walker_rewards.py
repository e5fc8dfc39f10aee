"""Rewards of the walking robots: Hopper, Walker2d, HalfCheetah, Ant and Humanoid.

Source: openai/roboschool 1.0.49; for the port pybullet_envs_gymnasium 0.6.0. `walker_kernels` has the compiled twin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ELECTRICITY_COST = -2.0
_STALL_TORQUE_COST = -0.1
_JOINT_AT_LIMIT_COST = -0.2
_PORT_JOINT_AT_LIMIT_COST = -0.1
_FEET_COLLISION_COST = -1.0

# Alive reward from the torso's height (m), its pitch (rad) and the feet's contact flags before the step; a negative
# one ends the episode.
AliveRule = Callable[[float, float, Sequence[float]], float]


def walker_reward(
    *, alive: float, progress: float, motors: float, joints_at_limits: float, feet_collisions: int
) -> float:
    """Returns the reward of a step.

    Args:
        alive: Alive reward of the robot, or of its course.
        progress: Increase of the course's potential: the speed towards the target in m/s.
        motors: Cost of the motors, from `motor_cost`.
        joints_at_limits: Cost of the joints at their limits.
        feet_collisions: Number of feet that touch anything but the floor.
    """
    reward = alive + progress + motors + joints_at_limits
    return reward + _FEET_COLLISION_COST * feet_collisions


def motor_cost(
    action: NDArray[Any], joint_speeds: NDArray[np.float32], *, effort_scale: float, electricity_factor: float
) -> float:
    """Returns the cost of electricity and of stall torque.

    Args:
        action: (A,) unclipped action.
        joint_speeds: (A,) joint speeds times 0.1, in rad/s.
        effort_scale: The robot's factor on both costs.
        electricity_factor: The course's factor on the cost of electricity.
    """
    electricity = electricity_factor * _ELECTRICITY_COST * effort_scale
    mechanical = float(np.abs(action * joint_speeds).mean())
    return electricity * mechanical + _STALL_TORQUE_COST * effort_scale * float((action * action).mean())


def joint_at_limit_cost(*, as_port: bool) -> float:
    """Returns the cost of each joint within 1 % of its range from a limit."""
    return _PORT_JOINT_AT_LIMIT_COST if as_port else _JOINT_AT_LIMIT_COST


def joints_at_limits_cost(joint_positions: NDArray[np.float32], *, each: float) -> float:
    """Returns the cost of all joints that are within 1 % of their range from a limit.

    Args:
        joint_positions: (A,) positions in their range, -1 to 1.
        each: Cost of each, from `joint_at_limit_cost`.
    """
    return each * int(np.count_nonzero(np.abs(joint_positions) > 0.99))


def alive_hopper(z: float, pitch: float, feet: Sequence[float]) -> float:
    """Returns the alive reward of Hopper and Walker2d: above 0.8 m and upright."""
    return 1.0 if z > 0.8 and abs(pitch) < 1.0 else -1.0


def alive_cheetah(z: float, pitch: float, feet: Sequence[float]) -> float:
    """Returns the alive reward of HalfCheetah: upright, and on its paws only."""
    # feet: ffoot, fshin, fthigh, bfoot, bshin, bthigh; only the paws may touch the floor.
    on_knees = feet[1] or feet[2] or feet[4] or feet[5]
    return 1.0 if abs(pitch) < 1.0 and not on_knees else -1.0


def alive_ant(z: float, pitch: float, feet: Sequence[float]) -> float:
    """Returns the alive reward of Ant: its body off the floor."""
    return 1.0 if z > 0.26 else -1.0  # its central sphere has a radius of 0.25 m


def alive_humanoid(z: float, pitch: float, feet: Sequence[float]) -> float:
    """Returns the alive reward of Humanoid: its torso above 0.78 m."""
    # 2 because noise on 17 motors costs much electricity, and living must beat dying.
    return 2.0 if z > 0.78 else -1.0

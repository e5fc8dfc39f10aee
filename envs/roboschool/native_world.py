"""The record of a world that compiled code steps, and what all robots share: random draws, torques and poses."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import without_gil
from envs.roboschool import bullet

REACHER, PENDULUM, SWING_UP, DOUBLE_PENDULUM, WALKER = range(5)
HOPS, RUNS_ON_PAWS, KEEPS_BELLY_UP, STANDS = range(4)
MOST_JOINTS = 20
MOST_FEET = 6
TASKS_REMEMBERED = 10  # of FlagrunHarder, of each kind

# One world: its handles and numbers in Bullet, its robot's rules, and the state of its episode.
WORLD = np.dtype(
    [
        ("client", np.int64),
        ("bit_generator", np.int64),
        ("saved", np.int64),
        ("found", np.int64, 4),
        ("kind", np.int64),
        ("body", np.int64),
        ("target_body", np.int64),
        ("floor", np.int64),
        ("as_port", np.int64),
        ("is_flagrun", np.int64),
        ("is_harder", np.int64),
        ("has_float32_torques", np.int64),
        ("alive_rule", np.int64),
        ("never_falls", np.int64),
        ("links", np.int64),
        ("torso", np.int64),
        ("tip", np.int64),
        ("joints", np.int64),
        ("motors", np.int64),
        ("feet", np.int64),
        ("joint_numbers", np.int64, MOST_JOINTS),
        ("joint_positions_at", np.int64, MOST_JOINTS),
        ("joint_speeds_at", np.int64, MOST_JOINTS),
        ("motors_at", np.int64, MOST_JOINTS),
        ("foot_links", np.int64, MOST_FEET),
        ("torques", np.float64, MOST_JOINTS),
        ("limit_low", np.float64, MOST_JOINTS),
        ("limit_scale", np.float64, MOST_JOINTS),
        ("fixed_standing_z", np.float64),
        ("start_height", np.float64),
        ("yaw_spread", np.float64),
        ("effort_scale", np.float64),
        ("joint_limit_cost", np.float64),
        ("part_count", np.int64),
        ("is_first_episode", np.int64),
        ("target", np.float64, 3),
        ("flag_steps_left", np.int64),
        ("pelvis", np.int64),
        ("task", np.int64),
        ("task_steps", np.int64),
        ("steps_on_ground", np.int64),
        ("is_down", np.int64),
        ("crawl_start", np.float64),
        ("crawl_ignored", np.float64),
        ("past_tasks", np.int64, 3),
        ("successes", np.int64, (3, TASKS_REMEMBERED)),
        ("standing_z", np.float64),
        ("potential", np.float64),
        ("pitch", np.float64),
        ("torso_z", np.float64),
        ("mean", np.float64, 2),
        ("foot_flags", np.float64, MOST_FEET),
        ("joint_positions", np.float32, MOST_JOINTS),
        ("joint_speeds", np.float32, MOST_JOINTS),
        ("steps", np.int64),
        ("episode_return", np.float64),
    ],
    align=True,
)


@without_gil
def clip(value: float) -> float:
    """Clips a number to ±1."""
    return min(max(value, -1.0), 1.0)


@without_gil
def draw(world: Any, low: float, high: float) -> float:
    """Draws a uniform number from the world's own generator."""
    return bullet.uniform(world.bit_generator, low, high)


@without_gil
def push(world: Any, action: Any) -> None:
    """Applies clipped torques and steps the world."""
    torques = np.empty(MOST_JOINTS)
    for i in range(world.motors):
        if world.has_float32_torques:
            torques[i] = np.float32(world.torques[i]) * np.float32(clip(action[i]))
        else:
            torques[i] = world.torques[i] * clip(action[i])
    bullet.step(world.client, world.body, world.motors_at, torques, world.motors)


@without_gil
def pose_at_random(world: Any, low: float, high: float, first: int, middle: float) -> None:
    """Puts the joints from `first` on at random positions around `middle`; the others stay."""
    positions = np.empty(MOST_JOINTS)
    count = world.joints - first
    for i in range(count):
        positions[i] = middle + draw(world, low, high)
    bullet.pose_joints(world.client, world.body, world.joint_numbers[first:], positions, count)


@without_gil
def lay_down(world: Any, height: float, pitch: float, yaw: float) -> None:
    """Places the robot at a height (m), pitch and yaw (rad), with pybullet's rounding of the quaternion."""
    sine_p, cosine_p = math.sin(pitch * 0.5), math.cos(pitch * 0.5)
    sine_y, cosine_y = math.sin(yaw * 0.5), math.cos(yaw * 0.5)
    x, y = -sine_p * sine_y, sine_p * cosine_y
    z, w = cosine_p * sine_y, cosine_p * cosine_y
    length = math.sqrt(x * x + y * y + z * z + w * w)
    bullet.pose_base(world.client, world.body, height, x / length, y / length, z / length, w / length)

"""Compiled step and reward of the walking robots: bit-equal to `walker`, `walker_rewards` and `courses`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import without_gil
from envs.roboschool import bullet
from envs.roboschool.flagrun_harder import CUBE_START_M
from envs.roboschool.harder_kernels import alive_in_harder, begin_harder, potential_in_harder
from envs.roboschool.native_world import (
    HOPS,
    KEEPS_BELLY_UP,
    MOST_FEET,
    MOST_JOINTS,
    RUNS_ON_PAWS,
    draw,
    lay_down,
    pose_at_random,
    push,
)
from envs.roboschool.world import STEP_S


@without_gil
def _move_flag(world: Any, x: float, y: float) -> None:
    world.target[0], world.target[1] = x, y
    world.flag_steps_left = 150


@without_gil
def _move_flag_anywhere(world: Any) -> None:
    x = draw(world, -26.25, 26.25)
    y = draw(world, -12.5, 12.5)
    _move_flag(world, x * 0.5, y * 0.5)


@without_gil
def _target_distance(world: Any) -> float:
    x, y = world.target[0] - world.mean[0], world.target[1] - world.mean[1]
    return math.sqrt(x * x + y * y)


@without_gil
def _add_first_joint_speed(world: Any, pose: Any, velocity: Any) -> None:
    """Adds what Roboschool's engine added to a planar torso's velocity: `Walker._observed_velocity` says why."""
    x, y, z, w = pose[3], pose[4], pose[5], pose[6]
    joint_speed = bullet.speed(world.found, world.joint_speeds_at[0])
    velocity[0] += joint_speed * (1.0 - 2.0 * (y * y + z * z))
    velocity[1] += joint_speed * (2.0 * (x * y + w * z))
    velocity[2] += joint_speed * (2.0 * (x * z - w * y))


@without_gil
def _mean_place(world: Any, axis: int) -> float:
    """Computes the mean of all parts along x or y (m), in NumPy's order of summation (by eights)."""
    has_base = 1 if world.torso < 0 and world.as_port else 0  # port: the base of the body is a part, too
    total = np.zeros(8)
    parts = world.links + has_base
    blocked = parts - parts % 8
    for part in range(blocked):
        total[part % 8] += _part_place(world, part - has_base, axis)
    mean = ((total[0] + total[1]) + (total[2] + total[3])) + ((total[4] + total[5]) + (total[6] + total[7]))
    for part in range(blocked, parts):
        mean += _part_place(world, part - has_base, axis)
    return mean / world.part_count


@without_gil
def _part_place(world: Any, link: int, axis: int) -> float:
    return bullet.position(world.found, axis) if link < 0 else bullet.link_pose(world.found, link, axis)


@without_gil
def _read_joints(world: Any) -> None:
    for i in range(world.joints):
        raw = bullet.position(world.found, world.joint_positions_at[i])
        world.joint_positions[i] = (raw - world.limit_low[i]) * world.limit_scale[i] - 1.0
        world.joint_speeds[i] = 0.1 * bullet.speed(world.found, world.joint_speeds_at[i])


@without_gil
def _flag_has_moved(world: Any) -> bool:
    """Counts down and moves the flag if it is reached or has timed out; returns whether it moved."""
    if not world.is_flagrun:
        return False
    world.flag_steps_left -= 1
    has_moved = _target_distance(world) < 1.0 or world.flag_steps_left <= 0
    if has_moved:
        _move_flag_anywhere(world)
    return has_moved


@without_gil
def _observe_walker(world: Any, observation: Any) -> bool:
    """Reads joints and parts, moves the flag, and writes the observation.

    Returns:
        Whether the flag has moved.
    """
    found, torso = world.found, world.torso
    bullet.read_state(world.client, world.body, 1, found)
    _read_joints(world)
    pose, velocity = np.empty(7), np.empty(3)
    for i in range(7):
        pose[i] = bullet.position(found, i) if torso < 0 else bullet.link_pose(found, torso, i)
    for i in range(3):
        velocity[i] = bullet.speed(found, i) if torso < 0 else bullet.link_speed(found, torso, i)
    if torso >= 0 and not world.as_port:
        _add_first_joint_speed(world, pose, velocity)
    world.mean[0], world.mean[1] = _mean_place(world, 0), _mean_place(world, 1)
    has_moved = _flag_has_moved(world)
    roll, pitch, yaw = euler(pose[3], pose[4], pose[5], pose[6])
    world.pitch, world.torso_z = pitch, pose[2]
    if math.isnan(world.standing_z):
        world.standing_z = pose[2]
    angle = math.atan2(world.target[1] - world.mean[1], world.target[0] - world.mean[0]) - yaw
    cosine, sine = math.cos(yaw), math.sin(yaw)
    observation[0] = pose[2] - world.standing_z
    observation[1], observation[2] = math.sin(angle), math.cos(angle)
    observation[3] = 0.3 * (cosine * velocity[0] + sine * velocity[1])
    observation[4] = 0.3 * (cosine * velocity[1] - sine * velocity[0])
    observation[5] = 0.3 * velocity[2]
    observation[6], observation[7] = roll, pitch
    at = 8
    for i in range(world.joints):
        observation[at], observation[at + 1] = world.joint_positions[i], world.joint_speeds[i]
        at += 2
    for i in range(world.feet):
        observation[at + i] = world.foot_flags[i]
    for i in range(at + world.feet):
        if observation[i] > 5.0:
            observation[i] = 5.0
        elif observation[i] < -5.0:
            observation[i] = -5.0
    return has_moved


@without_gil
def euler(x: float, y: float, z: float, w: float) -> tuple[float, float, float]:
    """Converts a quaternion to roll, pitch and yaw (rad), bit-equal to pybullet's getEulerFromQuaternion."""
    sine = -2.0 * (x * z - w * y)
    if sine <= -0.99999:
        return 0.0, -0.5 * math.pi, 2.0 * math.atan2(x, -y)
    if sine >= 0.99999:
        return 0.0, 0.5 * math.pi, 2.0 * math.atan2(-x, y)
    roll = math.atan2(2.0 * (y * z + w * x), w * w - x * x - y * y + z * z)
    yaw = math.atan2(2.0 * (x * y + w * z), w * w + x * x - y * y - z * z)
    return roll, math.asin(sine), yaw


@without_gil
def reset_walker(world: Any, observation: Any) -> None:
    """Begins an episode."""
    bullet.restore(world.client, world.saved)
    pose_at_random(world, -0.1, 0.1, 0, 0.0)
    world.foot_flags[:] = 0.0
    world.standing_z = world.fixed_standing_z
    if world.is_harder:
        begin_harder(world)
    elif not math.isnan(world.start_height):
        lay_down(world, world.start_height, 0.0, draw(world, -world.yaw_spread, world.yaw_spread))
    if world.is_flagrun:
        if not world.as_port and draw(world, 0.0, 1.0) < 0.5:
            _move_flag(world, draw(world, 13.125, 26.25), 0.0)
        else:
            _move_flag_anywhere(world)
    if world.is_harder:
        place = np.empty(3)
        for i in range(3):
            place[i] = CUBE_START_M[i]
        bullet.put_base(world.client, world.target_body, place)
    _observe_walker(world, observation)
    world.potential = _potential(world)
    if world.as_port and world.is_first_episode:
        world.part_count += 1  # port: the floor counts as a part of the robot


@without_gil
def _potential(world: Any) -> float:
    """Returns minus the distance to the target, over the step; in FlagrunHarder the course's own potential."""
    progress = -_target_distance(world) / STEP_S
    return potential_in_harder(world, progress) if world.is_harder else progress


@without_gil
def _alive_reward(world: Any, z: float) -> float:
    feet = world.foot_flags
    if world.alive_rule == HOPS:
        return 1.0 if z > 0.8 and abs(world.pitch) < 1.0 else -1.0
    if world.alive_rule == RUNS_ON_PAWS:
        on_knees = feet[1] + feet[2] + feet[4] + feet[5] > 0
        return 1.0 if abs(world.pitch) < 1.0 and not on_knees else -1.0
    if world.alive_rule == KEEPS_BELLY_UP:
        return 1.0 if z > 0.26 else -1.0
    return 2.0 if z > 0.78 else -1.0


@without_gil
def _update_foot_contacts(world: Any) -> int:
    """Updates which feet touch the floor; returns how many feet touch anything else."""
    other = world.floor if world.as_port else -1
    count = bullet.read_contacts(world.client, world.body, other, world.found)
    touching = np.zeros(MOST_FEET, np.int64)
    world.foot_flags[:] = 0.0
    for number in range(count):
        link, body, body_link = bullet.contact(world.found, number)
        for i in range(world.feet):
            if body == world.floor and not (world.as_port and body_link != -1):
                if link == world.foot_links[i]:
                    world.foot_flags[i] = 1.0
            elif link == world.foot_links[i] or (body == world.body and body_link == world.foot_links[i]):
                touching[i] = 1
    return touching.sum()


@without_gil
def _sum_float32(values: Any, count: int) -> float:
    """Returns the sum of float32 numbers in NumPy's order of additions."""
    total = np.zeros(8, np.float32)
    blocked = count - count % 8
    for i in range(blocked):
        total[i % 8] += values[i]
    found = ((total[0] + total[1]) + (total[2] + total[3])) + ((total[4] + total[5]) + (total[6] + total[7]))
    for i in range(blocked, count):
        found = np.float32(found + values[i])
    return found


@without_gil
def _walker_costs(world: Any, action: Any) -> tuple[float, float]:
    """Returns the cost of the motors, and of joints at their limits."""
    count = world.motors
    works, squares = np.empty(MOST_JOINTS, np.float32), np.empty(MOST_JOINTS, np.float32)
    for i in range(count):
        works[i] = abs(action[i] * world.joint_speeds[i])
        squares[i] = action[i] * action[i]
    factor = 0.5 if world.is_flagrun and not world.as_port else 1.0
    if world.is_harder and world.is_down:
        factor = 0.2
    mechanical = np.float64(np.float32(_sum_float32(works, count) / np.float32(count)))
    electricity = factor * -2.0 * world.effort_scale
    stall = np.float64(np.float32(_sum_float32(squares, count) / np.float32(count)))
    effort = electricity * mechanical + -0.1 * world.effort_scale * stall
    at_limit = 0
    for i in range(world.joints):
        at_limit += abs(world.joint_positions[i]) > np.float32(0.99)
    return effort, world.joint_limit_cost * at_limit


@without_gil
def _walker_reward(world: Any, action: Any, alive: float, progress: float, collisions: int) -> float:
    """Returns the reward of a step: `walker_rewards.walker_reward`, with its costs."""
    effort, limits = _walker_costs(world, action)
    reward = alive + progress + effort + limits
    if not world.as_port:
        reward += -1.0 * collisions
    return reward


@without_gil
def step_walker(world: Any, action: Any, observation: Any) -> tuple[float, bool]:
    """Steps a walker; returns the reward, and whether the robot has fallen."""
    push(world, action)
    has_moved = _observe_walker(world, observation)
    z = np.float64(observation[0]) + world.standing_z
    alive = alive_in_harder(world, z) if world.is_harder else _alive_reward(world, z)
    after = _potential(world)
    before = after if has_moved and not world.as_port else world.potential
    world.potential = after
    collisions = _update_foot_contacts(world)
    reward = _walker_reward(world, action, alive, after - before, collisions)
    total = np.float32(0.0)
    for i in range(8 + 2 * world.joints + world.feet):
        total += observation[i]
    return reward, (alive < 0 and not world.never_falls) or not math.isfinite(total)

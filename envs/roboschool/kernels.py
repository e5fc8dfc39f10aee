"""The robots' rules compiled: what `reacher`, `pendulum`, `walker` and `courses` do, on Bullet's C API, bit for bit.

The Python classes are the reference; `native` copies their numbers into `WORLD` records and compares both before the
compiled ones are used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.roboschool import bullet
from envs.roboschool.bullet import compiled

REACHER, PENDULUM, SWING_UP, DOUBLE_PENDULUM, WALKER = range(5)
HOPS, RUNS_ON_PAWS, KEEPS_BELLY_UP, STANDS = range(4)
_JOINTS, _FEET = 20, 6
STEP_S = 0.0165

# One world of its own: which (handles and numbers in Bullet), its robot's rules, and its episode so far.
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
        ("has_float32_torques", np.int64),
        ("alive_rule", np.int64),
        ("never_falls", np.int64),
        ("links", np.int64),
        ("torso", np.int64),
        ("tip", np.int64),
        ("joints", np.int64),
        ("motors", np.int64),
        ("feet", np.int64),
        ("joint_numbers", np.int64, _JOINTS),
        ("joint_positions_at", np.int64, _JOINTS),
        ("joint_speeds_at", np.int64, _JOINTS),
        ("motors_at", np.int64, _JOINTS),
        ("foot_links", np.int64, _FEET),
        ("torques", np.float64, _JOINTS),
        ("limit_low", np.float64, _JOINTS),
        ("limit_scale", np.float64, _JOINTS),
        ("fixed_standing_z", np.float64),
        ("start_height", np.float64),
        ("yaw_spread", np.float64),
        ("effort_scale", np.float64),
        ("joint_limit_cost", np.float64),
        ("part_count", np.int64),
        ("is_first_episode", np.int64),
        ("target", np.float64, 3),
        ("flag_steps_left", np.int64),
        ("standing_z", np.float64),
        ("potential", np.float64),
        ("pitch", np.float64),
        ("mean", np.float64, 2),
        ("foot_flags", np.float64, _FEET),
        ("joint_positions", np.float32, _JOINTS),
        ("joint_speeds", np.float32, _JOINTS),
        ("steps", np.int64),
        ("episode_return", np.float64),
    ],
    align=True,
)


@compiled
def _clip(value: float) -> float:
    return min(max(value, -1.0), 1.0)


@compiled
def _draw(world: Any, low: float, high: float) -> float:
    return bullet.uniform(world.bit_generator, low, high)


@compiled
def _push(world: Any, action: Any) -> None:
    """Clipped torques, and one step of the world."""
    torques = np.empty(_JOINTS)
    for i in range(world.motors):
        if world.has_float32_torques:
            torques[i] = np.float32(world.torques[i]) * np.float32(_clip(action[i]))
        else:
            torques[i] = world.torques[i] * _clip(action[i])
    bullet.step(world.client, world.body, world.motors_at, torques, world.motors)


@compiled
def _pose_at_random(world: Any, low: float, high: float, first: int, middle: float) -> None:
    """Joints from `first` on at random around `middle`; the others stay."""
    positions = np.empty(_JOINTS)
    count = world.joints - first
    for i in range(count):
        positions[i] = middle + _draw(world, low, high)
    bullet.pose_joints(world.client, world.body, world.joint_numbers[first:], positions, count)


# The arm.


@compiled
def _reset_reacher(world: Any, observation: Any) -> None:
    places = np.empty(2)
    for i in range(2):
        places[i] = _draw(world, -0.27, 0.27)
    # The target's two joints are the first two of its body, as the arm's are of its own.
    bullet.pose_joints(world.client, world.target_body, np.arange(2), places, 2)
    _pose_at_random(world, -3.14, 3.14, 0, 0.0)
    bullet.read_state(world.client, world.target_body, 0, world.found)
    for i in range(3):
        world.target[i] = bullet.link_pose(world.found, world.torso, i)
    for i in range(2):  # what the joints themselves say, is observed
        observation[i] = bullet.position(world.found, 7 + i)
    _observe_reacher(world, observation)


@compiled
def _observe_reacher(world: Any, observation: Any) -> None:
    """All but the target's place, which stays; and the potential."""
    bullet.read_state(world.client, world.body, 0, world.found)
    squares = 0.0
    for i in range(3):
        away = bullet.link_pose(world.found, world.tip, i) - world.target[i]
        squares += away * away
        if i < 2:
            observation[2 + i] = away
    central = bullet.position(world.found, world.joint_positions_at[0])
    elbow = bullet.position(world.found, world.joint_positions_at[1])
    theta = 1.0 - 2.0 * central if world.as_port else central
    observation[4], observation[5] = math.cos(theta), math.sin(theta)
    observation[6] = 0.1 * bullet.speed(world.found, world.joint_speeds_at[0])
    observation[7] = elbow / 3.0
    observation[8] = 0.1 * bullet.speed(world.found, world.joint_speeds_at[1])
    world.potential = -100.0 * math.sqrt(squares)


@compiled
def _step_reacher(world: Any, action: Any, observation: Any) -> float:
    _push(world, action)
    before = world.potential
    _observe_reacher(world, observation)
    theta_dot = 0.1 * bullet.speed(world.found, world.joint_speeds_at[0])
    gamma = bullet.position(world.found, world.joint_positions_at[1]) / 3.0
    gamma_dot = 0.1 * bullet.speed(world.found, world.joint_speeds_at[1])
    stuck = -0.1 if abs(abs(gamma) - 1.0) < 0.01 else 0.0
    if world.as_port:  # in float32, with NumPy's rules of today
        turns = abs(action[0] * np.float32(theta_dot)) + abs(action[1] * np.float32(gamma_dot))
        cost = np.float32(-0.10) * turns - np.float32(0.01) * (abs(action[0]) + abs(action[1]))
        return world.potential - before + np.float64(cost) + stuck
    first, second = np.float64(action[0]), np.float64(action[1])
    work = abs(first * theta_dot) + abs(second * gamma_dot)
    effort = -0.10 * work - 0.01 * (abs(first) + abs(second))
    return world.potential - before + effort + stuck


# Carts with poles.


@compiled
def _observe_cart(world: Any, observation: Any) -> None:
    bullet.read_state(world.client, world.body, 0, world.found)
    observation[0] = bullet.position(world.found, world.joint_positions_at[0])
    observation[1] = bullet.speed(world.found, world.joint_speeds_at[0])
    at = 2
    if world.kind == DOUBLE_PENDULUM:
        observation[2] = bullet.link_pose(world.found, world.tip, 0)
        at = 3
    for i in range(1, world.joints):
        angle = bullet.position(world.found, world.joint_positions_at[i])
        observation[at], observation[at + 1] = math.cos(angle), math.sin(angle)
        observation[at + 2] = bullet.speed(world.found, world.joint_speeds_at[i])
        at += 3


@compiled
def _reset_cart(world: Any, observation: Any) -> None:
    bullet.restore(world.client, world.saved)
    _pose_at_random(world, -0.1, 0.1, 1, 3.1415 if world.kind == SWING_UP else 0.0)
    _observe_cart(world, observation)


@compiled
def _step_cart(world: Any, action: Any, observation: Any) -> tuple[float, bool]:
    _push(world, action)
    _observe_cart(world, observation)
    if world.kind == DOUBLE_PENDULUM:
        x = bullet.link_pose(world.found, world.tip, 0)
        tip_z = bullet.link_pose(world.found, world.tip, 2) + 0.3
        return 10.0 - (0.01 * (x * x) + (tip_z - 2.0) * (tip_z - 2.0)), tip_z <= 1.0
    theta = bullet.position(world.found, world.joint_positions_at[1])
    if world.kind == SWING_UP:
        return math.cos(theta), False
    return 1.0, abs(theta) > 0.2


# Walkers.


@compiled
def _lay_down(world: Any, height: float, yaw: float) -> None:
    """Upright at a height (m), turned by a yaw (rad); pybullet's own quaternion, rounding included."""
    half = yaw * 0.5
    sine, cosine = math.sin(half), math.cos(half)
    length = math.sqrt(sine * sine + cosine * cosine)
    bullet.pose_base(world.client, world.body, height, 0.0, 0.0, sine / length, cosine / length)


@compiled
def _move_flag(world: Any, x: float, y: float) -> None:
    world.target[0], world.target[1] = x, y
    world.flag_steps_left = 150


@compiled
def _move_flag_anywhere(world: Any) -> None:
    x = _draw(world, -26.25, 26.25)
    y = _draw(world, -12.5, 12.5)
    _move_flag(world, x * 0.5, y * 0.5)


@compiled
def _target_distance(world: Any) -> float:
    x, y = world.target[0] - world.mean[0], world.target[1] - world.mean[1]
    return math.sqrt(x * x + y * y)


@compiled
def _mean_place(world: Any, axis: int) -> float:
    """Mean of all parts along x or y (m), summed as NumPy sums: by eights where there are as many."""
    has_base = 1 if world.torso < 0 else 0
    total = np.zeros(8)
    parts = world.links + has_base
    blocked = parts - parts % 8
    for part in range(blocked):
        total[part % 8] += _part_place(world, part - has_base, axis)
    mean = ((total[0] + total[1]) + (total[2] + total[3])) + ((total[4] + total[5]) + (total[6] + total[7]))
    for part in range(blocked, parts):
        mean += _part_place(world, part - has_base, axis)
    return mean / world.part_count


@compiled
def _part_place(world: Any, link: int, axis: int) -> float:
    return bullet.position(world.found, axis) if link < 0 else bullet.link_pose(world.found, link, axis)


@compiled
def _read_joints(world: Any) -> None:
    for i in range(world.joints):
        raw = bullet.position(world.found, world.joint_positions_at[i])
        world.joint_positions[i] = (raw - world.limit_low[i]) * world.limit_scale[i] - 1.0
        world.joint_speeds[i] = 0.1 * bullet.speed(world.found, world.joint_speeds_at[i])


@compiled
def _observe_walker(world: Any, observation: Any) -> bool:
    """Reads joints and parts, moves the flag, and describes it all.

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
    world.mean[0], world.mean[1] = _mean_place(world, 0), _mean_place(world, 1)
    has_moved = False
    if world.is_flagrun:
        world.flag_steps_left -= 1
        has_moved = _target_distance(world) < 1.0 or world.flag_steps_left <= 0
        if has_moved:
            _move_flag_anywhere(world)
    roll, pitch, yaw = euler(pose[3], pose[4], pose[5], pose[6])
    world.pitch = pitch
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


@compiled
def euler(x: float, y: float, z: float, w: float) -> tuple[float, float, float]:
    """Roll, pitch and yaw (rad) of a quaternion, as pybullet's getEulerFromQuaternion has them."""
    sine = -2.0 * (x * z - w * y)
    if sine <= -0.99999:
        return 0.0, -0.5 * math.pi, 2.0 * math.atan2(x, -y)
    if sine >= 0.99999:
        return 0.0, 0.5 * math.pi, 2.0 * math.atan2(-x, y)
    roll = math.atan2(2.0 * (y * z + w * x), w * w - x * x - y * y + z * z)
    yaw = math.atan2(2.0 * (x * y + w * z), w * w + x * x - y * y - z * z)
    return roll, math.asin(sine), yaw


@compiled
def _reset_walker(world: Any, observation: Any) -> None:
    bullet.restore(world.client, world.saved)
    _pose_at_random(world, -0.1, 0.1, 0, 0.0)
    world.foot_flags[:] = 0.0
    world.standing_z = world.fixed_standing_z
    if not math.isnan(world.start_height):
        _lay_down(world, world.start_height, _draw(world, -world.yaw_spread, world.yaw_spread))
    if world.is_flagrun:
        if not world.as_port and _draw(world, 0.0, 1.0) < 0.5:
            _move_flag(world, _draw(world, 13.125, 26.25), 0.0)
        else:
            _move_flag_anywhere(world)
    _observe_walker(world, observation)
    world.potential = -_target_distance(world) / STEP_S
    if world.as_port and world.is_first_episode:
        world.part_count += 1  # the floor counts as a part of the robot, says the port


@compiled
def _is_alive(world: Any, z: float) -> float:
    feet = world.foot_flags
    if world.alive_rule == HOPS:
        return 1.0 if z > 0.8 and abs(world.pitch) < 1.0 else -1.0
    if world.alive_rule == RUNS_ON_PAWS:
        on_knees = feet[1] + feet[2] + feet[4] + feet[5] > 0
        return 1.0 if abs(world.pitch) < 1.0 and not on_knees else -1.0
    if world.alive_rule == KEEPS_BELLY_UP:
        return 1.0 if z > 0.26 else -1.0
    return 2.0 if z > 0.78 else -1.0


@compiled
def _feel_feet(world: Any) -> int:
    """Notes which feet touch the floor; returns how many touch anything else."""
    other = world.floor if world.as_port else -1
    count = bullet.read_contacts(world.client, world.body, other, world.found)
    touching = np.zeros(_FEET, np.int64)
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


@compiled
def _sum_float32(values: Any, count: int) -> float:
    """The sum of float32 numbers as NumPy takes it."""
    total = np.zeros(8, np.float32)
    blocked = count - count % 8
    for i in range(blocked):
        total[i % 8] += values[i]
    found = ((total[0] + total[1]) + (total[2] + total[3])) + ((total[4] + total[5]) + (total[6] + total[7]))
    for i in range(blocked, count):
        found = np.float32(found + values[i])
    return found


@compiled
def _walkers_costs(world: Any, action: Any) -> float:
    """Electricity, and joints at their limits."""
    count = world.motors
    works, squares = np.empty(_JOINTS, np.float32), np.empty(_JOINTS, np.float32)
    for i in range(count):
        works[i] = abs(action[i] * world.joint_speeds[i])
        squares[i] = action[i] * action[i]
    factor = 0.5 if world.is_flagrun and not world.as_port else 1.0
    mechanical = np.float64(np.float32(_sum_float32(works, count) / np.float32(count)))
    electricity = factor * -2.0 * world.effort_scale
    stall = np.float64(np.float32(_sum_float32(squares, count) / np.float32(count)))
    effort = electricity * mechanical + -0.1 * world.effort_scale * stall
    at_limit = 0
    for i in range(world.joints):
        at_limit += abs(world.joint_positions[i]) > np.float32(0.99)
    return effort, world.joint_limit_cost * at_limit


@compiled
def _step_walker(world: Any, action: Any, observation: Any) -> tuple[float, bool]:
    _push(world, action)
    has_moved = _observe_walker(world, observation)
    alive = _is_alive(world, np.float64(observation[0]) + world.standing_z)
    after = -_target_distance(world) / STEP_S
    before = after if has_moved and not world.as_port else world.potential
    world.potential = after
    collisions = _feel_feet(world)
    effort, limits = _walkers_costs(world, action)
    reward = alive + (after - before) + effort + limits
    if not world.as_port:
        reward += -1.0 * collisions
    total = np.float32(0.0)
    for i in range(8 + 2 * world.joints + world.feet):
        total += observation[i]
    return reward, (alive < 0 and not world.never_falls) or not math.isfinite(total)


# Any robot.


@compiled
def reset_one(world: Any, observation: Any) -> None:
    """Begins an episode in one world."""
    if world.kind == WALKER:
        _reset_walker(world, observation)
    elif world.kind == REACHER:
        _reset_reacher(world, observation)
    else:
        _reset_cart(world, observation)
    world.is_first_episode = 0
    world.steps, world.episode_return = 0, 0.0


@compiled
def step_one(world: Any, action: Any, observation: Any) -> tuple[float, bool]:
    """One step of one world: its observation is written over the last; reward, and whether the rules end it."""
    if world.kind == WALKER:
        return _step_walker(world, action, observation)
    if world.kind == REACHER:
        return _step_reacher(world, action, observation), False
    return _step_cart(world, action, observation)


@compiled
def step_first(worlds: Any, action: Any, observations: Any) -> tuple[float, bool]:
    """`step_one` of the first world, for Python."""
    return step_one(worlds[0], action, observations[0])


@compiled
def reset_all(worlds: Any, observations: Any) -> None:
    """Begins an episode in every world."""
    for i in range(len(worlds)):
        reset_one(worlds[i], observations[i])


@compiled
def advance(
    worlds: Any,
    actions: Any,
    observations: Any,
    last_observations: Any,
    rewards: Any,
    terminated: Any,
    truncated: Any,
    returns: Any,
    lengths: Any,
    max_steps: int,
) -> None:
    """A step of every world, and at once a new episode where one ends.

    Args:
        worlds: (N,) of `WORLD`.
        actions: (N, A) float32.
        observations: (N, O) float32; becomes what the next action is for.
        last_observations: (N, O) float32; where an episode ends, what it ended with.
        rewards: (N,) float32.
        terminated: (N,) bool, ended by the rules.
        truncated: (N,) bool, cut after `max_steps`.
        returns: (N,) float64; where an episode ends, the sum of its rewards.
        lengths: (N,) int64; where an episode ends, its steps.
        max_steps: Of an episode.
    """
    for i in range(len(worlds)):
        world = worlds[i]
        reward, has_ended = step_one(world, actions[i], observations[i])
        world.steps += 1
        world.episode_return += reward
        rewards[i], terminated[i], truncated[i] = reward, has_ended, world.steps >= max_steps
        if terminated[i] or truncated[i]:
            last_observations[i] = observations[i]
            returns[i], lengths[i] = world.episode_return, world.steps
            reset_one(world, observations[i])

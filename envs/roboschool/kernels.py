"""Compiled steps and rewards of all robots, on Bullet's C API: bit-equal to `reacher`, `pendulum` and `walker`.

The Python classes are the reference; `native` copies their numbers into `WORLD` records and compares both before the
compiled ones are used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import without_gil
from envs.roboschool import bullet
from envs.roboschool.native_world import DOUBLE_PENDULUM, REACHER, SWING_UP, WALKER, draw, pose_at_random, push
from envs.roboschool.walker_kernels import reset_walker, step_walker


@without_gil
def _reset_reacher(world: Any, observation: Any) -> None:
    places = np.empty(2)
    for i in range(2):
        places[i] = draw(world, -0.27, 0.27)
    # The target's two joints are the first two of its body, as the arm's are of its own.
    bullet.pose_joints(world.client, world.target_body, np.arange(2), places, 2)
    pose_at_random(world, -3.14, 3.14, 0, 0.0)
    bullet.read_state(world.client, world.target_body, 0, world.found)
    for i in range(3):
        world.target[i] = bullet.link_pose(world.found, world.torso, i)
    for i in range(2):  # observed are the joints' own positions
        observation[i] = bullet.position(world.found, 7 + i)
    _observe_reacher(world, observation)


@without_gil
def _observe_reacher(world: Any, observation: Any) -> None:
    """Updates the potential, and the observation except for the target's place, which is constant."""
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


@without_gil
def _step_reacher(world: Any, action: Any, observation: Any) -> float:
    push(world, action)
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


@without_gil
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


@without_gil
def _reset_cart(world: Any, observation: Any) -> None:
    bullet.restore(world.client, world.saved)
    pose_at_random(world, -0.1, 0.1, 1, 3.1415 if world.kind == SWING_UP else 0.0)
    _observe_cart(world, observation)


@without_gil
def _step_cart(world: Any, action: Any, observation: Any) -> tuple[float, bool]:
    push(world, action)
    _observe_cart(world, observation)
    if world.kind == DOUBLE_PENDULUM:
        x = bullet.link_pose(world.found, world.tip, 0)
        tip_z = bullet.link_pose(world.found, world.tip, 2) + 0.3
        return 10.0 - (0.01 * (x * x) + (tip_z - 2.0) * (tip_z - 2.0)), tip_z <= 1.0
    theta = bullet.position(world.found, world.joint_positions_at[1])
    if world.kind == SWING_UP:
        return math.cos(theta), False
    return 1.0, abs(theta) > 0.2


@without_gil
def reset_one(world: Any, observation: Any) -> None:
    """Begins an episode in one world."""
    if world.kind == WALKER:
        reset_walker(world, observation)
    elif world.kind == REACHER:
        _reset_reacher(world, observation)
    else:
        _reset_cart(world, observation)
    world.is_first_episode = 0
    world.steps = 0
    world.episode_return = 0.0


@without_gil
def step_one(world: Any, action: Any, observation: Any) -> tuple[float, bool]:
    """Steps one world in place; returns the reward, and whether the episode has terminated."""
    if world.kind == WALKER:
        return step_walker(world, action, observation)
    if world.kind == REACHER:
        return _step_reacher(world, action, observation), False
    return _step_cart(world, action, observation)


@without_gil
def read_pose(worlds: Any, body: int, base: Any, joints_at: Any, joints: Any) -> None:
    """Reads a body of the first world: position and quaternion (7,) of its base, and its joints."""
    found = worlds[0].found
    bullet.read_state(worlds[0].client, body, 0, found)
    for i in range(7):
        base[i] = bullet.position(found, i)
    for i in range(len(joints_at)):
        joints[i] = bullet.position(found, joints_at[i])


@without_gil
def step_first(worlds: Any, action: Any, observations: Any) -> tuple[float, bool]:
    """Runs `step_one` on the first world, for Python."""
    return step_one(worlds[0], action, observations[0])


@without_gil
def reset_all(worlds: Any, observations: Any) -> None:
    """Begins an episode in every world."""
    for i in range(len(worlds)):
        reset_one(worlds[i], observations[i])


@without_gil
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
    """Steps every world; where an episode ends, the next one begins at once.

    Args:
        worlds: (N,) of `WORLD`.
        actions: (N, A) float32.
        observations: (N, O) float32; receives the observations for the next actions.
        last_observations: (N, O) float32; receives the final observation of each episode that ends.
        rewards: (N,) float32.
        terminated: (N,) bool; true where the rules end the episode.
        truncated: (N,) bool; true where the step limit ends the episode.
        returns: (N,) float64; receives the return of each episode that ends.
        lengths: (N,) int64; receives the length in steps of each episode that ends.
        max_steps: Step limit of an episode.
    """
    for i in range(len(worlds)):
        world = worlds[i]
        reward, has_ended = step_one(world, actions[i], observations[i])
        world.steps += 1
        world.episode_return += reward
        rewards[i] = reward
        terminated[i] = has_ended
        truncated[i] = world.steps >= max_steps
        if terminated[i] or truncated[i]:
            last_observations[i] = observations[i]
            returns[i], lengths[i] = world.episode_return, world.steps
            reset_one(world, observations[i])

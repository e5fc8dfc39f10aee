"""Compiled rules of HumanoidFlagrunHarder: bit-equal to `flagrun_harder`, but for what Bullet itself rounds unlike."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import without_gil
from envs.roboschool import bullet
from envs.roboschool.flagrun_harder import (
    LEAK_TO_POTENTIAL,
    STANDING_Z_M,
    START_HEIGHTS_M,
    START_PITCHES,
    STEP_LIMIT,
    STEPS_ON_GROUND_AT_MOST,
    THROW_EVERY,
    THROW_FROM_M,
    THROWS_AFTER,
    WALK,
)
from envs.roboschool.native_world import TASKS_REMEMBERED, draw, lay_down


@without_gil
def begin_harder(world: Any) -> None:
    """Draws the next task by failure rate, and poses the robot for it."""
    world.task_steps = world.steps_on_ground = world.is_down = 0
    world.crawl_start, world.crawl_ignored = math.nan, 0.0
    failures = np.empty(3)
    for task in range(3):
        known = min(world.past_tasks[task], TASKS_REMEMBERED)
        failures[task] = 1.0 - world.successes[task].sum() / (1.0 + known)
    at = draw(world, 0.0, 1.0) * (failures[0] + failures[1] + failures[2])
    world.task = int(at >= failures[0]) + int(at >= failures[0] + failures[1])
    yaw = draw(world, -world.yaw_spread, world.yaw_spread)
    lay_down(world, START_HEIGHTS_M[world.task], START_PITCHES[world.task], yaw)


@without_gil
def alive_in_harder(world: Any, z: float) -> float:
    """Returns the alive reward at a torso height (m), and throws the cube when it is time to."""
    on_feet = world.steps_on_ground == 0
    if on_feet and world.task_steps > THROWS_AFTER and world.task_steps % THROW_EVERY == 0:
        _throw_cube(world)
    world.is_down = z < STANDING_Z_M
    if world.is_down:
        world.steps_on_ground += 1
    elif world.steps_on_ground > 0:
        world.steps_on_ground -= 1
    world.task_steps += 1
    has_failed = world.steps_on_ground >= (1 if world.task == WALK else STEPS_ON_GROUND_AT_MOST)
    if has_failed or world.task_steps == STEP_LIMIT:
        world.successes[world.task, world.past_tasks[world.task] % TASKS_REMEMBERED] = world.task_steps == STEP_LIMIT
        world.past_tasks[world.task] += 1
    return -1.0 if has_failed else _leak(world)


@without_gil
def _leak(world: Any) -> float:
    """Returns the alive reward, which the potential leaks, from the heights of torso and pelvis."""
    height = 0.7 * world.torso_z + 0.3 * bullet.link_pose(world.found, world.pelvis, 2)
    return 0.5 + 1.5 * float(min(max(height, 0.0), 0.7) / 0.7)


@without_gil
def _throw_cube(world: Any) -> None:
    """Throws the cube so that it meets the robot where it will be."""
    angle = draw(world, -3.14, 3.14)
    speed = draw(world, 20.0, 30.0)
    travel_s = THROW_FROM_M / speed
    aim, start, velocity = np.empty(3), np.empty(3), np.empty(3)
    aim[0], aim[1], aim[2] = world.mean[0], world.mean[1], world.torso_z
    start[0], start[1], start[2] = THROW_FROM_M * math.cos(angle), THROW_FROM_M * math.sin(angle), 1.0
    for i in range(3):
        aim[i] += bullet.speed(world.found, i) * travel_s
        start[i] = aim[i] + start[i]
        velocity[i] = aim[i] - start[i]
    length = math.sqrt(velocity[0] * velocity[0] + velocity[1] * velocity[1] + velocity[2] * velocity[2])
    for i in range(3):
        velocity[i] = velocity[i] * (speed / length) + draw(world, -1.0, 1.0)
    bullet.put_base(world.client, world.target_body, start)
    bullet.throw_base(world.client, world.target_body, velocity)
    bullet.read_state(world.client, world.body, 1, world.found)  # a command makes what was read before invalid


@without_gil
def potential_in_harder(world: Any, progress: float) -> float:
    """Returns progress to the flag made on foot, plus the potential that the alive reward leaks from."""
    if world.torso_z < STANDING_Z_M:
        if math.isnan(world.crawl_start):
            world.crawl_start = progress - world.crawl_ignored
        world.crawl_ignored = progress - world.crawl_start
        progress = world.crawl_start
    else:
        progress -= world.crawl_ignored
        world.crawl_start = math.nan
    return progress + LEAK_TO_POTENTIAL * _leak(world)

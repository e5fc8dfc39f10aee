"""Ids, step limits and reward thresholds of the Roboschool family.

Source: openai/roboschool 1.0.49, its registration table. Humanoid's threshold is the original's 3500.
"""

from __future__ import annotations

from typing import NamedTuple

import gymnasium


class Registration(NamedTuple):
    """One row of Roboschool's table: the step limit, and the mean return that counts as solved."""

    max_episode_steps: int
    reward_threshold: float | None


ROBOSCHOOL_IDS: dict[str, Registration] = {
    "RoboschoolInvertedPendulum-v1": Registration(1000, 950.0),
    "RoboschoolInvertedPendulumSwingup-v1": Registration(1000, 800.0),
    "RoboschoolInvertedDoublePendulum-v1": Registration(1000, 9100.0),
    "RoboschoolReacher-v1": Registration(150, 18.0),
    "RoboschoolHopper-v1": Registration(1000, 2500.0),
    "RoboschoolWalker2d-v1": Registration(1000, 2500.0),
    "RoboschoolHalfCheetah-v1": Registration(1000, 3000.0),
    "RoboschoolAnt-v1": Registration(1000, 2500.0),
    "RoboschoolHumanoid-v1": Registration(1000, 3500.0),
    "RoboschoolHumanoidFlagrun-v1": Registration(1000, 2000.0),
    "RoboschoolHumanoidFlagrunHarder-v1": Registration(1000, None),
}


def robot_of(env_id: str) -> str:
    """Returns the name of the robot of an id, as `Hopper` of `RoboschoolHopper-v1`."""
    return env_id.removeprefix("Roboschool").removesuffix("-v1")


def register_roboschool() -> None:
    """Registers the family with Gymnasium; a second call changes nothing."""
    for env_id, row in ROBOSCHOOL_IDS.items():
        if env_id not in gymnasium.registry:
            gymnasium.register(
                env_id,
                entry_point="envs.roboschool.env:RoboschoolEnv",
                vector_entry_point="envs.roboschool.vector_env:RoboschoolVectorEnv",
                max_episode_steps=row.max_episode_steps,
                reward_threshold=row.reward_threshold,
                kwargs={"robot": robot_of(env_id)},
            )

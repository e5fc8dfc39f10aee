"""Compares our `compat="bullet"` robots with the port: `python -m tests.envs.roboschool.port_parity IDS`.

Each is compared in a process of its own, a fork of this one, which has imported both. It prints JSON: for each id the
number of steps that were compared, or what differed.
"""

from __future__ import annotations

import json
import multiprocessing
import sys
import warnings
from typing import Any

import gymnasium
import numpy as np

import envs  # noqa: F401  # registers the Roboschool ids

PORT_IDS = {"RoboschoolWalker2d-v1": "Walker2DBulletEnv-v0"}
LAST_BITS = {
    "RoboschoolInvertedDoublePendulum-v1": 4e-15,
    "RoboschoolHumanoidFlagrun-v1": 1e-12,
    "RoboschoolHumanoidFlagrunHarder-v1": 1e-12,
}


def main(env_ids: list[str]) -> None:
    """Compares the robots one after another."""
    warnings.simplefilter("ignore")  # the port registers ids that Gymnasium calls out of date
    import pybullet_envs_gymnasium  # noqa: F401  # registers them

    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        print(json.dumps(dict(zip(env_ids, pool.map(try_compare, env_ids, chunksize=1), strict=True))))


def try_compare(env_id: str) -> int | str:
    """The number of steps compared, or what differed."""
    try:
        return compare(env_id)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def compare(env_id: str) -> int:
    """Compares two episodes of up to 200 steps bit for bit: observations, rewards and ends."""
    port_id = PORT_IDS.get(env_id, env_id.removeprefix("Roboschool").replace("-v1", "BulletEnv-v0"))
    ours: Any = gymnasium.make(env_id, disable_env_checker=True, compat="bullet").unwrapped
    theirs: Any = gymnasium.make(port_id, disable_env_checker=True).unwrapped
    rng = np.random.default_rng(0)
    compared = 0
    for seed in range(2):
        np.testing.assert_array_equal(ours.reset(seed=seed)[0], theirs.reset(seed=seed)[0])
        for _ in range(200):
            action = rng.uniform(-1.2, 1.2, ours.action_space.shape).astype(np.float32)
            mine, reference = ours.step(action), theirs.step(action)
            if env_id.endswith("Harder-v1") and is_near_cube(ours.robot):
                break  # from here on Bullet does not agree with itself
            np.testing.assert_array_equal(mine[0], reference[0])
            # Its squares and lengths are libm's and BLAS's, of which the last bit may differ from a product's. It adds
            # up rewards by `sum`, which rounds once at its end from Python 3.12 on.
            last_bits = LAST_BITS.get(env_id, 0.0) if sys.version_info < (3, 12) else 1e-12
            assert abs(mine[1] - reference[1]) <= last_bits
            assert mine[2] == reference[2]
            compared += 1
    return compared


def is_near_cube(robot: Any) -> bool:
    """Whether the cube is about to touch the robot, one of `build_robot`."""
    world = robot.world
    found = world.api.getClosestPoints(robot.body, robot.course.cube, distance=0.7, physicsClientId=world.client)
    return bool(found)


if __name__ == "__main__":
    main(sys.argv[1:])

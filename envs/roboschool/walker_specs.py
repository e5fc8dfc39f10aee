"""Specifications of Roboschool's walking robots: model file, torques, feet and alive reward.

Source: openai/roboschool 1.0.49 (torques are its power times its joint coefficients, in Nm at action 1).
"""

from __future__ import annotations

from dataclasses import dataclass

from envs.roboschool.walker_rewards import AliveRule, alive_ant, alive_cheetah, alive_hopper, alive_humanoid


@dataclass(frozen=True)
class WalkerSpec:
    """Specification of a walking robot.

    Attributes:
        torques_nm: Torque of each motor at action 1, in the order of `motors`.
        motors: Driven joints in action order; empty means all sensed joints in file order.
        feet: Links whose floor contact is observed.
        alive: The robot's alive reward; a negative one ends the episode.
        effort_scale: Factor on the electricity costs.
        standing_z_m: Reference height of observation 0; None takes the height at reset.
        port_never_ends: pybullet_envs_gymnasium lets it lie on its back until the step limit.
    """

    xml: str
    torques_nm: tuple[float, ...]
    feet: tuple[str, ...]
    alive: AliveRule
    motors: tuple[str, ...] = ()
    effort_scale: float = 1.0
    standing_z_m: float | None = None
    port_never_ends: bool = False


_HUMANOID_MOTORS = (
    *("abdomen_z", "abdomen_y", "abdomen_x"),
    *("right_hip_x", "right_hip_z", "right_hip_y", "right_knee"),
    *("left_hip_x", "left_hip_z", "left_hip_y", "left_knee"),
    *("right_shoulder1", "right_shoulder2", "right_elbow"),
    *("left_shoulder1", "left_shoulder2", "left_elbow"),
)
_HUMANOID_POWERS = (100, 100, 100, 100, 100, 300, 200, 100, 100, 300, 200, 75, 75, 75, 75, 75, 75)

WALKERS: dict[str, WalkerSpec] = {
    "hopper": WalkerSpec("hopper.xml", (75.0,) * 3, ("foot",), alive_hopper),
    "walker2d": WalkerSpec("walker2d.xml", (40.0, 40.0, 12.0) * 2, ("foot", "foot_left"), alive_hopper),
    "halfcheetah": WalkerSpec(
        "half_cheetah.xml",
        tuple(0.9 * power for power in (120, 90, 60, 140, 60, 30)),
        ("ffoot", "fshin", "fthigh", "bfoot", "bshin", "bthigh"),
        alive_cheetah,
        port_never_ends=True,
    ),
    "ant": WalkerSpec(
        "ant.xml",
        (250.0,) * 8,
        ("front_left_foot", "front_right_foot", "left_back_foot", "right_back_foot"),
        alive_ant,
    ),
    "humanoid": WalkerSpec(
        "humanoid_symmetric.xml",
        tuple(0.41 * power for power in _HUMANOID_POWERS),
        ("right_foot", "left_foot"),
        alive_humanoid,
        motors=_HUMANOID_MOTORS,
        effort_scale=4.25,  # 17 joints, 4 of them needed for walking
        standing_z_m=0.8,
    ),
}

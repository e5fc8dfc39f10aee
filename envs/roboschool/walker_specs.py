"""What differs between Roboschool's walking robots, as data.

Source: openai/roboschool 1.0.49 (torques are its power times its joint coefficients, in Nm at action 1).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

AliveRule = Callable[[float, float, Sequence[float]], float]


def _hops(z: float, pitch: float, feet: Sequence[float]) -> float:
    return 1.0 if z > 0.8 and abs(pitch) < 1.0 else -1.0


def _runs_on_paws(z: float, pitch: float, feet: Sequence[float]) -> float:
    # feet: ffoot, fshin, fthigh, bfoot, bshin, bthigh; only the paws may touch the floor.
    on_knees = feet[1] or feet[2] or feet[4] or feet[5]
    return 1.0 if abs(pitch) < 1.0 and not on_knees else -1.0


def _keeps_belly_up(z: float, pitch: float, feet: Sequence[float]) -> float:
    return 1.0 if z > 0.26 else -1.0  # its central sphere has a radius of 0.25 m


def _stands(z: float, pitch: float, feet: Sequence[float]) -> float:
    # 2 because noise on 17 motors costs much electricity, and living must beat dying.
    return 2.0 if z > 0.78 else -1.0


@dataclass(frozen=True)
class WalkerSpec:
    """A walking robot: its model, motors, feet, and when it counts as alive.

    Attributes:
        torques_nm: Torque of each motor at action 1, in the order of `motors`.
        motors: Driven joints in action order; empty means all sensed joints in file order.
        feet: Links whose floor contact is observed.
        alive: (torso z in m, pitch in rad, contact flags before this step) to the alive reward; < 0 ends the episode.
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
    "hopper": WalkerSpec("hopper.xml", (75.0,) * 3, ("foot",), _hops),
    "walker2d": WalkerSpec("walker2d.xml", (40.0, 40.0, 12.0) * 2, ("foot", "foot_left"), _hops),
    "halfcheetah": WalkerSpec(
        "half_cheetah.xml",
        tuple(0.9 * power for power in (120, 90, 60, 140, 60, 30)),
        ("ffoot", "fshin", "fthigh", "bfoot", "bshin", "bthigh"),
        _runs_on_paws,
        port_never_ends=True,
    ),
    "ant": WalkerSpec(
        "ant.xml",
        (250.0,) * 8,
        ("front_left_foot", "front_right_foot", "left_back_foot", "right_back_foot"),
        _keeps_belly_up,
    ),
    "humanoid": WalkerSpec(
        "humanoid_symmetric.xml",
        tuple(0.41 * power for power in _HUMANOID_POWERS),
        ("right_foot", "left_foot"),
        _stands,
        motors=_HUMANOID_MOTORS,
        effort_scale=4.25,  # 17 joints, 4 of them needed for walking
        standing_z_m=0.8,
    ),
}

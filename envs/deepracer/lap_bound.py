"""A lower bound of the lap time on a track: the minimum time of a point car with the simulator's limits.

The point is the middle of the rear axle, whose path has the car's speed and curvature in the simulator. It keeps the
top speed and the lag with which it is gained and lost, the sharpest curve of the largest steering angle, the friction
limit, the start and the finish, and the rule that one wheel stays on the road. It ignores what only slows a car down:
latency, the steering's lag, the time between decisions, which speeds and angles are combined in actions, objects, and
where the wheels are, but for the distance of the farthest one.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from envs.deepracer import kernels
from envs.deepracer.metadata import Metadata
from envs.deepracer.minimum_time import Array, CarLimits, find_fastest_path
from envs.deepracer.race import Race
from envs.deepracer.tracks import Line, Track

# A path that bends or leaves the road by more than this, in 1/m and in meters, is none for the car.
_TOLERANCE = 0.02
# In two steps of a lap from standing the car does not move: it gets ready, and its lap is found to be complete. A lap
# at speed begins and ends between two steps.
_STANDING_S = 2 * kernels.CONTROL_S
_FLYING_S = -kernels.CONTROL_S
# The simulator moves a car by the speed at the end of each substep, and so is half of one ahead of its lag.
_SUBSTEP_S = kernels.CONTROL_S / kernels.SUBSTEPS / 2


@dataclasses.dataclass(frozen=True)
class LapBound:
    """A lower bound of a lap's time, and the line that reaches it.

    Attributes:
        seconds: Time as the simulator counts it.
        line: (N, 2) path of the middle of the rear axle, in meters.
        speeds: (N,) speeds along it in m/s.
    """

    seconds: float
    line: Line
    speeds: Array


def limits_of(race: Race, metadata: Metadata) -> CarLimits:
    """Returns the limits of a race's dynamics without noise, for a car's actions as the simulator clips them."""
    if metadata.actions is not None:
        steering_deg, speed = np.abs(metadata.actions).max(axis=0).tolist()
    else:
        assert metadata.low is not None
        assert metadata.high is not None
        steering_deg, speed = np.maximum(np.abs(metadata.low), metadata.high).tolist()
    dynamics = dataclasses.replace(race.dynamics, version=metadata.version)
    angle = math.radians(min(steering_deg, kernels.MAX_STEERING_DEG))
    return CarLimits(
        top_speed=min(max(speed, kernels.MIN_SPEED), kernels.MAX_SPEED)
        * float(dynamics.as_array()[kernels.SPEED_FACTOR]),
        speed_lag_s=dynamics.speed_lag_s,
        curvature=math.tan(angle) / kernels.WHEELBASE_M * dynamics.steering_gain,
        lateral=dynamics.friction * kernels.GRAVITY if dynamics.friction else math.inf,
    )


def bound_lap(track: Track, race: Race, metadata: Metadata, *, agents: int = 1) -> LapBound | None:
    """Finds a lower bound of the laps of an evaluation that stay on the road.

    Args:
        track: The road, in its file's direction.
        race: Rules of the race.
        metadata: Actions of the car.
        agents: Cars that race; several start beside the center line.

    Returns:
        The bound; None where none is found, and with noise or randomized commands, which make each episode's car
        another.
    """
    if race.dynamics.noise or race.randomize.changes_commands:
        return None
    return find_lap_bound(
        track.reversed() if race.reverse_dir else track,
        limits_of(race, metadata),
        start_share=race.start_position_offset % 1,
        is_flying=race.is_continuous or agents > 1,
    )


def find_lap_bound(
    track: Track, limits: CarLimits, *, start_share: float = 0.0, is_flying: bool = False
) -> LapBound | None:
    """Finds a lower bound of the time of a lap that stays on the road.

    Args:
        track: The road, in the driving direction.
        limits: Limits of the car.
        start_share: Where on the track the lap begins, as a share of it.
        is_flying: Whether speed and place at the start are free, as for all laps of a continuous race but the first;
            the bound holds for that one, too.

    Returns:
        The bound; None where no path is found that such a car can drive, or the track ends before a lap is complete.
    """
    if not track.is_closed and (start_share or is_flying):
        return None
    course, path = find_fastest_path(track, limits, start_m=start_share * track.length, is_flying=is_flying)
    if course.excess(path) > _TOLERANCE:
        return None
    seconds = course.seconds(path) - _SUBSTEP_S + (_FLYING_S if is_flying else _STANDING_S)
    return LapBound(seconds, path, course.speeds(path))

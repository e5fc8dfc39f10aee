"""What a race is: its type, starts, objects, penalties and the car's response, under the names of the job files.

Source of names and defaults: DeepRacer's simulation application 6.0.5, its YAML templates and `agent_ctrl`.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from envs.deepracer import kernels

RACE_TYPES = ("TIME_TRIAL", "OBJECT_AVOIDANCE", "HEAD_TO_BOT", "HEAD_TO_MODEL")
_WHEEL_RADIUS_M = 0.036


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """How a car answers to commands; the defaults are the contract's, which answers at once.

    Attributes:
        version: Of the model's metadata: how fast wheels turn for a commanded speed.
        latency_s: Seconds until a command acts, at most 0.2.
        speed_lag_s: Time constant of the speed.
        steering_lag_s: Time constant of the steering angle.
        friction: Coefficient that bounds the sharpest turn at a speed; 0 for none.
    """

    version: float = 5.0
    latency_s: float = 0.0
    speed_lag_s: float = 0.0
    steering_lag_s: float = 0.0
    friction: float = 0.0

    def __post_init__(self) -> None:
        """Checks.

        Raises:
            ValueError: A value is out of range.
        """
        if not 0 <= self.latency_s <= 0.2:
            raise ValueError(f"latency_s: got {self.latency_s}; expected 0 to 0.2, three control steps.")
        for name in ("speed_lag_s", "steering_lag_s", "friction"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: got {getattr(self, name)}; expected 0 or more.")

    def as_array(self) -> Any:
        """(5,) for the kernels."""
        # The angular speed of the wheels is the command by this radius; the wheel rolls on its own.
        radius = 0.035 if self.version >= 3 else 0.0277 if self.version >= 2 else 0.1
        factor = _WHEEL_RADIUS_M / radius
        return np.array([factor, self.latency_s, self.speed_lag_s, self.steering_lag_s, self.friction])


# A car that answers about as slowly as a real one: for policies that are to leave the simulator.
REAL_CAR = Dynamics(latency_s=0.06, speed_lag_s=0.15, steering_lag_s=0.05, friction=0.8)


@dataclasses.dataclass(frozen=True)
class Race:
    """One kind of race.

    Attributes:
        race_type: One of RACE_TYPES; the objects follow from the numbers below.
        reverse_dir: Whether the track is driven against its order.
        alternate_driving_direction: Whether each episode turns round.
        change_start_position: Whether each episode starts farther along the track.
        round_robin_advance_dist: By how much, as a share of the lap.
        start_position_offset: Share of the lap at which the first episode starts.
        number_of_resets: How often a car may go on after a failure, 0: not at all.
        off_track_penalty: Seconds of standing still after leaving the track, reversing.
        collision_penalty: Seconds of standing still after a crash.
        penalty_seconds: For which a bot car stands after it was hit.
        is_continuous: Whether laps follow each other in one episode.
        laps: Of an episode that is continuous.
        number_of_obstacles: Boxes, or parked cars.
        min_distance_between_obstacles: Metres from the track's start to the first one.
        randomize_obstacle_locations: Whether each episode places them anew.
        is_obstacle_bot_car: Whether they are parked cars.
        object_positions: Share of the lap and lane (+1 inner, -1 outer) of each; wins over the number.
        number_of_bot_cars: Cars that drive by themselves.
        bot_car_speed: Metres a second.
        is_lane_change: Whether they change lanes.
        lower_lane_change_time: Seconds between changes, at least.
        upper_lane_change_time: At most.
        lane_change_distance: Metres that a change takes.
        min_distance_between_bot_cars: Metres from the track's start to the first one.
        randomize_bot_car_locations: Whether each episode places them anew.
        enable_domain_randomization: Whether each episode has a light of its own.
        dynamics: Of the cars.
    """

    race_type: str = "TIME_TRIAL"
    reverse_dir: bool = False
    alternate_driving_direction: bool = False
    change_start_position: bool = True
    round_robin_advance_dist: float = 0.05
    start_position_offset: float = 0.0
    number_of_resets: int = 0
    off_track_penalty: float = 0.0
    collision_penalty: float = 0.0
    penalty_seconds: float = 2.0
    is_continuous: bool = False
    laps: int = 1
    number_of_obstacles: int = 0
    min_distance_between_obstacles: float = 2.0
    randomize_obstacle_locations: bool = False
    is_obstacle_bot_car: bool = False
    object_positions: tuple[tuple[float, int], ...] = ()
    number_of_bot_cars: int = 0
    bot_car_speed: float = 0.2
    is_lane_change: bool = False
    lower_lane_change_time: float = 3.0
    upper_lane_change_time: float = 5.0
    lane_change_distance: float = 1.0
    min_distance_between_bot_cars: float = 2.0
    randomize_bot_car_locations: bool = False
    enable_domain_randomization: bool = False
    dynamics: Dynamics = dataclasses.field(default_factory=Dynamics)

    def __post_init__(self) -> None:
        """Checks what every user of a race relies on.

        Raises:
            ValueError: Something is out of range; all of it is listed.
        """
        wrong = []
        if self.race_type not in RACE_TYPES:
            wrong.append(f"race_type: got {self.race_type!r}; expected one of {', '.join(RACE_TYPES)}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type in ("int", "float") and not (np.isfinite(value) and value >= 0):
                wrong.append(f"{field.name}: got {value}; expected a number of at least 0.")
        if self.upper_lane_change_time < self.lower_lane_change_time:
            wrong.append(
                f"upper_lane_change_time: got {self.upper_lane_change_time}; expected at least "
                f"lower_lane_change_time, {self.lower_lane_change_time}."
            )
        if self.number_of_obstacles + self.number_of_bot_cars > 100:
            wrong.append("number_of_obstacles and number_of_bot_cars: expected 100 objects at most in all.")
        if wrong:
            raise ValueError("\n".join(wrong))

    @property
    def obstacles(self) -> int:
        """How many obstacles stand on the track."""
        return len(self.object_positions) or self.number_of_obstacles

    @property
    def obstacle_size(self) -> tuple[float, float, float]:
        """Length, width and height of one, in metres; a box has a buffer of 0.1 m around 0.4 x 0.3."""
        if self.is_obstacle_bot_car:
            return kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M, kernels.CAR_HEIGHT_M
        return 0.5, 0.4, 0.25

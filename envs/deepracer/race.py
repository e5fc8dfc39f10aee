"""Rules of a race: type, starts, objects, penalties and car dynamics, under the names of the job files.

Source of names and defaults: DeepRacer's simulation application 6.0.5, its YAML templates and `agent_ctrl`.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np

from envs.deepracer import kernels
from envs.deepracer.randomization import KNOWN_RANDOMIZATIONS, Randomization, find_out_of_range, is_number

RACE_TYPES = ("TIME_TRIAL", "OBJECT_AVOIDANCE", "HEAD_TO_BOT", "HEAD_TO_MODEL", "F1")
_WHEEL_RADIUS_M = 0.036
_MOST_OBJECTS = 100
_LARGEST = 1e9
_MOST_LATENCY_S = 0.2  # three control steps
_ROUNDING_S = 1e-9
_RANGES_OF_DYNAMICS = {
    "version": (0.0, _LARGEST),
    "latency_s": (0.0, _MOST_LATENCY_S),
    "speed_lag_s": (0.0, 10.0),
    "steering_lag_s": (0.0, 10.0),
    "steering_gain": (0.1, 2.0),
    "friction": (0.0, 10.0),
    "noise": (0.0, 0.2),
}


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """Dynamics of a car: its response to commands; by these defaults immediate, without slip.

    Attributes:
        version: Version of the model's metadata; it sets how fast wheels turn for a commanded speed.
        latency_s: Seconds until a command acts, at most 0.2.
        speed_lag_s: Time constant of the speed.
        steering_lag_s: Time constant of the steering angle.
        steering_gain: Curvature of the path, as a share of what the wheels' angle gives a car that rolls without slip.
        friction: Coefficient that bounds the lateral acceleration, in multiples of gravity; 0 for no bound.
        noise: Standard deviation of the factors by which each episode's speed and curvature differ; 0 for none.
    """

    version: float = 5.0
    latency_s: float = 0.0
    speed_lag_s: float = 0.0
    steering_lag_s: float = 0.0
    steering_gain: float = 1.0
    friction: float = 0.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        """Checks the values.

        Raises:
            ValueError: Values are out of range; the message lists all of them.
        """
        if wrong := find_out_of_range(self, _RANGES_OF_DYNAMICS):
            raise ValueError("\n".join(wrong))

    @property
    def name(self) -> str:
        """The name in KNOWN_DYNAMICS, or the settings that have an effect; the version does not matter."""
        for name, known in KNOWN_DYNAMICS.items():
            if dataclasses.replace(self, version=known.version) == known:
                return name
        immediate = Dynamics().settings
        return ", ".join(f"{name} {value:g}" for name, value in self.settings.items() if value != immediate[name])

    @property
    def settings(self) -> dict[str, float]:
        """Latency, lags, gain, friction and noise by their names."""
        return {name: float(value) for name, value in dataclasses.asdict(self).items() if name != "version"}

    def as_array(self) -> Any:
        """Returns (6,) array for the kernels; noise is drawn by the simulation."""
        # The angular speed of the wheels is the command by this radius; the wheel rolls on its own.
        radius = 0.035 if self.version >= 3 else 0.0277 if self.version >= 2 else 0.1
        factor = _WHEEL_RADIUS_M / radius
        return np.array(
            [factor, self.latency_s, self.speed_lag_s, self.steering_lag_s, self.friction, self.steering_gain]
        )


# `gazebo` and `gazebo-6` follow traces of the original simulator, of the console's version 5 and of version 6; its four
# driven wheels turn at one speed, without a differential, and so scrub through a curve. benchmarks/dynamics.md has how
# far off they are. `real` is roughly a real car's delays, for policies that will run on one.
KNOWN_DYNAMICS = {
    "gazebo": Dynamics(speed_lag_s=0.32, steering_lag_s=0.16, steering_gain=0.44, friction=0.43),
    "gazebo-6": Dynamics(latency_s=1 / 15, speed_lag_s=0.06, steering_lag_s=0.17, steering_gain=0.6, friction=0.8),
    "kinematic": Dynamics(),
    "real": Dynamics(latency_s=0.06, speed_lag_s=0.15, steering_lag_s=0.05, friction=0.8),
}
DEFAULT_DYNAMICS = "gazebo"


@dataclasses.dataclass(frozen=True)
class Race:
    """Rules of a race.

    Attributes:
        race_type: One of RACE_TYPES; the numbers below set the objects.
        reverse_dir: Whether the track is driven in reverse order.
        alternate_driving_direction: Whether the direction changes with each episode.
        change_start_position: Whether each episode starts farther along the track.
        round_robin_advance_dist: Distance between the starts of two episodes, as a share of the lap.
        start_position_offset: Share of the lap at which the first episode starts.
        number_of_resets: Failures after which a car may continue its episode.
        off_track_penalty: Seconds of standing still after leaving the track, reversing.
        collision_penalty: Seconds of standing still after a crash.
        penalty_seconds: Seconds that a bot car stands still after it was hit.
        is_continuous: Whether laps follow each other in one episode.
        laps: Laps of a continuous episode.
        number_of_obstacles: Number of boxes or parked cars.
        min_distance_between_obstacles: Meters from the track's start to the first one.
        randomize_obstacle_locations: Whether each episode draws new places for them.
        is_obstacle_bot_car: Whether the obstacles are parked cars instead of boxes.
        object_positions: Share of the lap and lane (+1 inner, -1 outer) of each obstacle; overrides the number.
        number_of_bot_cars: Number of cars that drive by themselves.
        bot_car_speed: Their speed in m/s.
        is_lane_change: Whether they change lanes.
        lower_lane_change_time: Least seconds between lane changes.
        upper_lane_change_time: Most seconds between lane changes.
        lane_change_distance: Length of a lane change in meters.
        min_distance_between_bot_cars: Meters from the track's start to the first one.
        randomize_bot_car_locations: Whether each episode draws new places for them.
        enable_domain_randomization: Whether each episode draws its own light.
        dynamics: Dynamics of the cars.
        randomize: Ranges of what differs between episodes for policies that will drive a real car.
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
    dynamics: Dynamics = KNOWN_DYNAMICS[DEFAULT_DYNAMICS]
    randomize: Randomization = KNOWN_RANDOMIZATIONS["none"]

    def __post_init__(self) -> None:
        """Parses the object positions and checks all values.

        Raises:
            ValueError: A value is out of range; the message lists every problem.
        """
        wrong: list[str] = []
        try:
            object.__setattr__(self, "object_positions", read_positions(self.object_positions))
        except ValueError as error:
            wrong.append(f"object_positions: got {self.object_positions!r}; expected {error}.")
        if self.race_type not in RACE_TYPES:
            wrong.append(f"race_type: got {self.race_type!r}; expected one of {', '.join(RACE_TYPES)}.")
        wrong += self._find_wrong_types()
        if wrong:
            raise ValueError("\n".join(wrong))
        if self.upper_lane_change_time < self.lower_lane_change_time:
            wrong.append(
                f"upper_lane_change_time: got {self.upper_lane_change_time}; expected at least "
                f"lower_lane_change_time, {self.lower_lane_change_time}."
            )
        if self.obstacles + self.number_of_bot_cars > _MOST_OBJECTS:
            wrong.append(
                f"number_of_obstacles and number_of_bot_cars: got {self.obstacles} and {self.number_of_bot_cars}; "
                f"expected {_MOST_OBJECTS} at most in all."
            )
        slowest_s = self.dynamics.latency_s + self.randomize.latency_s
        if slowest_s > _MOST_LATENCY_S + _ROUNDING_S:
            wrong.append(
                f"randomize.latency_s: got {self.randomize.latency_s} beside the dynamics' latency_s, "
                f"{self.dynamics.latency_s:.3g}; expected no more than {_MOST_LATENCY_S} in all."
            )
        if self.laps < 1:
            wrong.append(f"laps: got {self.laps}; expected at least 1.")
        if wrong:
            raise ValueError("\n".join(wrong))

    def _find_wrong_types(self) -> list[str]:
        wrong = []
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.type == "bool" and not isinstance(value, bool):
                wrong.append(f"{field.name}: got {value!r}; expected true or false.")
            whole = field.type == "int"
            if field.type in ("int", "float") and not (
                is_number(value) and 0 <= value <= _LARGEST and not (whole and value % 1)
            ):
                kind = "a whole number" if whole else "a number"
                wrong.append(f"{field.name}: got {value!r}; expected {kind} of at least 0.")
            elif whole:
                object.__setattr__(self, field.name, int(value))
        return wrong

    def find_misfits(self, length: float) -> list[str]:
        """Finds settings that do not fit on a track of this length in meters."""
        wrong = []
        for count, first, name in (
            (self.number_of_obstacles, self.min_distance_between_obstacles, "min_distance_between_obstacles"),
            (self.number_of_bot_cars, self.min_distance_between_bot_cars, "min_distance_between_bot_cars"),
        ):
            if count and first >= length:
                wrong.append(f"{name}: got {first:g} m; expected less than the track's {length:.2f} m.")
        objects = self.obstacles + self.number_of_bot_cars
        if objects * self.obstacle_size[0] > length:
            wrong.append(f"objects: got {objects}; expected no more than stand on a track of {length:.2f} m.")
        return wrong

    @property
    def obstacles(self) -> int:
        """Number of obstacles on the track."""
        return len(self.object_positions) or self.number_of_obstacles

    @property
    def obstacle_size(self) -> tuple[float, float, float]:
        """Length, width and height of an obstacle, in meters; a box has a buffer of 0.1 m around 0.4 x 0.3."""
        if self.is_obstacle_bot_car:
            return kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M, kernels.CAR_HEIGHT_M
        return 0.5, 0.4, 0.25


def read_positions(raw: Any) -> tuple[tuple[float, int], ...]:
    """Reads `["0.25, +1", …]` or `[[0.25, 1], …]`: share of the lap, and lane (+1 inner, -1 outer).

    Raises:
        ValueError: It is no such list; the message is the rule.
    """
    try:
        items = [item.split(",") if isinstance(item, str) else item for item in raw]
        found = tuple((float(share), -1 if float(lane) == -1 else 1) for share, lane in items)
    except (TypeError, ValueError):
        found = ((math.nan, 1),)
    if not all(math.isfinite(share) for share, _ in found):
        raise ValueError('a list as ["0.25, +1", "0.5, -1"]')
    return found

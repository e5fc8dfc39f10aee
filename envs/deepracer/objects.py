"""Objects on the track: obstacles that stand, and bot cars that drive by themselves, of every world at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.race import Race
from envs.deepracer.shapes import BOX, CAR
from envs.deepracer.tracks import Track

Doubles = NDArray[np.float64]

_BLOCKED_M = 0.6  # how far ahead a bot car looks for a car in its way
_FREE_AT_END_M = 1.0


class Objects:
    """Obstacles first, then bot cars.

    Attributes:
        rows: (W, K, OBJECT_COLUMNS) for the kernels.
        distances: (W, K) meters along the center line, in the direction of driving.
        is_inner: (W, K) whether in the inner lane: 1, the outer: 0, or between them.
    """

    def __init__(self, tracks: tuple[Track, Track], race: Race, worlds: int, random: np.random.Generator) -> None:
        self._tracks = tracks
        self._race = race
        self._random = random
        self._bots = slice(race.obstacles, race.obstacles + race.number_of_bot_cars)
        count = race.obstacles + race.number_of_bot_cars
        self.rows = np.zeros((worlds, count, kernels.OBJECT_COLUMNS))
        self.distances = np.zeros((worlds, count))
        self.is_inner = np.zeros((worlds, count))
        self._direction = np.zeros(worlds, np.int64)
        self._lane_target = np.zeros((worlds, count))
        self._next_change = np.zeros((worlds, count))
        self._stands_until = np.zeros((worlds, count))
        size = kernels.OBJECT_LENGTH
        self.rows[:, : race.obstacles, size : size + 3] = race.obstacle_size
        self.rows[:, self._bots, size : size + 3] = kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M, kernels.CAR_HEIGHT_M
        self.rows[:, self._bots, kernels.OBJECT_MOVES] = 1
        self.rows[:, : race.obstacles, kernels.OBJECT_SHAPE] = CAR if race.is_obstacle_bot_car else BOX
        self.rows[:, self._bots, kernels.OBJECT_SHAPE] = CAR

    def __len__(self) -> int:
        return self.rows.shape[1]

    def place(self, world: int, *, direction: int) -> None:
        """Places a world's objects for a new episode."""
        race = self._race
        length = self._tracks[0].length
        self._direction[world] = direction
        if not len(self):
            return
        if race.object_positions:
            shares, lanes = np.array(race.object_positions, np.float64).T
            obstacles = shares % 1 * length, (lanes >= 0).astype(np.float64)
        else:
            obstacles = self._spread(
                race.obstacles, race.min_distance_between_obstacles, mixed=race.randomize_obstacle_locations
            )
        bots = self._spread(
            race.number_of_bot_cars, race.min_distance_between_bot_cars, mixed=race.randomize_bot_car_locations
        )
        self.distances[world] = np.concatenate([obstacles[0], bots[0]])
        self.is_inner[world] = np.concatenate([obstacles[1], bots[1]])
        self._lane_target[world] = self.is_inner[world]
        self._stands_until[world] = 0.0
        self._next_change[world] = self._draw_change(0.0)
        self._set_rows(np.array([world]))

    def _spread(self, count: int, first_m: float, *, mixed: bool) -> tuple[Doubles, Doubles]:
        """Distances and lanes of so many objects: even and alternating from the inner lane, or moved at random."""
        length = self._tracks[0].length
        last = max(length - _FREE_AT_END_M, first_m)
        distances = np.linspace(first_m, last, count)
        lanes = np.asarray((np.arange(count) + 1.0) % 2, np.float64)
        if mixed and count:
            gap = (last - first_m) / max(count - 1, 1)
            distances = np.clip(distances + self._random.uniform(-gap / 2, gap / 2, count) * 0.8, first_m, last)
            lanes = self._random.integers(0, 2, count).astype(np.float64)
        return np.asarray(distances, np.float64), lanes

    def _draw_change(self, now: float) -> Doubles:
        race = self._race
        return now + self._random.uniform(race.lower_lane_change_time, race.upper_lane_change_time, len(self))

    def move(self, times: Doubles, cars: Doubles) -> None:
        """Drives the bot cars for one control step.

        Args:
            times: (W,) seconds of each world.
            cars: (W, A, COLUMNS) the agents' cars, which a bot car does not drive into.
        """
        race = self._race
        bots = self._bots
        length = self._tracks[0].length
        ahead = (cars[:, None, :, kernels.DISTANCE] - self.distances[:, bots, None]) % length
        sideways = np.hypot(
            cars[:, None, :, kernels.X] - self.rows[:, bots, None, kernels.OBJECT_X],
            cars[:, None, :, kernels.Y] - self.rows[:, bots, None, kernels.OBJECT_Y],
        )
        is_blocked = ((ahead > 0) & (ahead < _BLOCKED_M) & (sideways < _BLOCKED_M)).any(axis=2)
        stands = is_blocked | (times[:, None] < self._stands_until[:, bots])
        step = np.where(stands, 0.0, race.bot_car_speed * kernels.CONTROL_S)
        self.distances[:, bots] = (self.distances[:, bots] + step) % length
        if race.is_lane_change:
            change = race.lane_change_distance or 1e-9
            due = times[:, None] >= self._next_change[:, bots]
            self._lane_target[:, bots] = np.where(due, 1 - self._lane_target[:, bots], self._lane_target[:, bots])
            drawn = times[:, None] + self._random.uniform(
                race.lower_lane_change_time, race.upper_lane_change_time, due.shape
            )
            self._next_change[:, bots] = np.where(due, drawn, self._next_change[:, bots])
            toward = self._lane_target[:, bots] - self.is_inner[:, bots]
            self.is_inner[:, bots] += np.clip(toward, -step / change, step / change)
        self._set_rows(np.arange(len(self.rows)))

    def hit(self, world: int, number: int, *, now: float) -> None:
        """Stops a bot car that was hit for the penalty's time; other objects never move."""
        if number < len(self):
            self._stands_until[world, number] = now + self._race.penalty_seconds

    def _set_rows(self, worlds: NDArray[np.int64]) -> None:
        for direction, track in enumerate(self._tracks):
            chosen = worlds[self._direction[worlds] == direction]
            if not len(chosen):
                continue
            share = self.is_inner[chosen][..., None]
            inner, outer = (
                track.place(self.distances[chosen], track.lane(is_inner=is_inner)) for is_inner in (True, False)
            )
            self.rows[chosen, :, :2] = (share * inner + (1 - share) * outer)[..., :2]
            self.rows[chosen, :, kernels.OBJECT_YAW] = inner[..., 2]
            self.rows[chosen, :, kernels.OBJECT_DISTANCE] = self.distances[chosen]

"""The simulation: cars, objects and race rules of several worlds on one track, advanced together.

A control step has two halves, in the contract's order: `measure` finds where each car is and which rule it met, which
is what its observation showed and what its reward is for; `drive` then carries out the commands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.kernels import (
    CRASHED,
    IMMOBILIZED,
    LAP_COMPLETE,
    OFF_TRACK,
    PARK,
    PAUSE,
    PREPARE,
    REVERSED,
    RUN,
    TIME_UP,
)
from envs.deepracer.objects import Objects
from envs.deepracer.race import Race
from envs.deepracer.tracks import Track

STATUS_NAMES = {
    kernels.IN_PROGRESS: "in_progress",
    LAP_COMPLETE: "lap_complete",
    CRASHED: "crashed",
    OFF_TRACK: "off_track",
    IMMOBILIZED: "immobilized",
    REVERSED: "reversed",
    TIME_UP: "time_up",
    kernels.PREPARING: "prepare",
    kernels.PAUSED: "pause",
}
_FAILURES = (CRASHED, OFF_TRACK, IMMOBILIZED, REVERSED)
_NEAR_OBJECT_M = 1.0
_RESET_BEHIND_M = 1.0
_SHORT_OF_FINISH_M = 0.05
_AGENT_GAP_M = 0.75


class Simulation:
    """Several worlds of one race on one track, with one or more agents' cars in each.

    Attributes:
        track: The track in its file's direction.
        tracks: The track in its file's direction, and reversed.
        race: Rules of the race.
        cars: (C, COLUMNS) all agents' cars, those of a world in a row.
        objects: Objects of every world.
        agents: Number of cars in each world.
        dynamics: (A, 6) dynamics of each of a world's cars; (C, 6) of all cars where each episode draws a latency.
        has_ended: (C,) whether a car's episode is over.
        episodes: (C,) number of each car's episode, from 0.
        laps: (C,) completed laps of each car's episode.
        pause_s: (C,) penalty in seconds for each car's last failure.
        failures: (C,) status of each car's last failure, or -1.

    Args:
        track: Track to drive on.
        race: Rules of the race.
        worlds: Number of worlds.
        agents: Number of cars in each world.
        is_training: Whether each episode starts farther along the track.
        seed: Seed of objects, lights, noise and what is randomized.
    """

    def __init__(
        self,
        track: Track,
        race: Race,
        *,
        worlds: int = 1,
        agents: int = 1,
        is_training: bool = True,
        seed: int | None = None,
    ) -> None:
        self.track = track
        self.race = race
        self.agents = agents
        self._is_training = is_training
        self.tracks = (track, track.reversed())
        self.random = np.random.default_rng(seed)
        self.cars = np.zeros((worlds * agents, kernels.COLUMNS))
        self.objects = Objects(self.tracks, race, worlds, self.random)
        count = len(self.cars)
        self.has_ended = np.ones(count, bool)
        self.laps = np.zeros(count, np.int64)
        self.episodes = np.full(count, -1)
        self.pause_s = np.zeros(count)
        self.failures = np.full(count, -1)
        self._resets_left = np.zeros(count, np.int64)
        self._pause_left = np.zeros(count)
        self._next_episode = 0
        self._start_share = race.start_position_offset % 1
        self._turns = bool(race.reverse_dir)
        self.dynamics = np.stack([race.dynamics.as_array()] * (count if race.randomize.latency_s else agents))
        self._steering_offsets_deg = np.zeros(count)
        self._lines = np.stack([np.stack([way.center, way.inner, way.outer]) for way in self.tracks])
        self.blocks = np.stack([np.stack([kernels.make_blocks([line]) for line in way]) for way in self._lines])
        self._distances = np.stack([way.distances for way in self.tracks])
        outline = [track.outer, track.inner]
        if not track.is_closed:
            outline = [np.concatenate([track.outer, track.inner[::-1]])]
        outline = [np.concatenate([ring, ring[:1]]) for ring in outline]
        self._rings = np.concatenate(outline)
        self._ring_blocks = kernels.make_blocks(outline)
        self._turn = int(track.is_counter_clockwise)

    @property
    def worlds(self) -> int:
        """Number of worlds."""
        return len(self.cars) // self.agents

    @property
    def resets(self) -> NDArray[np.int64]:
        """(C,) how often each car was put back on the track in its episode."""
        return np.asarray(self.race.number_of_resets - self._resets_left)

    def track_of(self, row: int) -> Track:
        """Returns the track in the direction that a car drives it."""
        return self.tracks[int(self.cars[row, kernels.DIRECTION])]

    def seed(self, seed: int, *, episodes_before: int = 0) -> None:
        """Restarts the random generator of objects, lights and noise; the next episode is the first.

        Args:
            seed: Seed of objects, lights and noise.
            episodes_before: Episodes that other processes drive first; the next one starts after theirs.
        """
        self.random.bit_generator.state = np.random.default_rng(seed).bit_generator.state
        self._next_episode = 0
        self._start_share = self.race.start_position_offset % 1
        self._turns = bool(self.race.reverse_dir)
        for _ in range(episodes_before):
            self._advance_start()

    def restart(self, world: int) -> None:
        """Begins the world's next episode."""
        direction = int(self._turns)
        self.objects.place(world, direction=direction)
        for agent in range(self.agents):
            row = world * self.agents + agent
            self.cars[row] = 0.0
            self.cars[row, kernels.DIRECTION] = direction
            self.cars[row, kernels.PHASE] = PREPARE
            self.cars[row, kernels.HIT] = -1
            self.cars[row, kernels.START_SHARE] = self._start_share
            if noise := self.race.dynamics.noise:
                self.cars[row, [kernels.SPEED_NOISE, kernels.CURVATURE_NOISE]] = self.random.normal(0, noise, 2)
            self._randomize(row)
            self._place_at_start(world, row, agent)
            self.has_ended[row] = False
            self.laps[row] = 0
            self.pause_s[row] = 0.0
            self.failures[row] = -1
            self.episodes[row] = self._next_episode
            self._resets_left[row] = self.race.number_of_resets
        self._next_episode += 1
        self._advance_start()

    def _randomize(self, row: int) -> None:
        """Draws the latency, the speed and the steering of a car's new episode."""
        ranges = self.race.randomize
        if ranges.latency_s:
            latency_s = self.race.dynamics.latency_s + self.random.uniform(0, ranges.latency_s)
            self.dynamics[row, kernels.LATENCY] = latency_s
        if ranges.changes_commands:
            gain, offset = self.random.uniform(-1, 1, 2)
            self.cars[row, kernels.SPEED_NOISE] += gain * ranges.speed_gain
            self._steering_offsets_deg[row] = offset * ranges.steering_offset_deg

    def _advance_start(self) -> None:
        """Moves the start and the direction on to those of the next training episode."""
        if not self._is_training:
            return
        if self.race.change_start_position:
            self._start_share = (self._start_share + self.race.round_robin_advance_dist) % 1
        if self.race.alternate_driving_direction:
            self._turns = not self._turns

    def _place_at_start(self, world: int, row: int, agent: int) -> None:
        """Places a car on the center line, or beside an object in the free lane; several agents alternate lanes."""
        track = self.track_of(row)
        distance = self._start_share * track.length
        line = track.center
        if self.agents > 1:
            distance -= _AGENT_GAP_M * agent
            line = track.lane(is_inner=agent % 2 == 1)
        elif self._is_training and len(self.objects):
            gaps = self._gaps(world, distance)
            near = int(np.argmin(gaps))
            if gaps[near] < _NEAR_OBJECT_M:
                line = track.lane(is_inner=bool(self.objects.is_inner[world, near] < 0.5))
        self._put(row, distance, line)

    def _gaps(self, world: int, distance: float) -> NDArray[np.float64]:
        """Computes the distance in meters along the track from a position to each object."""
        length = self.track.length
        apart = np.abs(self.objects.distances[world] - distance % length)
        return np.asarray(np.minimum(apart, length - apart) if self.track.is_closed else apart)

    def _put(self, row: int, distance: float, line: NDArray[np.float64]) -> None:
        self.cars[row, : kernels.YAW + 1] = self.track_of(row).place(distance, line)
        self.cars[row, kernels.SPEED : kernels.PHASE] = 0.0

    def measure(self) -> None:
        """First half of a step: finds where each car is, which rule applies, and whether its episode ends."""
        kernels.measure(
            self.cars,
            self.agents,
            self.objects.rows,
            self._lines,
            self.blocks,
            self._distances,
            self._rings,
            self._ring_blocks,
            self._turn,
        )
        for row in np.flatnonzero((self.cars[:, kernels.STATUS] >= LAP_COMPLETE) & ~self.has_ended):
            if self.cars[row, kernels.STATUS] <= TIME_UP:
                self._apply_rule(int(row))

    def _apply_rule(self, row: int) -> None:
        """Ends the episode, begins the next lap, or sets the car back for a penalty."""
        status = int(self.cars[row, kernels.STATUS])
        race = self.race
        world = row // self.agents
        self.pause_s[row] = 0.0
        if status == LAP_COMPLETE:
            self.laps[row] += 1
            self.has_ended[row] = not race.is_continuous or self.laps[row] >= race.laps
            return
        self.failures[row] = status
        if status == CRASHED:
            self.objects.hit(world, int(self.cars[row, kernels.HIT]), now=float(self.cars[row, kernels.TIME]))
        if status not in _FAILURES or self._resets_left[row] == 0:
            self.has_ended[row] = True
            return
        self._resets_left[row] -= 1
        penalties = {CRASHED: race.collision_penalty, IMMOBILIZED: 0.0}
        self.pause_s[row] = penalties.get(status, race.off_track_penalty)
        self._pause_left[row] = self.pause_s[row] + kernels.CONTROL_S  # this step does not count towards the pause
        self.cars[row, kernels.PHASE] = PAUSE
        self._set_back(world, row, status)

    def _set_back(self, world: int, row: int, status: int) -> None:
        """Puts a car back on the road where it was, or behind the object that it hit or is near to, in the other lane.

        The original counts that place from the first waypoint even where an episode began elsewhere; here it is counted
        from the episode's start.
        """
        car = self.cars[row]
        track = self.track_of(row)
        start_m = float(car[kernels.START_SHARE]) * track.length
        is_astray = car[kernels.IS_ASTRAY] > 0
        driven_m = float(car[kernels.ROAD_PROGRESS if is_astray else kernels.PREVIOUS_PROGRESS]) / 100 * track.length
        lanes = [track.lane(is_inner=is_inner) for is_inner in (False, True)]
        near = self._find_obstacle(world, row, status, start_m + driven_m)
        if near >= 0:
            line = lanes[int(self.objects.is_inner[world, near] < 0.5)]
            behind_m = float(self.objects.distances[world, near]) - _RESET_BEHIND_M
            driven_m += self._signed_gap(behind_m - start_m - driven_m)
        else:
            if status == CRASHED:  # with another agent's car, which is ahead
                driven_m -= _RESET_BEHIND_M
            was = car[[kernels.ROAD_X, kernels.ROAD_Y] if is_astray else [kernels.LAST_X, kernels.LAST_Y]]
            line = min(lanes, key=lambda lane: float(np.linalg.norm(track.place(start_m + driven_m, lane)[:2] - was)))
        # Not over the finish: that lap is to be driven, not given.
        driven_m = min(driven_m, track.length - kernels.FRONT_M - _SHORT_OF_FINISH_M)
        car[kernels.PREVIOUS_PROGRESS] = 100 * driven_m / track.length
        car[kernels.IS_ASTRAY] = 0.0
        self._put(row, start_m + driven_m, line)

    def _find_obstacle(self, world: int, row: int, status: int, distance: float) -> int:
        """Finds the object that a car hit, or that is too near to where it is put back; -1 if there is none."""
        if status == CRASHED:
            hit = int(self.cars[row, kernels.HIT])
            return hit if hit < len(self.objects) else -1  # else another agent's car
        if not len(self.objects):
            return -1
        gaps = self._gaps(world, distance)
        return int(np.argmin(gaps)) if gaps.min() < _NEAR_OBJECT_M else -1

    def _signed_gap(self, meters: float) -> float:
        """Computes the signed distance in meters along the track, the shorter way round if the track is closed."""
        length = self.track.length
        return (meters + length / 2) % length - length / 2 if self.track.is_closed else meters

    def drive(self, speeds: NDArray[np.float64], steerings: NDArray[np.float64]) -> None:
        """Second half of a step: carries out the commands; bot cars move, penalties run out.

        Args:
            speeds: (C,) meters a second, as commanded.
            steerings: (C,) degrees, left is positive.
        """
        cars = self.cars
        if self.race.randomize.changes_commands:
            speeds, steerings = self._disturb(speeds, steerings)
        cars[:, kernels.COMMAND_SPEED], cars[:, kernels.COMMAND_STEERING] = speeds, steerings
        kernels.drive(cars, self.dynamics)
        if self.has_ended.any():
            cars[self.has_ended, kernels.PHASE] = PARK
        if self.race.number_of_bot_cars:
            by_world = cars.reshape(self.worlds, self.agents, -1)
            self.objects.move(by_world[:, :, kernels.TIME].max(axis=1), by_world)
        if self.race.number_of_resets:
            self._run_penalties()

    def _disturb(self, speeds: NDArray[np.float64], steerings: NDArray[np.float64]) -> tuple[Any, Any]:
        """Returns the commands as the motor and the servo carry them out."""
        ranges = self.race.randomize
        shares, angles = self.random.standard_normal((2, len(speeds)))
        steerings = steerings + self._steering_offsets_deg + ranges.steering_noise_deg * angles
        return speeds * (1 + ranges.speed_noise * shares), steerings

    def _run_penalties(self) -> None:
        is_paused = self.cars[:, kernels.PHASE] == PAUSE
        self._pause_left[is_paused] -= kernels.CONTROL_S
        over = is_paused & (self._pause_left <= 1e-9)
        self.cars[over, kernels.PHASE] = RUN
        self.cars[np.ix_(over, (kernels.STILL_STEPS, kernels.BACKWARD_STEPS))] = 0.0

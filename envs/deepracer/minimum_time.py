"""The path of least time around a track, for a point with limits of speed, curvature and lateral acceleration.

A path is a chain of points that move across it. Sequential linear programming finds it: each step solves a linear
program (HiGHS) for the moves and the speeds within a trust region, and counts if the path that it gives is better.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.interpolate import CubicSpline
from scipy.optimize import linprog

from envs.deepracer import kernels
from envs.deepracer.tracks import Line, Track

Array = NDArray[np.float64]

# The farthest wheel from the middle of the rear axle: beyond this from the road, no wheel is on it.
_REACH_M = math.hypot(kernels.WHEELBASE_M, kernels.HALF_FRONT_TRACK_M)
_AHEAD_M = kernels.FRONT_M - kernels.REAR_AXLE_M  # from the rear axle to the point whose progress counts
# Points of a path, first a coarse one: with few points it moves far in a step.
_SPACINGS_M = (0.45, 0.15)
_FEWEST_POINTS = 20
_MOST_POINTS = 500
# Paths to begin with, as shares of the way from the center line to the inner or the outer border.
_STARTS = (0.0, 0.6, -0.6)
_BORDER_M = 0.02  # between the points that stand for a border
_WINDOW_M = 2.5  # along the road: the border that is near a point of the path
_SLOWEST = 0.2  # m/s, in a curve that is too sharp for the car
# Seconds by which a path is worse for each 1/m by which it is too sharp, and each meter that it is off the road.
_BEND_PENALTY = 1.0
_ROAD_PENALTY = 10.0
# Trust region: meters by which a point moves, radians by which the path turns there; speeds change by more.
_WIDEST = 0.3
_NARROWEST = 1e-3
_SPEED_REACH = 5.0
_MOST_STEPS = 60
_ENOUGH_S = 2e-3


@dataclasses.dataclass(frozen=True)
class CarLimits:
    """Limits of a point car.

    Attributes:
        top_speed: Speed in m/s.
        speed_lag_s: Time constant with which it gains and loses speed; 0 for at once.
        curvature: Sharpest curve, in 1/m.
        lateral: Largest lateral acceleration in m/s²; infinity for no limit.
    """

    top_speed: float
    speed_lag_s: float
    curvature: float
    lateral: float


def find_fastest_path(track: Track, limits: CarLimits, *, start_m: float, is_flying: bool) -> tuple[Course, Line]:
    """Finds the path of least time.

    Args:
        track: The road, in the driving direction.
        limits: Limits of the car.
        start_m: Meters along the center line to the start.
        is_flying: Whether speed, place and direction at the start are free; else the car stands on the center line.

    Returns:
        The lap, and an (N, 2) path in meters; the car may be unable to drive it, as `Course.excess` says.
    """
    coarse, fine = (
        Course(track, limits, start_m=start_m, is_flying=is_flying, spacing_m=spacing_m) for spacing_m in _SPACINGS_M
    )
    path = min((coarse.optimize(coarse.start(share)) for share in _STARTS), key=coarse.merit)
    return fine, fine.optimize(CubicSpline(coarse.stations, path)(fine.stations))


class Course:
    """A lap for a point car.

    Args:
        track: The road, in the driving direction.
        limits: Limits of the car.
        start_m: Meters along the center line to the start.
        is_flying: Whether speed, place and direction at the start are free; else the car stands on the center line.
        spacing_m: Meters between the points of a path.

    Attributes:
        stations: (N,) meters along the center line of a first path's points.
    """

    def __init__(
        self,
        track: Track,
        limits: CarLimits,
        *,
        start_m: float = 0.0,
        is_flying: bool = False,
        spacing_m: float = _SPACINGS_M[-1],
    ) -> None:
        self._limits = limits
        self._is_flying = is_flying
        end_m = start_m + track.length
        self._ahead = _direction(track, start_m)
        finish = _direction(track, end_m - 1e-6)
        if track.is_closed:
            finish = finish + self._ahead
            finish /= np.linalg.norm(finish)
        self._finish = finish
        # A car that stands there is ahead of one whose front crosses the line; the lap of the latter begins there, too.
        first = track.place(start_m)[:2] + kernels.REAR_AXLE_M * (finish if is_flying else self._ahead)
        self._ends = np.stack([first, track.place(end_m)[:2] - _AHEAD_M * finish])
        count = int(np.clip(track.length / spacing_m, _FEWEST_POINTS, _MOST_POINTS))
        self.stations = np.linspace(0, track.length - _AHEAD_M, count + 1)
        beside = _WINDOW_M if track.is_closed else 0.0
        at = np.arange(-beside, track.length + beside, _BORDER_M)
        window = np.searchsorted(at, self.stations - _WINDOW_M)[:, None] + np.arange(int(2 * _WINDOW_M / _BORDER_M))
        self._window = np.clip(window, 0, len(at) - 1)
        self._borders = [_border(track, start_m + at, line) for line in (track.inner, track.outer)]
        self._lines = [
            track.place(start_m + self.stations, one)[:, :2] for one in (track.center, track.inner, track.outer)
        ]

    def start(self, share: float) -> Line:
        """Returns a first (N, 2) path: the center line, or beside it by a share of the way to a border."""
        center, inner, outer = self._lines
        path = center + abs(share) * ((inner if share > 0 else outer) - center)
        return np.concatenate([self._ends[:1], path[1:-1], self._ends[1:]])

    def optimize(self, path: Line) -> Line:
        """Returns the (N, 2) path of least time that is found from a first one."""
        merit = self.merit(path)
        reach = _WIDEST
        for _ in range(_MOST_STEPS):
            moved, promised = self._improve(path, reach)
            gain = merit - self.merit(moved)
            if gain < 0.25 * promised:
                reach /= 3
            elif gain > 0.75 * promised:
                reach = min(2 * reach, _WIDEST)
            if gain > 0:
                path, merit = moved, merit - gain
            if promised < _ENOUGH_S or reach < _NARROWEST:
                break
        return path

    def excess(self, path: Line) -> float:
        """Returns by how much a path is too sharp (1/m), or off the road (m), whichever is worse."""
        sharper, outside = self._violations(path)
        return float(max(sharper.max(), outside.max()))

    def seconds(self, path: Line) -> float:
        """Returns the least time for a path."""
        speeds = self.speeds(path)
        return float(np.sum(2 * self._shape(path)[0] / (speeds[1:] + speeds[:-1])))

    def speeds(self, path: Line) -> Array:
        """Returns the (N,) highest speeds in m/s at a path's points: limited there, then by braking and accelerating.

        With a lag, dv/dt = (command - v) / lag, by the mean speed between two points.
        """
        limits = self._limits
        lengths, _, curvature = self._shape(path)
        speeds = np.sqrt(limits.lateral / np.maximum(np.abs(curvature), 1e-9))
        speeds = np.clip(speeds, min(_SLOWEST, limits.top_speed), limits.top_speed)
        if limits.speed_lag_s == 0:
            return speeds
        if not self._is_flying:
            speeds[0] = 0.0
        half = limits.speed_lag_s / 2
        for i, length in enumerate(lengths.tolist()):
            most = half * speeds[i] ** 2 + (limits.top_speed - speeds[i] / 2) * length
            speeds[i + 1] = min(speeds[i + 1], _root(half, length / 2, most))
        for i, length in reversed(list(enumerate(lengths.tolist()))):
            most = half * speeds[i + 1] ** 2 + (speeds[i + 1] / 2 - kernels.MIN_SPEED) * length
            speeds[i] = min(speeds[i], max(_root(half, -length / 2, most), speeds[i + 1]))
        return speeds

    def merit(self, path: Line) -> float:
        """Returns the time in seconds, with penalties for what the car or the road does not allow."""
        sharper, outside = self._violations(path)
        return self.seconds(path) + float(_BEND_PENALTY * sharper.sum() + _ROAD_PENALTY * outside.sum())

    def _violations(self, path: Line) -> tuple[Array, Array]:
        """Returns by how much each point's curve is too sharp (1/m), and by how much it is off the road (m)."""
        sharper = np.abs(self._shape(path)[2]) - self._limits.curvature
        beyond = np.concatenate([far for far, _ in self._beyond(path)]) - _REACH_M
        return np.maximum(sharper, 0), np.maximum(beyond, 0)

    def _shape(self, path: Line) -> tuple[Array, Array, Array]:
        """Returns lengths (N - 1,) and directions (N - 1, 2) of a path's parts, and the curvature (N,) at points."""
        edges = np.diff(path, axis=0)
        lengths = np.linalg.norm(edges, axis=1)
        along = edges / lengths[:, None]
        before = along[:1] if self._is_flying else self._ahead[None]
        turns = np.concatenate([before, along])
        sine = turns[:-1, 0] * turns[1:, 1] - turns[:-1, 1] * turns[1:, 0]
        angles = np.arctan2(sine, (turns[:-1] * turns[1:]).sum(axis=1))
        return lengths, along, np.append(angles / _around(lengths), 0.0)

    def _beyond(self, path: Line) -> list[tuple[Array, Array]]:
        """Returns distances (N,) beyond the inner and the outer border, below 0 on the road, and gradients (N, 2)."""
        found = []
        for points, outward in self._borders:
            near = np.linalg.norm(points[self._window] - path[:, None], axis=2).argmin(axis=1)
            at = self._window[np.arange(len(path)), near]
            apart = path - points[at]
            side = np.where((apart * outward[at]).sum(axis=1) >= 0, 1.0, -1.0)
            far = np.linalg.norm(apart, axis=1)
            gradient = np.where(
                (far < _BORDER_M)[:, None], outward[at], side[:, None] * apart / np.maximum(far, 1e-9)[:, None]
            )
            found.append((side * far, gradient))
        return found

    def _improve(self, path: Line, reach: float) -> tuple[Line, float]:
        """Solves the linear program around a path; returns its path, and by how much the merit should fall."""
        count = len(path)
        lengths, along, _ = self._shape(path)
        speeds = self.speeds(path)
        across = _left(np.concatenate([along[:1], along[:-1] + along[1:], along[-1:]]))
        across[[0, -1]] = _left(self._finish[None])
        program = _Program(count)
        self._add_path(program, path, across, reach)
        if self._limits.speed_lag_s:
            self._add_lag(program, path, across)
        total = speeds[1:] + speeds[:-1]
        slower = 2 * lengths / total**2
        cost = np.concatenate([_edge_derivatives(along, across).T @ (2 / total), np.zeros(3 * count)])
        cost[count : 2 * count] -= np.append(slower, 0) + np.append(0, slower)
        cost[2 * count : 3 * count] = _BEND_PENALTY
        cost[3 * count :] = _ROAD_PENALTY
        moves = np.full(count, reach)
        changes = np.full(count, _SPEED_REACH * reach)
        if not self._is_flying:
            moves[0] = 0.0
            changes[0] = 0.0 if self._limits.speed_lag_s else np.inf
        slack = np.full(2 * count, np.inf)
        low = np.concatenate([-moves, np.maximum(speeds - changes, 0), 0 * speeds, 0 * speeds])
        high = np.concatenate([moves, np.minimum(speeds + changes, self._limits.top_speed), slack])
        found = program.minimize(cost, low, high)
        if found is None:
            return path, 0.0
        sharper, outside = self._violations(path)
        before = cost[count : 2 * count] @ speeds + _BEND_PENALTY * sharper.sum() + _ROAD_PENALTY * outside.sum()
        return path + found[:count, None] * across, float(before - cost @ found)

    def _add_path(self, program: _Program, path: Line, across: Line, reach: float) -> None:
        """Adds the limits of curvature and lateral acceleration, of each part's turn, and of the road."""
        limits = self._limits
        lengths, along, curvature = self._shape(path)
        curvature = curvature[:-1]
        turn = (sparse.diags_array(1 / lengths) @ _edge_derivatives(_left(along), across)).tocsr()
        before = turn[:1] if self._is_flying else sparse.csr_array((1, len(path)))
        stretch = _edge_derivatives(along, across)
        widen = sparse.vstack([stretch[:1], stretch[1:] + stretch[:-1]]) / 2
        around = _around(lengths)
        bend = sparse.diags_array(1 / around) @ (turn - sparse.vstack([before, turn[:-1]]))
        bend = bend - sparse.diags_array(curvature / around) @ widen
        at = sparse.eye_array(len(path), format="csr")[:-1]
        for sign in (1, -1):
            program.add(limits.curvature - sign * curvature, moves=sign * bend, bend=-at)
            program.add(np.full(len(lengths), reach), moves=sign * turn)
        if math.isfinite(limits.lateral):  # the curvature is at most lateral / speed²
            speeds = self.speeds(path)[:-1]
            slow = np.maximum(speeds, _SLOWEST)
            slope = 2 * limits.lateral / slow**3
            most = limits.lateral / slow**2 + slope * speeds
            for sign in (1, -1):
                program.add(most - sign * curvature, moves=sign * bend, speeds=sparse.diags_array(slope) @ at, bend=-at)
        for far, gradient in self._beyond(path):
            outwards = sparse.diags_array((gradient * across).sum(axis=1))
            program.add(_REACH_M - far, moves=outwards, road=-sparse.eye_array(len(path)))

    def _add_lag(self, program: _Program, path: Line, across: Line) -> None:
        """Adds the limits of acceleration and braking: lag (v1² - v0²) / 2 is at most (command - v) of the length."""
        lengths, along, _ = self._shape(path)
        speeds = self.speeds(path)
        lag = self._limits.speed_lag_s
        identity = sparse.eye_array(len(path), format="csr")
        gain = lag / 2 * np.diff(speeds**2)
        by_speed = lag * (
            sparse.diags_array(speeds[1:]) @ identity[1:] - sparse.diags_array(speeds[:-1]) @ identity[:-1]
        )
        by_speed = by_speed + sparse.diags_array(lengths / 2) @ (identity[1:] + identity[:-1])
        mean = (speeds[1:] + speeds[:-1]) / 2
        for sign, command in ((1, self._limits.top_speed), (-1, kernels.MIN_SPEED)):
            force = sign * (command - mean)
            by_move = -sparse.diags_array(force) @ _edge_derivatives(along, across)
            program.add(force * lengths - sign * gain + sign * by_speed @ speeds, moves=by_move, speeds=sign * by_speed)


class _Program:
    """A linear program in moves (m), speeds (m/s), and what is too sharp (1/m) and off the road (m) at each point.

    Args:
        count: Number of points.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows: list[Any] = []
        self._most: list[Array] = []

    def add(self, most: Array, *, moves: Any, speeds: Any = None, bend: Any = None, road: Any = None) -> None:
        """Adds constraints: the sum of these matrices' products with the variables is at most `most` (R,)."""
        none = sparse.csr_array((len(most), self._count))
        self._rows.append(sparse.hstack([none if part is None else part for part in (moves, speeds, bend, road)]))
        self._most.append(most)

    def minimize(self, cost: Array, low: Array, high: Array) -> Array | None:
        """Returns the variables (4 N,) of least cost within bounds, or None where there are none."""
        rows = sparse.vstack(self._rows, format="csr")
        bounds = np.stack([low, high], axis=1)
        found = linprog(cost, A_ub=rows, b_ub=np.concatenate(self._most), bounds=bounds, method="highs")
        return None if found.x is None else np.asarray(found.x)


def _around(lengths: Array) -> Array:
    """Returns (N - 1,) the length that is around each point but the last, half of that on either side."""
    return (np.append(0, lengths[:-1]) + lengths) / 2


def _edge_derivatives(directions: Line, across: Line) -> Any:
    """Derivatives (N - 1, N) of a path's parts, in directions (N - 1, 2), by the moves of its points across."""
    ends = -(directions * across[:-1]).sum(axis=1), (directions * across[1:]).sum(axis=1)
    return sparse.diags_array(ends, offsets=[0, 1], shape=(len(directions), len(across))).tocsr()


def _direction(track: Track, at_m: float) -> Array:
    yaw = float(track.place(at_m)[2])
    return np.array([math.cos(yaw), math.sin(yaw)])


def _left(directions: Line) -> Line:
    """Returns the (N, 2) unit vectors to the left of directions."""
    turned = np.stack([-directions[:, 1], directions[:, 0]], axis=1)
    return np.asarray(turned / np.maximum(np.linalg.norm(turned, axis=1, keepdims=True), 1e-12))


def _border(track: Track, at_m: Array, line: Line) -> tuple[Line, Line]:
    """Returns (M, 2) points of a border at places along the center line, and (M, 2) unit vectors off the road."""
    points = track.place(at_m, line)[:, :2]
    across = _left(np.gradient(points, axis=0))
    side = np.sign(((points - track.place(at_m)[:, :2]) * across).sum(axis=1))
    return points, across * np.where(side == 0, 1, side)[:, None]


def _root(a: float, b: float, c: float) -> float:
    """Returns the larger root of a x² + b x = c."""
    return (-b + math.sqrt(b * b + 4 * a * max(c, 0.0))) / (2 * a)

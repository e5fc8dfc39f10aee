"""The lower bound of a lap's time: known answers on simple roads, and laps that are driven in the simulator."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy.optimize import brentq

from envs.deepracer import kernels
from envs.deepracer.lap_bound import LapBound, bound_lap, find_lap_bound, limits_of
from envs.deepracer.metadata import DEFAULT, parse_metadata
from envs.deepracer.minimum_time import CarLimits
from envs.deepracer.race import KNOWN_DYNAMICS, Dynamics, Race
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.tracks import Line, Track, load_track

STEP_S = kernels.CONTROL_S
FAST = parse_metadata(
    {
        **DEFAULT,
        "action_space": {"steering_angle": {"low": -30, "high": 30}, "speed": {"low": 0.5, "high": 4}},
        "action_space_type": "continuous",
    }
)
# Beyond the border by the farthest wheel from the middle of the rear axle; it is on the road's edge then.
REACH_M = math.hypot(0.163974, 0.079601)


def circle(radius: float, width: float) -> Track:
    angles = np.linspace(0, 2 * np.pi, 401)
    round_ = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    round_[-1] = round_[0]
    return Track("circle", radius * round_, (radius - width / 2) * round_, (radius + width / 2) * round_)


@pytest.mark.parametrize("lag_s", [0.0, 0.3, 1.0])
def test_a_straight_takes_the_time_of_full_throttle(lag_s: float) -> None:
    track = load_track("straight")
    bound = find_lap_bound(track, CarLimits(3.0, lag_s, 1.5, math.inf))
    assert bound is not None

    def left(seconds: float) -> float:
        lost = lag_s * (1 - math.exp(-seconds / lag_s)) if lag_s else 0.0
        return 3.0 * (seconds - lost) - (track.length - kernels.FRONT_M)

    assert bound.seconds - 2 * STEP_S == pytest.approx(brentq(left, 0, 60), abs=STEP_S / 8)


@pytest.mark.parametrize("width", [0.6, 1.2])
def test_a_slow_car_takes_the_shortest_way_round_a_circle(width: float) -> None:
    bound = find_lap_bound(circle(3.0, width), CarLimits(1.0, 0.0, 3.0, math.inf), is_flying=True)
    assert bound is not None
    assert bound.seconds == pytest.approx(2 * np.pi * (3.0 - width / 2 - REACH_M), rel=0.02)
    radii = np.linalg.norm(bound.line, axis=1)
    np.testing.assert_allclose(radii, 3.0 - width / 2 - REACH_M, atol=0.02)


def test_a_fast_car_rounds_a_circle_as_its_friction_allows() -> None:
    width, lateral = 0.6, 4.0
    radius = 3.0 - width / 2 - REACH_M
    # As it cannot turn more sharply than the innermost circle, no sharper corners between straights are faster.
    bound = find_lap_bound(circle(3.0, width), CarLimits(4.0, 0.0, 1 / radius, lateral), is_flying=True)
    assert bound is not None
    constant = 2 * np.pi * math.sqrt(radius / lateral)
    assert 0.85 * constant < bound.seconds < constant  # at its ends, which are free, it need not turn
    middle = slice(len(bound.line) // 4, -len(bound.line) // 4)
    np.testing.assert_allclose(bound.speeds[middle], math.sqrt(lateral * radius), rtol=0.02)
    np.testing.assert_allclose(np.linalg.norm(bound.line[middle], axis=1), radius, atol=0.02)


def test_each_limit_costs_time() -> None:
    track = load_track("reinvent_base")
    best = CarLimits(4.0, 0.0, 3.5, math.inf)
    times = []
    for limits in (
        best,
        dataclasses.replace(best, lateral=8.0),
        dataclasses.replace(best, lateral=4.0),
        dataclasses.replace(best, lateral=4.0, speed_lag_s=0.3),
        dataclasses.replace(best, lateral=4.0, speed_lag_s=0.3, curvature=1.2),
        CarLimits(1.0, 0.3, 1.2, 4.0),
    ):
        found = find_lap_bound(track, limits)
        assert found is not None
        times.append(found.seconds)
        lengths = np.linalg.norm(np.diff(found.line, axis=0), axis=1)
        assert lengths.sum() < track.length
        assert found.speeds.max() <= limits.top_speed
    assert times == sorted(times)
    assert times[-1] > 3 * times[0]


def follow(line: Line, speeds: Line, dynamics: str, *, ahead_s: float, factor: float) -> tuple[int, float]:
    """Drives a lap of reinvent_base after a line by pure pursuit; returns its status and its seconds."""
    options = read_options(track="reinvent_base", model_metadata=FAST, dynamics=dynamics, is_training=False)
    racing = Racing(options, seed=0)
    racing.restart(0)
    steps = 0
    while not racing.simulation.has_ended[0]:
        x, y, yaw, speed = racing.simulation.cars[0, : kernels.SPEED + 1].tolist()
        heading = np.array([math.cos(yaw), math.sin(yaw)])
        apart = line - (np.array([x, y]) + kernels.REAR_AXLE_M * heading)
        far = np.linalg.norm(apart, axis=1)
        near = int(far.argmin())
        aim = near + int(np.argmax(far[near:] >= 0.25 + ahead_s * speed))
        left = heading[0] * apart[aim, 1] - heading[1] * apart[aim, 0]
        bend = 2 * left / far[aim] ** 2 * kernels.WHEELBASE_M / options.race.dynamics.steering_gain
        wanted = factor * speeds[min(near + int(2 + 2 * speed), len(speeds) - 1)]
        racing.command(np.array([[math.degrees(math.atan(bend)), max(wanted, 0.5)]]))
        steps += 1
    return int(racing.measured[0, kernels.STATUS]), steps * STEP_S


@pytest.mark.parametrize("dynamics", KNOWN_DYNAMICS)
def test_no_driven_lap_is_faster(dynamics: str) -> None:
    track = load_track("reinvent_base")
    bound = bound_lap(track, Race(dynamics=KNOWN_DYNAMICS[dynamics]), FAST)
    assert bound is not None
    center = track.place(np.linspace(0, track.length - 0.2, len(bound.line)))[:, :2]
    beyond = np.linspace(0.1, 3, 30)[:, None] * [1.0, 0.0]
    driven = []
    for share in (0.5, 0.7):
        line = share * bound.line + (1 - share) * center
        line = np.concatenate([line, line[-1] + beyond])
        speeds = np.append(bound.speeds, np.full(len(beyond), bound.speeds[-1]))
        for ahead_s in (0.1, 0.2, 0.3):
            for factor in (0.7, 0.8, 0.9, 1.0):
                status, seconds = follow(line, speeds, dynamics, ahead_s=ahead_s, factor=factor)
                driven += [seconds] if status == kernels.LAP_COMPLETE else []
    assert driven
    assert bound.seconds < min(driven) < 1.6 * bound.seconds


def test_the_bound_is_that_of_the_race() -> None:
    track = load_track("oval")
    gazebo = Race(dynamics=KNOWN_DYNAMICS["gazebo"])

    def seconds(race: Race, agents: int = 1) -> float:
        found = bound_lap(track, race, FAST, agents=agents)
        assert isinstance(found, LapBound)
        return found.seconds

    standing = seconds(gazebo)
    assert seconds(dataclasses.replace(gazebo, is_continuous=True)) < standing - 2 * STEP_S
    assert seconds(gazebo, agents=2) == seconds(dataclasses.replace(gazebo, is_continuous=True))
    assert seconds(dataclasses.replace(gazebo, reverse_dir=True)) == pytest.approx(standing, rel=0.01)
    assert seconds(dataclasses.replace(gazebo, start_position_offset=0.5)) == pytest.approx(standing, rel=0.01)


def test_there_is_no_bound_where_it_would_be_none() -> None:
    noisy = dataclasses.replace(KNOWN_DYNAMICS["gazebo"], noise=0.02)
    assert bound_lap(load_track("oval"), Race(dynamics=noisy), FAST) is None
    clumsy = CarLimits(1.0, 0.0, 0.2, math.inf)  # its smallest circle is larger than the track
    assert find_lap_bound(load_track("oval"), clumsy) is None
    assert find_lap_bound(load_track("straight"), clumsy, start_share=0.5) is None


def test_limits_are_those_of_the_actions_and_of_the_dynamics() -> None:
    limits = limits_of(Race(dynamics=KNOWN_DYNAMICS["gazebo"]), FAST)
    assert limits.top_speed == pytest.approx(4 * 36 / 35)
    assert limits.curvature == pytest.approx(0.44 * math.tan(math.radians(30)) / 0.163974)
    assert limits.lateral == pytest.approx(0.43 * 9.81)
    actions = [{"steering_angle": 45, "speed": 1}, {"steering_angle": -45, "speed": 9}]
    clipped = limits_of(Race(dynamics=Dynamics()), parse_metadata({**DEFAULT, "action_space": actions}))
    assert clipped.top_speed == limits.top_speed
    assert (clipped.speed_lag_s, clipped.lateral) == (0, math.inf)
    assert clipped.curvature == pytest.approx(math.tan(math.radians(30)) / 0.163974)

"""DeepRacer's rules: timing of a step, motion, ends of episodes, starts, penalties, objects."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from benchmarks.dynamics import drive_laps
from envs.deepracer import kernels
from envs.deepracer.kernels import COMMAND_SPEED, CONTROL_S, STATUS, WHEELBASE_M, YAW
from envs.deepracer.race import Dynamics, Race
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.simulation import STATUS_NAMES, Simulation
from envs.deepracer.tracks import load_track

STRAIGHT_ON, LEFT = (0.0, 1.0), (30.0, 1.0)
FACTOR = 0.036 / 0.035  # wheels roll faster than commanded
CONTINUOUS = {
    "action_space": {"steering_angle": {"high": 30, "low": -30}, "speed": {"high": 4, "low": 0.5}},
    "action_space_type": "continuous",
    "sensor": ["FRONT_FACING_CAMERA"],
    "version": "5",
}


def race(**options: Any) -> Racing:
    """One car about to take the first step that moves it."""
    racing = Racing(read_options(**{"track": "reinvent_base", **options}), seed=0)
    racing.restart(0)
    racing.command(np.array([STRAIGHT_ON]))
    return racing


def drive(racing: Racing, command: tuple[float, float], steps: int) -> list[str]:
    """Statuses of steps under one command, until the episode ends."""
    found = []
    for _ in range(steps):
        racing.command(np.array([command]))
        found.append(STATUS_NAMES[int(racing.measured[0, STATUS])])
        if racing.simulation.has_ended[0]:
            break
    return found


def follow(racing: Racing, speed: float, steps: int, row: int = 0) -> list[str]:
    """Statuses of steps along the center line."""
    from runtime.families.deepracer.reward_check import _steer

    found = []
    for _ in range(steps):
        angle = _steer(racing, row, racing.simulation.track_of(row).center)
        racing.command(np.array([(angle, speed)] * len(racing.measured)))
        found.append(STATUS_NAMES[int(racing.measured[row, STATUS])])
        if racing.simulation.has_ended[row]:
            break
    return found


def test_the_first_step_pays_nothing_moves_nothing_and_calls_no_reward_function() -> None:
    calls = []

    def reward(params: dict[str, Any]) -> float:
        calls.append((params["steps"], params["x"]))
        return 7.0

    racing = Racing(read_options(reward_function=reward), seed=0)
    racing.restart(0)
    before = racing.simulation.cars[0, :3].copy()
    assert racing.command(np.array([LEFT])).tolist() == [0.0]
    assert not calls
    np.testing.assert_array_equal(racing.simulation.cars[0, :3], before)
    assert racing.measured[0, kernels.STEPS] == 1
    assert racing.command(np.array([STRAIGHT_ON])).tolist() == [7.0]
    assert calls == [(2.0, pytest.approx(before[0] + 0.14, abs=1e-5))]


def test_a_reward_is_for_the_pose_before_its_action() -> None:
    seen: list[dict[str, Any]] = []

    def reward(params: dict[str, Any]) -> float:
        seen.append(params)
        return 0.0

    racing = race(reward_function=reward, dynamics="kinematic")
    drive(racing, STRAIGHT_ON, 3)
    assert seen[0]["speed"] == 1.0
    assert seen[0]["steering_angle"] == 0.0
    moved = math.dist((seen[0]["x"], seen[0]["y"]), (seen[1]["x"], seen[1]["y"]))
    assert moved == pytest.approx(FACTOR * CONTROL_S)  # the action of step t shows in step t + 1
    assert seen[1]["sim_time"] - seen[0]["sim_time"] == pytest.approx(1 / 15)


def test_leaving_the_track_is_flagged_a_step_after_it_happened() -> None:
    offtrack: list[bool] = []

    def reward(params: dict[str, Any]) -> float:
        offtrack.append(params["is_offtrack"])
        return 0.5

    racing = race(reward_function=reward)
    statuses = drive(racing, (30.0, 4.0), 100)
    assert statuses[-1] == "off_track"
    assert set(statuses[:-1]) == {"in_progress"}
    assert offtrack == [False] * (len(statuses) - 1) + [True]
    assert racing.rewards[0] == 0.5  # the last step pays what the function says
    assert bool(racing.simulation.has_ended[0])


@pytest.mark.parametrize(("steering", "speed"), [(0.0, 1.0), (30.0, 1.0), (-17.0, 2.5), (45.0, 9.0), (5.0, 0.01)])
def test_a_car_rolls_along_the_circle_of_its_steering_angle_within_its_limits(steering: float, speed: float) -> None:
    cars = np.zeros((1, kernels.COLUMNS))
    cars[0, kernels.PHASE] = kernels.RUN
    cars[0, COMMAND_SPEED], cars[0, kernels.COMMAND_STEERING] = speed, steering
    kernels.drive(cars, Dynamics().as_array()[None])
    angle = math.radians(min(max(steering, -30), 30))
    distance = min(max(speed, 0.1), 4.0) * FACTOR * CONTROL_S
    turn = distance * math.tan(angle) / WHEELBASE_M
    assert cars[0, YAW] == pytest.approx(turn)
    # The rear axle stays on a circle around a point beside it.
    rear = cars[0, :2] + kernels.REAR_AXLE_M * np.array([math.cos(turn), math.sin(turn)])
    if angle:
        radius = WHEELBASE_M / math.tan(angle)
        center = np.array([kernels.REAR_AXLE_M, radius])
        assert np.linalg.norm(rear - center) == pytest.approx(abs(radius))
    else:
        assert rear.tolist() == pytest.approx([kernels.REAR_AXLE_M + distance, 0.0])
    assert cars[0, COMMAND_SPEED] == speed  # reports say what was commanded


@pytest.mark.parametrize(("version", "factor"), [(5, 36 / 35), (3, 36 / 35), (2, 0.036 / 0.0277), (1, 0.36)])
def test_older_versions_turn_their_wheels_at_other_speeds(version: float, factor: float) -> None:
    assert Dynamics(version=version).as_array()[0] == pytest.approx(factor)


def test_a_real_car_lags_behind_its_commands_and_comes_to_the_same_speed() -> None:
    cars = np.zeros((2, kernels.COLUMNS))
    cars[:, kernels.PHASE] = kernels.RUN
    cars[:, COMMAND_SPEED] = 1.0
    lagged = dataclasses.replace(Dynamics(), latency_s=0.05, speed_lag_s=0.1).as_array()[None]
    kernels.drive(cars[:1], Dynamics().as_array()[None])
    kernels.drive(cars[1:], lagged)
    # Nothing for 0.05 s, then 1 - exp(-t / 0.1): the integral over what is left of the step.
    left = CONTROL_S - 0.05
    expected = FACTOR * (left - 0.1 * (1 - math.exp(-left / 0.1)))
    assert cars[0, 0] == pytest.approx(FACTOR * CONTROL_S)
    assert cars[1, 0] == pytest.approx(expected, abs=0.003)
    for _ in range(30):
        kernels.drive(cars[1:], lagged)
    assert cars[1, kernels.SPEED] == pytest.approx(FACTOR, rel=1e-3)


def test_friction_widens_the_sharpest_turn() -> None:
    def radius(friction: float) -> float:
        cars = np.zeros((1, kernels.COLUMNS))
        cars[0, kernels.PHASE] = kernels.RUN
        cars[0, COMMAND_SPEED] = 3.0
        cars[0, kernels.COMMAND_STEERING] = 30.0
        kernels.drive(cars, Dynamics(friction=friction).as_array()[None])
        return float(3.0 * FACTOR * CONTROL_S / cars[0, YAW])

    assert radius(0.0) == pytest.approx(WHEELBASE_M / math.tan(math.radians(30)))
    assert radius(0.5) == pytest.approx((3.0 * FACTOR) ** 2 / (0.5 * 9.81))


@pytest.mark.parametrize("gain", [0.43, 1.0, 1.3])
def test_a_cars_path_has_its_gains_share_of_the_curvature_without_slip(gain: float) -> None:
    cars = np.zeros((1, kernels.COLUMNS))
    cars[0, kernels.PHASE] = kernels.RUN
    cars[0, COMMAND_SPEED], cars[0, kernels.COMMAND_STEERING] = 1.0, 20.0
    kernels.drive(cars, Dynamics(steering_gain=gain).as_array()[None])
    assert cars[0, YAW] / (FACTOR * CONTROL_S) == pytest.approx(gain * math.tan(math.radians(20)) / WHEELBASE_M)


def test_the_default_car_moves_as_the_original_simulators() -> None:
    """Source: traces of the console's version 5 (2023), to which benchmarks/dynamics.md adds others."""
    assert read_options().race.dynamics.name == Race().dynamics.name == "gazebo"
    dynamics = Race().dynamics.as_array()[None]
    car = np.zeros((1, kernels.COLUMNS))
    car[0, kernels.PHASE] = kernels.RUN

    def rates(speed: float, steps: int) -> tuple[float, float]:
        """Speed and yaw rate at the end of some steps."""
        car[0, COMMAND_SPEED], car[0, kernels.COMMAND_STEERING] = speed, 30.0
        for _ in range(steps):
            before = car[0, YAW]
            kernels.drive(car, dynamics)
        return car[0, kernels.SPEED], (car[0, YAW] - before + math.pi) % math.tau - math.pi

    speed, _ = rates(1.0, 5)
    assert speed == pytest.approx(FACTOR * (1 - math.exp(-5 * CONTROL_S / 0.32)), rel=0.01)
    speed, turn = rates(1.0, 60)
    assert turn / (speed * CONTROL_S) == pytest.approx(0.44 * math.tan(math.radians(30)) / WHEELBASE_M, rel=0.05)
    speed, turn = rates(4.0, 60)
    assert speed * turn / CONTROL_S == pytest.approx(4.2, rel=0.05)


def test_noise_gives_each_episode_a_car_of_its_own_from_the_seed() -> None:
    def lap_steps(seed: int, noise: float) -> list[int]:
        racing = Racing(read_options(is_training=False, dynamics={"noise": noise}), seed=seed)
        counts = []
        for _ in range(3):
            racing.restart(0)
            counts.append(len(follow(racing, 1.0, 1000)))
        return counts

    assert lap_steps(0, 0.02) == lap_steps(0, 0.02) != lap_steps(1, 0.02)
    assert len(set(lap_steps(0, 0.02))) > 1
    assert len(set(lap_steps(0, 0.0))) == 1


def test_lap_times_of_one_driver_spread_by_the_share_that_noise_sets() -> None:
    (lap_s,) = drive_laps(0.0, trials=1, seed=0)
    times_s = drive_laps(0.025, trials=30, seed=1)
    assert times_s.std(ddof=1) == pytest.approx(0.025 * lap_s, rel=0.35)  # a speed of 1 + noise in 1 / (1 + noise) s
    assert drive_laps(0.025, trials=3, seed=1).tolist() == times_s[:3].tolist()


@pytest.mark.parametrize(("dynamics", "speed", "lag_s"), [("kinematic", 2.0, 0.0), ("gazebo", 1.0, 0.32)])
def test_a_lap_on_the_center_line_ends_as_complete(dynamics: str, speed: float, lag_s: float) -> None:
    racing = race(dynamics=dynamics)
    statuses = follow(racing, speed, 1000)
    assert statuses[-1] == "lap_complete"
    assert racing.measured[0, kernels.PROGRESS] == 100
    lap_s = racing.simulation.track.length / (speed * FACTOR) + lag_s
    assert len(statuses) * CONTROL_S == pytest.approx(lap_s, rel=0.03)


def test_progress_is_negative_behind_the_start_and_reversing_ends_the_episode() -> None:
    racing = race()
    racing.simulation.cars[0, YAW] += math.pi
    statuses = drive(racing, STRAIGHT_ON, 40)
    assert racing.measured[0, kernels.PROGRESS] < -1
    assert statuses[-1] == "reversed"
    assert len(statuses) <= 17


def test_a_car_that_stands_for_15_steps_is_immobilized() -> None:
    racing = Racing(read_options(), seed=0)
    racing.restart(0)
    racing.simulation.dynamics[:] = 0  # wheels that do not turn
    assert drive(racing, STRAIGHT_ON, 40) == ["prepare"] + ["in_progress"] * 14 + ["immobilized"]


def test_an_episode_is_cut_after_100000_steps() -> None:
    racing = race()
    racing.simulation.cars[0, kernels.STEPS] = 99_998
    assert drive(racing, STRAIGHT_ON, 5) == ["in_progress", "time_up"]


def test_rules_are_met_in_the_contracts_order() -> None:
    racing = race(number_of_obstacles=1)
    car = racing.simulation.cars[0]
    car[:2] = racing.simulation.objects.rows[0, 0, :2]
    racing.simulation.objects.rows[0, 0, :2] = car[:2] = (-50.0, -50.0)  # crashed and off the track at once
    assert drive(racing, STRAIGHT_ON, 1) == ["crashed"]
    car[kernels.STATUS] = 0


@pytest.mark.parametrize(("training", "starts"), [(True, [0.0, 0.05, 0.1]), (False, [0.0, 0.0, 0.0])])
def test_training_starts_farther_and_farther_and_evaluation_does_not(training: bool, starts: list[float]) -> None:
    simulation = Simulation(load_track("oval"), Race(), is_training=training)
    for share in starts:
        simulation.restart(0)
        expected = simulation.track.place(share * simulation.track.length)
        assert simulation.cars[0, :3] == pytest.approx(expected)


def test_the_direction_alternates_and_starts_are_offset() -> None:
    rules = Race(alternate_driving_direction=True, start_position_offset=0.25, change_start_position=False)
    simulation = Simulation(load_track("oval"), rules)
    for expected in (0, 1, 0):
        simulation.restart(0)
        assert simulation.cars[0, kernels.DIRECTION] == expected
        assert simulation.track_of(0).is_reversed == bool(expected)
        simulation.measure()
        assert simulation.cars[0, kernels.PROGRESS] == pytest.approx(14 / simulation.track.length, rel=0.02)


def test_a_failure_costs_its_penalty_and_the_lap_continues() -> None:
    racing = race(
        is_training=False, number_of_resets=10, off_track_penalty=2.0, reward_function=lambda params: 1.0, laps=1
    )
    statuses = drive(racing, (30.0, 2.0), 200)
    first = statuses.index("off_track")
    assert statuses[first : first + 32] == ["off_track", *["pause"] * 30, "in_progress"]
    racing.simulation.seed(0)
    racing.restart(0)
    rewards = [float(racing.command(np.array([(30.0, 2.0)]))[0]) for _ in range(first + 40)]
    began = rewards.index(0.0, 1)
    assert rewards[began - 1 : began + 31] == [1.0, *[0.0] * 30, 1.0]  # the failure's own step is paid
    again = [index for index, status in enumerate(statuses) if status == "off_track"]
    assert len(again) > 1  # it continued and left the track again


def test_a_failure_before_the_finish_gives_no_lap_away() -> None:
    racing = race(track="oval", number_of_resets=3, off_track_penalty=0.2, is_training=False)
    track = racing.simulation.track
    x, y, yaw = track.place(track.length - 0.19)
    racing.simulation.cars[0, :3] = x - 1.5 * math.sin(yaw), y - 1.5 * math.cos(yaw), yaw
    racing.simulation.cars[0, kernels.PREVIOUS_PROGRESS] = 98.0
    statuses = follow(racing, 1.0, 30)
    assert statuses[0] == "off_track"
    assert statuses[1:4] == ["pause"] * 3
    assert statuses[-1] == "lap_complete"
    assert statuses.count("lap_complete") == 1


def test_laps_from_an_offset_are_whole_laps() -> None:
    racing = race(
        track="oval", start_position_offset=0.25, is_continuous=True, laps=2, is_training=False, dynamics="kinematic"
    )
    statuses = follow(racing, 2.0, 1000)
    first, second = np.flatnonzero(np.array(statuses) == "lap_complete")
    assert second - first == pytest.approx(first + 1, abs=3)


def test_laps_follow_each_other_in_a_continuous_race() -> None:
    racing = race(track="oval", is_continuous=True, laps=3, is_training=False, dynamics="kinematic")
    statuses = follow(racing, 4.0, 1000)
    assert statuses.count("lap_complete") == 3
    assert statuses[-1] == "lap_complete"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"race_type": "DRAG"}, "race_type: got 'DRAG'; expected one of TIME_TRIAL"),
        ({"number_of_obstacles": -1}, "number_of_obstacles: got -1; expected a whole number of at least 0"),
        ({"lower_lane_change_time": 9.0}, "upper_lane_change_time: got 5.0; expected at least"),
        ({"dynamics": "lunar"}, "dynamics: got 'lunar'; expected gazebo, gazebo-6, kinematic, real"),
        ({"dynamics": {"latency_s": 5.0}}, "latency_s: got 5.0; expected a number from 0 to 0.2"),
        ({"dynamics": {"steering_gain": 0}}, "steering_gain: got 0; expected a number from 0.1 to 2"),
        (
            {"dynamics": {"noise": 30, "friction": "wet"}},
            r"friction: got 'wet'; expected a number from 0 to 10.\nnoise: got 30; expected a number from 0 to 0.2.",
        ),
        ({"reverse_dir": "maybe"}, "reverse_dir: got 'maybe'; expected true or false"),
        ({"number_of_bot_cars": 1.5}, "number_of_bot_cars: got 1.5; expected a whole number"),
        ({"penalty_seconds": math.inf}, "penalty_seconds: got inf; expected a number"),
        ({"object_positions": [[math.nan, 1]]}, "object_positions: got .* expected a list as"),
        ({"number_of_obstacles": 90, "track": "straight"}, "objects: got 90; expected no more than stand on a track"),
        ({"number_of_obstacles": 1, "min_distance_between_obstacles": 99.0}, "expected less than the track's"),
        ({"dynamics": {"foo": 1}}, "dynamics: got foo; expected some of friction"),
        ({"tracks": "nowhere"}, "tracks: got 'nowhere'; expected a folder"),
        ({"track": 3}, "track: got 3; expected a name"),
        ({"nonsense": 1}, "nonsense: got a setting that no race has"),
    ],
)
def test_wrong_settings_are_answered(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_options(**settings)


def test_every_wrong_setting_is_listed_at_once() -> None:
    with pytest.raises(ValueError, match=r"(?s)track: got 'x'.*model_metadata.*race_type: got 'y'"):
        read_options(track="x", race_type="y", model_metadata={})


def test_continuous_actions_are_scaled_to_their_bounds() -> None:
    racing = race(model_metadata=CONTINUOUS)
    racing.step(np.array([[0.0, 1.0]], np.float32))
    assert racing.commands.tolist() == [[0.0, 4.0]]
    racing.step(np.array([[-1.0, -3.0]], np.float32))
    assert racing.commands.tolist() == [[-30.0, 0.5]]

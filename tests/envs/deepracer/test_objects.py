"""Objects on a DeepRacer track beside the car: boxes, bot cars, other agents' cars."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from envs.deepracer import kernels
from envs.deepracer.kernels import STATUS
from envs.deepracer.metadata import DEFAULT
from envs.deepracer.race import Race
from envs.deepracer.racing import Racing, read_options
from envs.deepracer.simulation import STATUS_NAMES, Simulation
from envs.deepracer.tracks import load_track
from tests.envs.deepracer.test_race import STRAIGHT_ON, drive, follow, race


def test_a_start_beside_an_object_is_in_the_other_lane() -> None:
    track = load_track("oval")
    rules = Race(object_positions=((0.02, 1),))
    simulation = Simulation(track, rules)
    simulation.restart(0)
    assert simulation.cars[0, :3] == pytest.approx(track.place(0.0, track.lane(is_inner=False)))


def test_obstacles_stand_in_turn_in_the_inner_and_the_outer_lane() -> None:
    track = load_track("reinvent_base")
    simulation = Simulation(track, Race(number_of_obstacles=4, min_distance_between_obstacles=2.0))
    simulation.restart(0)
    distances = np.linspace(2.0, track.length - 1.0, 4)
    for number, distance in enumerate(distances):
        lane = track.lane(is_inner=number % 2 == 0)
        assert simulation.objects.rows[0, number, :3] == pytest.approx(track.place(distance, lane))
    mixed = Simulation(track, Race(number_of_obstacles=4, randomize_obstacle_locations=True), seed=1)
    mixed.restart(0)
    first = mixed.objects.rows[0].copy()
    mixed.restart(0)
    assert not np.allclose(first, mixed.objects.rows[0])
    mixed.seed(1)
    mixed.restart(0)
    np.testing.assert_array_equal(first, mixed.objects.rows[0])


def test_a_corner_of_the_car_in_a_box_is_a_crash() -> None:
    racing = race(object_positions=((0.1, 1),), race_type="OBJECT_AVOIDANCE")
    box = racing.simulation.objects.rows[0, 0]
    x, y, yaw = box[:3]
    behind = 0.5 / 2 + kernels.CAR_LENGTH_M / 2
    for gap, expected in ((0.01, "in_progress"), (-0.01, "crashed")):
        away = behind + gap
        racing.simulation.cars[0, :3] = x - away * math.cos(yaw), y - away * math.sin(yaw), yaw
        racing.simulation.has_ended[0] = False
        racing.simulation.cars[0, kernels.PHASE] = kernels.RUN
        assert drive(racing, (0.0, 0.0), 1) == [expected]


def test_after_a_crash_the_car_stands_a_meter_behind_in_the_other_lane() -> None:
    rules = {"object_positions": ((0.2, 1),), "number_of_resets": 5, "collision_penalty": 1.0, "is_training": False}
    racing = race(**rules)
    track = racing.simulation.track
    racing.simulation.cars[0, :3] = track.place(0.2 * track.length - 0.35, track.lane(is_inner=True))
    racing.command(np.array([STRAIGHT_ON]))
    assert STATUS_NAMES[int(racing.measured[0, STATUS])] == "crashed"
    expected = track.place(0.2 * track.length - 1.0, track.lane(is_inner=False))
    assert racing.simulation.cars[0, :3] == pytest.approx(expected)


def test_a_bot_car_that_runs_into_us_is_not_our_crash() -> None:
    racing = race(track="oval", number_of_bot_cars=1, race_type="HEAD_TO_BOT", is_training=False)
    bot = racing.simulation.objects.rows[0, 0]
    for ahead, expected in ((0.25, "in_progress"), (-0.25, "crashed")):
        x, y = bot[0] + ahead * math.cos(bot[2]), bot[1] + ahead * math.sin(bot[2])
        racing.simulation.cars[0, :3] = x - 0.05 * math.sin(bot[2]), y + 0.05 * math.cos(bot[2]), bot[2]
        assert drive(racing, STRAIGHT_ON, 1) == [expected]


def test_bot_cars_drive_change_lanes_and_stop_for_who_stands_in_their_way() -> None:
    rules = Race(number_of_bot_cars=1, bot_car_speed=0.5, is_lane_change=True, lower_lane_change_time=2.5)
    rules = dataclasses.replace(rules, upper_lane_change_time=2.5, race_type="HEAD_TO_BOT")
    simulation = Simulation(load_track("reinvent_base"), rules, is_training=False, seed=0)
    simulation.restart(0)
    simulation.cars[0, :2] = (-99.0, -99.0)
    begin = float(simulation.objects.distances[0, 0])
    lanes = []
    for _ in range(90):
        simulation.cars[0, :2] = (-99.0, -99.0)
        simulation.drive(np.zeros(1), np.zeros(1))
        lanes.append(float(simulation.objects.is_inner[0, 0]))
    assert simulation.objects.distances[0, 0] - begin == pytest.approx(0.5 * 6.0, rel=0.01)
    assert min(lanes) == 0.0
    assert max(lanes) == 1.0
    assert any(0 < lane < 1 for lane in lanes)
    stands = float(simulation.objects.distances[0, 0])
    simulation.objects.hit(0, 0, now=float(simulation.cars[0, kernels.TIME]))
    for _ in range(29):
        simulation.drive(np.zeros(1), np.zeros(1))
    assert simulation.objects.distances[0, 0] == stands  # for two seconds
    simulation.drive(np.zeros(1), np.zeros(1))
    simulation.drive(np.zeros(1), np.zeros(1))
    assert simulation.objects.distances[0, 0] > stands


def test_the_car_behind_has_crashed_into_the_one_ahead() -> None:
    racing = Racing(read_options(track="oval", race_type="HEAD_TO_MODEL", is_training=False), agents=2, seed=0)
    racing.restart(0)
    racing.command(np.array([STRAIGHT_ON, STRAIGHT_ON]))
    cars = racing.simulation.cars
    cars[0, :3], cars[1, :3] = (4.0, 0.5, 0.0), (3.75, 0.5, 0.0)
    racing.command(np.array([STRAIGHT_ON, STRAIGHT_ON]))
    statuses = [STATUS_NAMES[int(status)] for status in racing.measured[:, STATUS]]
    assert statuses == ["in_progress", "crashed"]
    params = racing.params(0)
    assert params["objects_location"] == [[pytest.approx(3.75, abs=0.2), pytest.approx(0.5, abs=0.01)]]


def test_objects_reach_the_reward_function() -> None:
    seen: list[dict[str, Any]] = []

    def reward(params: dict[str, Any]) -> float:
        seen.append(params)
        return 0.0

    racing = race(track="oval", number_of_bot_cars=2, bot_car_speed=0.3, reward_function=reward, is_training=False)
    follow(racing, 1.0, 1)
    params = seen[0]
    track = racing.simulation.track
    assert params["objects_speed"] == [0.3, 0.3]
    assert params["objects_heading"] == pytest.approx([track.place(2.0)[2], track.place(track.length - 1)[2]], abs=0.05)
    assert params["objects_distance"] == pytest.approx([2.0, track.length - 1], abs=0.05)
    assert params["objects_left_of_center"] == [True, False]  # the inner lane of a counter-clockwise track is left
    assert params["closest_objects"] == [1, 0]
    assert params["object_in_camera"] is True
    assert params["objects_distance_from_center"] == pytest.approx([0.2, 0.2], abs=0.01)


@pytest.mark.parametrize(
    ("ahead_m", "left_m", "is_seen"),
    [
        (2.0, 0.0, True),
        (-1.0, 0.0, False),
        # Its center is in none of the pictures, a corner is in the single camera's and the near one of two.
        (1.0, 0.85, True),
        (1.0, 1.0, False),
        # In front of the car, but below the picture and too near.
        (0.02, 0.0, False),
    ],
)
@pytest.mark.parametrize("sensor", ["FRONT_FACING_CAMERA", "STEREO_CAMERAS"])
def test_an_object_is_in_the_camera_where_a_corner_of_it_is_in_the_picture(
    ahead_m: float, left_m: float, is_seen: bool, sensor: str
) -> None:
    """Oracle: the six planes of the original's frustum, from its corners."""
    racing = race(track="oval", number_of_obstacles=1, model_metadata={**DEFAULT, "sensor": [sensor], "version": 5})
    simulation = racing.simulation
    car, box = simulation.cars[0], simulation.objects.rows[0, 0]
    yaw = car[kernels.YAW]
    box[kernels.OBJECT_YAW] = yaw
    along, across = np.array([math.cos(yaw), math.sin(yaw)]), np.array([-math.sin(yaw), math.cos(yaw)])
    box[:2] = car[:2] + ahead_m * along + left_m * across
    assert racing.params(0)["object_in_camera"] == is_seen
    cameras = (0.03, -0.03) if sensor == "STEREO_CAMERAS" else (0.0,)
    corners = [
        (ahead_m + a, left_m + b, 0.0) for a, b in ((0, 0), (0.25, 0.2), (0.25, -0.2), (-0.25, 0.2), (-0.25, -0.2))
    ]
    assert is_seen == any(is_inside(corner, (0.14529379, y, 0.13032555)) for corner in corners for y in cameras)


def is_inside(point: tuple[float, float, float], camera: tuple[float, float, float]) -> bool:
    """Whether a point in the car's frame is in a camera's frustum, by the normals of its planes."""
    forward = np.array([math.cos(0.2618), 0, -math.sin(0.2618)])
    right, up = np.array([0.0, -1.0, 0.0]), np.array([math.sin(0.2618), 0, math.cos(0.2618)])
    half = math.tan(1.13 / 2)
    rays = [forward + half * (a * right + 0.75 * b * up) for a, b in ((-1, -1), (-1, 1), (1, 1), (1, -1))]
    seen = np.array(point) - np.array(camera)
    normals = [np.cross(one, other) for one, other in zip(rays, [*rays[1:], rays[0]], strict=True)]
    inwards = [normal * np.sign(normal @ forward) for normal in normals]
    return bool(all(normal @ seen > 0 for normal in inwards) and 0.2 < seen @ forward < 300)


def test_an_object_level_with_the_car_is_the_one_before_it() -> None:
    racing = race(track="oval", number_of_obstacles=2)
    simulation = racing.simulation
    x, y, _ = simulation.track.place(float(simulation.cars[0, kernels.DISTANCE]))
    simulation.objects.rows[0, 1, :2] = x, y
    params = racing.params(0)
    assert params["objects_distance"][1] == simulation.cars[0, kernels.DISTANCE]
    assert params["closest_objects"] == [1, 0]


def test_a_bot_car_waits_behind_a_car_that_stands_in_its_way_and_not_for_one_far_ahead() -> None:
    rules = Race(number_of_bot_cars=1, bot_car_speed=1.0, race_type="HEAD_TO_BOT")
    for ahead, waits in ((0.4, True), (3.0, False)):
        simulation = Simulation(load_track("oval"), rules, is_training=False, seed=0)
        simulation.restart(0)
        begin = float(simulation.objects.distances[0, 0])
        place = simulation.track.place(begin + ahead, simulation.track.lane(is_inner=True))
        simulation.cars[0, : kernels.YAW + 1] = place
        simulation.measure()
        simulation.drive(np.zeros(1), np.zeros(1))
        assert (simulation.objects.distances[0, 0] == begin) == waits

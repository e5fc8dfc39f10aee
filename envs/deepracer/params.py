"""Computes the 27 parameters of a reward function.

Source: DeepRacer's simulation application 6.0.5, `agent_ctrl/constants.py::RewardParam` and `agent_ctrl/utils.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.deepracer import kernels
from envs.deepracer.simulation import Simulation

_HALF_VIEW = 1.13 / 2
_NEAR_M = 0.2
_CAMERA_M = 0.1453


def make_params(simulation: Simulation, row: int, *, speed: float, steering: float, is_stereo: bool) -> dict[str, Any]:
    """Returns the parameters of one car, in a new dict that the reward function may change.

    Args:
        simulation: Simulation whose `measure` has run.
        row: Row of the car.
        speed: Commanded speed in m/s.
        steering: Commanded steering angle in degrees.
        is_stereo: Whether the car has two cameras.
    """
    car = simulation.cars[row].tolist()
    track = simulation.track_of(row)
    status = int(car[kernels.STATUS])
    params: dict[str, Any] = {
        "all_wheels_on_track": car[kernels.WHEELS_ON_TRACK] == 4,
        "x": car[kernels.FRONT_X],
        "y": car[kernels.FRONT_Y],
        "heading": math.degrees(car[kernels.YAW]),
        "distance_from_center": car[kernels.CENTER_DISTANCE],
        "projection_distance": car[kernels.DISTANCE],
        "progress": car[kernels.PROGRESS],
        "steps": car[kernels.STEPS],
        "speed": speed,
        "steering_angle": steering,
        "track_width": car[kernels.WIDTH],
        "track_length": track.length,
        "waypoints": list(track.waypoints),
        "closest_waypoints": [int(car[kernels.WAYPOINT_BEHIND]), int(car[kernels.WAYPOINT_AHEAD])],
        "is_left_of_center": bool(car[kernels.IS_LEFT]),
        "is_reversed": track.is_reversed,
        "closest_objects": [0, 0],
        "objects_location": [],
        "objects_left_of_center": [],
        "object_in_camera": False,
        "objects_speed": [],
        "objects_heading": [],
        "objects_distance_from_center": [],
        "objects_distance": [],
        "is_crashed": status == kernels.CRASHED,
        "is_offtrack": car[kernels.WHEELS_ON_TRACK] == 0,
        "sim_time": car[kernels.TIME],
    }
    if len(simulation.objects) or simulation.agents > 1:
        params |= _describe_objects(simulation, row, is_stereo=is_stereo)
    return params


def _describe_objects(simulation: Simulation, row: int, *, is_stereo: bool) -> dict[str, Any]:
    """Parameters of the obstacles, the bot cars and the other agents, in this order."""
    track = simulation.track_of(row)
    race = simulation.race
    car = simulation.cars[row]
    world = row // simulation.agents
    first = world * simulation.agents
    others = [other for other in range(first, first + simulation.agents) if other != row]
    places = [(x, y) for x, y in simulation.objects.rows[world, :, :2].tolist()]
    places += [(float(simulation.cars[other, kernels.X]), float(simulation.cars[other, kernels.Y])) for other in others]
    yaws = simulation.objects.rows[world, :, kernels.OBJECT_YAW].tolist()
    yaws += [float(simulation.cars[other, kernels.YAW]) for other in others]
    inner_lane = np.concatenate([track.center, track.inner[::-1], track.center[:1]])
    inner_blocks = kernels.make_blocks([inner_lane])
    blocks = simulation.blocks[int(car[kernels.DIRECTION]), 0]
    distances = [kernels.project(track.center, blocks, track.distances, x, y) for x, y in places]
    ahead = [(distance - car[kernels.DISTANCE]) % track.length for distance in distances]
    following = int(np.argmin(ahead))
    has_bots = race.number_of_bot_cars > 0
    return {
        "closest_objects": [int(np.argmax(ahead)), following],
        "objects_location": [[x, y] for x, y in places],
        "objects_left_of_center": [
            kernels.is_on_road(inner_lane, inner_blocks, x, y) != (track.is_counter_clockwise == track.is_reversed)
            for x, y in places
        ],
        "object_in_camera": _is_in_camera(car, places[following], is_stereo=is_stereo),
        "objects_speed": [race.bot_car_speed if has_bots else 0.0] * len(places),
        "objects_heading": yaws if has_bots else [0.0] * len(places),
        "objects_distance_from_center": [
            float(np.hypot(*(np.array(place) - track.place(distance)[:2])))
            for place, distance in zip(places, distances, strict=True)
        ],
        "objects_distance": distances,
    }


def _is_in_camera(car: Any, place: tuple[float, float], *, is_stereo: bool) -> bool:
    """Whether an object is within a camera's horizontal field of view."""
    cosine, sine = math.cos(car[kernels.YAW]), math.sin(car[kernels.YAW])
    dx, dy = place[0] - car[kernels.X], place[1] - car[kernels.Y]
    ahead, left = cosine * dx + sine * dy - _CAMERA_M, cosine * dy - sine * dx
    cameras = (0.03, -0.03) if is_stereo else (0.0,)
    return any(ahead > _NEAR_M and abs(math.atan2(left - camera, ahead)) < _HALF_VIEW for camera in cameras)

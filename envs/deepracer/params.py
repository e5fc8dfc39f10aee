"""Computes the 27 parameters of a reward function.

Source: DeepRacer's simulation application 6.0.5, `agent_ctrl/constants.py::RewardParam` and `agent_ctrl/utils.py`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.deepracer import kernels
from envs.deepracer.race import Race
from envs.deepracer.simulation import Simulation

# Of a camera: tangents of half its view in width and height, the distances between which it sees, its pitch downwards.
_HALF_WIDTH = math.tan(1.13 / 2)
_HALF_HEIGHT = _HALF_WIDTH * 480 / 640
_NEAR_M, _FAR_M = 0.2, 300.0
_PITCH_SINE, _PITCH_COSINE = math.sin(0.2618), math.cos(0.2618)
_STEREO_M = 0.03


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
    sizes = simulation.objects.rows[world, :, kernels.OBJECT_LENGTH : kernels.OBJECT_WIDTH + 1].tolist()
    sizes += [[kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M]] * len(others)
    inner_lane = np.concatenate([track.center, track.inner[::-1], track.center[:1]])
    inner_blocks = kernels.make_blocks([inner_lane])
    blocks = simulation.blocks[int(car[kernels.DIRECTION]), 0]
    distances = [kernels.project(track.center, blocks, track.distances, x, y) for x, y in places]
    # One that is level with the car is behind it.
    ahead = [(distance - car[kernels.DISTANCE]) % track.length or track.length for distance in distances]
    following = int(np.argmin(ahead))
    has_bots = race.number_of_bot_cars > 0
    return {
        "closest_objects": [int(np.argmax(ahead)), following],
        "objects_location": [[x, y] for x, y in places],
        "objects_left_of_center": [
            kernels.is_on_road(inner_lane, inner_blocks, x, y) != (track.is_counter_clockwise == track.is_reversed)
            for x, y in places
        ],
        "object_in_camera": _is_in_camera(
            car, _outline(*places[following], yaws[following], *sizes[following]), race, is_stereo=is_stereo
        ),
        "objects_speed": [race.bot_car_speed if has_bots else 0.0] * len(places),
        "objects_heading": yaws if has_bots else [0.0] * len(places),
        "objects_distance_from_center": [
            float(np.hypot(*(np.array(place) - track.place(distance)[:2])))
            for place, distance in zip(places, distances, strict=True)
        ],
        "objects_distance": distances,
    }


def _outline(x: float, y: float, yaw: float, length: float, width: float) -> list[tuple[float, float]]:
    """The center and the corners of an object on the floor."""
    along, across = (math.cos(yaw), math.sin(yaw)), (-math.sin(yaw), math.cos(yaw))
    return [(x, y)] + [
        (x + a * along[0] + b * across[0], y + a * along[1] + b * across[1])
        for a in (length / 2, -length / 2)
        for b in (width / 2, -width / 2)
    ]


def _is_in_camera(car: Any, points: list[tuple[float, float]], race: Race, *, is_stereo: bool) -> bool:
    """Whether any of these points on the floor is in a camera's view.

    Source: `cameras/frustum.py` and `track_geom/track_data.py::get_objects_in_camera_frustums`.
    """
    is_new = race.dynamics.version >= 3
    forward_m, height_m = (0.14529379, 0.13032555) if is_new else (0.2, 0.164)
    cosine, sine = math.cos(car[kernels.YAW]), math.sin(car[kernels.YAW])
    for x, y in points:
        dx, dy = x - car[kernels.X], y - car[kernels.Y]
        ahead, left = cosine * dx + sine * dy - forward_m, cosine * dy - sine * dx
        depth = ahead * _PITCH_COSINE + height_m * _PITCH_SINE
        rise = ahead * _PITCH_SINE - height_m * _PITCH_COSINE
        if not _NEAR_M < depth < _FAR_M or abs(rise) >= depth * _HALF_HEIGHT:
            continue
        for camera in (_STEREO_M, -_STEREO_M) if is_stereo else (0.0,):
            if abs(left - camera) < depth * _HALF_WIDTH:
                return True
    return False

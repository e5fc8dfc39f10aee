"""A reward function for complete laps: near the center line, along it, and without swerving.

Train with it: see README.md beside this file.
"""

# mypy: ignore-errors
# Without types: DeepRacer's console refuses the import of typing.

import math

LOOK_AHEAD = 3  # waypoints
CALM_DEG = 15.0  # of steering; sharper angles pay less


def reward_function(params):
    """Pays up to 1 a step, and next to nothing for a car that leaves the road."""
    if params["is_offtrack"] or params["is_crashed"]:
        return 1e-3
    half_width = params["track_width"] / 2
    near_center = max(0.0, 1 - (params["distance_from_center"] / half_width) ** 2)
    along = max(0.0, math.cos(math.radians(heading_error(params))))
    calm = 1.0 if abs(params["steering_angle"]) <= CALM_DEG else 0.8
    return float(1e-3 + near_center * along * calm)


def heading_error(params):
    """Degrees between the car's heading and the direction to a waypoint ahead, from -180 to 180."""
    waypoints = params["waypoints"]
    target_x, target_y = waypoints[(params["closest_waypoints"][1] + LOOK_AHEAD) % len(waypoints)]
    toward = math.degrees(math.atan2(target_y - params["y"], target_x - params["x"]))
    return (toward - params["heading"] + 180) % 360 - 180

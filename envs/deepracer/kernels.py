"""Compiled control step of all cars: position on the track, the rule that ends the episode, and the next pose.

A car is a row of float64; the names below are its columns. Source of every rule and constant: DeepRacer's simulation
application 6.0.5 (`track_data.py`, `agent_ctrl`, `reset`, `urdf/deepracer`), and its physics of version 5 and later.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.compiled import exact

# State.
X, Y, YAW, SPEED, STEERING = range(5)  # of the car's origin: meters, radians, m/s at the rear wheels, radians
COMMAND_SPEED = 5  # as the policy chose it: m/s, not clipped
COMMAND_STEERING = 6  # as the policy chose it: degrees, not clipped
EARLIER = 7  # six columns: the three commands before that, newest first
PHASE = 13
STEPS = 14
TIME = 15  # of the simulation, in seconds
START_SHARE, PREVIOUS_PROGRESS, LAST_X, LAST_Y, STILL_STEPS, BACKWARD_STEPS = range(16, 22)
# Measured where the step found the car, before it drives on.
FRONT_X, FRONT_Y, DISTANCE, CENTER_DISTANCE, IS_LEFT, WIDTH = range(22, 28)
WHEELS_ON_TRACK, WAYPOINT_BEHIND, WAYPOINT_AHEAD, PROGRESS, HIT, STATUS = range(28, 34)  # HIT: object's number, or -1
DIRECTION = 34  # state too: 1 where the car drives the track in reverse, else 0
# State too: whether the nearest point of the center line is of a part of the track where the car is not, and progress
# and front of the car before that.
IS_ASTRAY, ROAD_PROGRESS, ROAD_X, ROAD_Y = range(35, 39)
SPEED_NOISE, CURVATURE_NOISE = 39, 40  # state too: factors of this episode, less 1
COLUMNS = 41

PREPARE, RUN, PAUSE, PARK = range(4)
IN_PROGRESS, LAP_COMPLETE, CRASHED, OFF_TRACK, IMMOBILIZED, REVERSED, TIME_UP, PREPARING, PAUSED = range(9)

# Objects are rows of these.
OBJECT_X, OBJECT_Y, OBJECT_YAW, OBJECT_LENGTH, OBJECT_WIDTH, OBJECT_HEIGHT = range(6)
OBJECT_DISTANCE = 6  # meters along the center line
OBJECT_MOVES = 7  # 1 for a bot car
OBJECT_STEERING = 8  # angle of a car's front wheels, radians; only pictures show it
OBJECT_SHAPE = 9  # one of shapes.py
OBJECT_COLUMNS = 10

CONTROL_S = 1 / 15
FRONT_M = 0.14  # from the car's origin to the point that counts as the car's position
WHEELBASE_M = 0.163974
REAR_AXLE_M = -0.081663
FRONT_AXLE_M = 0.082311
_HALF_REAR_TRACK_M = 0.08105
HALF_FRONT_TRACK_M = 0.079601
CAR_LENGTH_M = 0.32352
CAR_WIDTH_M = 0.1961
CAR_HEIGHT_M = 0.1944
MAX_STEERING_DEG = 30.0
MIN_SPEED = 0.1
MAX_SPEED = 4.0
MAX_STEPS = 100_000
_STILL_M = 0.0003
_STILL_STEPS = 15
_BACKWARD_STEPS = 15
# A car drives 0.28 m in a step; two roads of a hairpin are about 1 m apart along the track at least.
_SAME_ROAD_M = 0.6
GRAVITY = 9.81
SUBSTEPS = 8
_BLOCK = 8

# Columns of the dynamics' settings: wheel speed per commanded one, seconds, seconds, seconds, friction (0: no limit),
# and the path's curvature as a share of that of a car without slip.
SPEED_FACTOR, LATENCY, SPEED_LAG, STEERING_LAG, FRICTION, STEERING_GAIN = range(6)


def make_blocks(parts: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Segments of polylines by eights with the box around each, so that a search looks into the near ones alone.

    Args:
        parts: (N, 2) polylines, whose points stand one after the other in the array that is searched.

    Returns:
        (B, 6): first segment, the one after the last, least and largest x, least and largest y.
    """
    rows = []
    begin = 0
    for part in parts:
        for first in range(0, len(part) - 1, _BLOCK):
            last = min(first + _BLOCK, len(part) - 1)
            points = part[first : last + 1]
            low, high = points.min(axis=0), points.max(axis=0)
            rows.append([begin + first, begin + last, low[0], high[0], low[1], high[1]])
        begin += len(part)
    return np.array(rows, np.float64)


@exact
def _nearest(line: Any, blocks: Any, x: float, y: float) -> tuple[float, int, float]:
    """Returns the squared distance to a polyline, the nearest segment, and the nearest point's share of it."""
    best = np.inf
    where = 0
    share = 0.0
    start = 0
    least = np.inf
    for b in range(len(blocks)):
        dx = max(blocks[b, 2] - x, 0.0, x - blocks[b, 3])
        dy = max(blocks[b, 4] - y, 0.0, y - blocks[b, 5])
        if dx * dx + dy * dy < least:
            start = b
            least = dx * dx + dy * dy
    for turn in range(-1, len(blocks)):
        b = start if turn < 0 else turn
        if turn == start:
            continue
        dx = max(blocks[b, 2] - x, 0.0, x - blocks[b, 3])
        dy = max(blocks[b, 4] - y, 0.0, y - blocks[b, 5])
        if dx * dx + dy * dy > best:
            continue
        for i in range(int(blocks[b, 0]), int(blocks[b, 1])):
            ax, ay = line[i, 0], line[i, 1]
            dx, dy = line[i + 1, 0] - ax, line[i + 1, 1] - ay
            along = ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-18)
            along = min(max(along, 0.0), 1.0)
            ex, ey = ax + along * dx - x, ay + along * dy - y
            distance = ex * ex + ey * ey
            # Of equals the first, as a search from the start finds.
            if distance < best or (distance == best and i < where):
                best, where, share = distance, i, along
    return best, where, share


@exact
def is_on_road(rings: Any, blocks: Any, x: float, y: float) -> bool:
    """Whether a point is inside an odd number of closed rings: a ray in the direction of +x crosses as many sides."""
    count = 0
    for b in range(len(blocks)):
        if blocks[b, 4] > y or blocks[b, 5] <= y or blocks[b, 3] < x:
            continue
        for i in range(int(blocks[b, 0]), int(blocks[b, 1])):
            ay, by = rings[i, 1], rings[i + 1, 1]
            if (ay > y) != (by > y):
                ax, bx = rings[i, 0], rings[i + 1, 0]
                if x < ax + (y - ay) / (by - ay) * (bx - ax):
                    count += 1
    return count % 2 == 1


@exact
def project(center: Any, blocks: Any, distances: Any, x: float, y: float) -> float:
    """Meters along the center line of the point nearest to x, y."""
    _, where, share = _nearest(center, blocks, x, y)
    along: float = distances[where] + share * (distances[where + 1] - distances[where])
    return along


@exact
def _progress(car: Any, length: float) -> float:
    """Returns the progress since the episode's start, in per cent of the lap."""
    share = car[DISTANCE] / length - car[START_SHARE]
    progress = 100 * share
    previous = car[PREVIOUS_PROGRESS]
    if progress <= 0:
        progress += 100
    if previous > progress + 50:
        progress += 100
    if progress > previous + 50:
        progress -= 100
    return float(min(progress, 100.0))


@exact
def _locate(car: Any, lines: Any, blocks: Any, all_distances: Any, rings: Any, ring_blocks: Any, turn: int) -> None:
    """Fills the columns of where a car is on the track."""
    direction = int(car[DIRECTION])
    center = lines[direction, 0]
    inner = lines[direction, 1]
    outer = lines[direction, 2]
    distances = all_distances[direction]
    by_center, by_inner, by_outer = blocks[direction, 0], blocks[direction, 1], blocks[direction, 2]
    cosine, sine = math.cos(car[YAW]), math.sin(car[YAW])
    x, y = car[X] + FRONT_M * cosine, car[Y] + FRONT_M * sine
    car[FRONT_X], car[FRONT_Y] = x, y
    squared, where, share = _nearest(center, by_center, x, y)
    length = distances[-1]
    distance = distances[where] + share * (distances[where + 1] - distances[where])
    car[DISTANCE] = distance
    car[CENTER_DISTANCE] = math.sqrt(squared)
    # Waypoints: the last one that is not ahead of the projection, and the next.
    ahead = where + 1
    while ahead < len(center) - 1 and distances[ahead] <= distance:
        ahead += 1
    if distance >= length:
        ahead = 0
        car[WAYPOINT_BEHIND] = len(center) - 1
    else:
        car[WAYPOINT_BEHIND] = ahead - 1
    car[WAYPOINT_AHEAD] = ahead
    to_inner, _, _ = _nearest(inner, by_inner, x, y)
    to_outer, _, _ = _nearest(outer, by_outer, x, y)
    car[IS_LEFT] = 1.0 if (to_inner < to_outer) != (turn == direction) else 0.0
    cx = center[where, 0] + share * (center[where + 1, 0] - center[where, 0])
    cy = center[where, 1] + share * (center[where + 1, 1] - center[where, 1])
    _, i, s = _nearest(inner, by_inner, cx, cy)
    ix = inner[i, 0] + s * (inner[i + 1, 0] - inner[i, 0])
    iy = inner[i, 1] + s * (inner[i + 1, 1] - inner[i, 1])
    _, i, s = _nearest(outer, by_outer, cx, cy)
    ox = outer[i, 0] + s * (outer[i + 1, 0] - outer[i, 0])
    oy = outer[i, 1] + s * (outer[i + 1, 1] - outer[i, 1])
    car[WIDTH] = math.hypot(ix - ox, iy - oy)
    on = 0
    for wheel in range(4):
        along = REAR_AXLE_M if wheel < 2 else FRONT_AXLE_M
        across = _HALF_REAR_TRACK_M if wheel < 2 else HALF_FRONT_TRACK_M
        if wheel % 2:
            across = -across
        wx, wy = car[X] + along * cosine - across * sine, car[Y] + along * sine + across * cosine
        if is_on_road(rings, ring_blocks, wx, wy):
            on += 1
    car[WHEELS_ON_TRACK] = on
    car[PROGRESS] = _progress(car, length)


@exact
def _overlaps(car: Any, other: Any) -> bool:
    """Whether a corner of a car is inside an object's rectangle."""
    cosine, sine = math.cos(car[YAW]), math.sin(car[YAW])
    turn_c, turn_s = math.cos(other[OBJECT_YAW]), math.sin(other[OBJECT_YAW])
    for corner in range(4):
        along = CAR_LENGTH_M / 2 if corner < 2 else -CAR_LENGTH_M / 2
        across = CAR_WIDTH_M / 2 if corner % 2 else -CAR_WIDTH_M / 2
        dx = car[X] + along * cosine - across * sine - other[OBJECT_X]
        dy = car[Y] + along * sine + across * cosine - other[OBJECT_Y]
        if (
            abs(dx * turn_c + dy * turn_s) < other[OBJECT_LENGTH] / 2
            and abs(dy * turn_c - dx * turn_s) < other[OBJECT_WIDTH] / 2
        ):
            return True
    return False


@exact
def _find_hit(car: Any, objects: Any, cars: Any, first: int, row: int, agents: int, length: float) -> int:
    """Returns the object that a car touches, or -1; other agents' cars are numbered after the objects."""
    for i in range(len(objects)):
        # Of two that drive, it is the one behind that has crashed.
        is_behind_us = (
            objects[i, OBJECT_MOVES] > 0 and (objects[i, OBJECT_DISTANCE] - car[DISTANCE]) % length > length / 2
        )
        if not is_behind_us and _overlaps(car, objects[i]):
            return i
    number = len(objects)
    for other in range(first, first + agents):
        if other == row:
            continue
        rectangle = np.empty(OBJECT_COLUMNS)
        rectangle[OBJECT_X], rectangle[OBJECT_Y], rectangle[OBJECT_YAW] = (
            cars[other, X],
            cars[other, Y],
            cars[other, YAW],
        )
        rectangle[OBJECT_LENGTH], rectangle[OBJECT_WIDTH] = CAR_LENGTH_M, CAR_WIDTH_M
        if cars[other, PHASE] != PARK and car[PROGRESS] < cars[other, PROGRESS] and _overlaps(car, rectangle):
            return number
        number += 1
    return -1


@exact
def _find_status(car: Any) -> int:
    """Returns the status of a running car: the first rule that ends its episode, in the simulator's order."""
    moved = math.hypot(car[FRONT_X] - car[LAST_X], car[FRONT_Y] - car[LAST_Y])
    car[STILL_STEPS] = car[STILL_STEPS] + 1 if moved <= _STILL_M else 0
    car[BACKWARD_STEPS] = car[BACKWARD_STEPS] + 1 if car[PROGRESS] < car[PREVIOUS_PROGRESS] else 0
    if car[PROGRESS] >= 100:
        return LAP_COMPLETE
    if car[HIT] >= 0:
        return CRASHED
    if car[WHEELS_ON_TRACK] == 0:
        return OFF_TRACK
    if car[STILL_STEPS] >= _STILL_STEPS:
        return IMMOBILIZED
    if car[BACKWARD_STEPS] >= _BACKWARD_STEPS:
        return REVERSED
    if car[STEPS] >= MAX_STEPS:
        return TIME_UP
    return IN_PROGRESS


@exact
def _remember(car: Any, rings: Any, ring_blocks: Any, length: float) -> None:
    """Keeps progress and place for the next step, and for a reset; a failure keeps those of the step before it."""
    if LAP_COMPLETE < car[STATUS] <= TIME_UP:
        return
    progress = 0.0 if car[PROGRESS] == 100 else car[PROGRESS]
    before = car[ROAD_PROGRESS] if car[IS_ASTRAY] > 0 else car[PREVIOUS_PROGRESS]
    is_far = car[STATUS] != LAP_COMPLETE and abs(progress - before) / 100 * length > _SAME_ROAD_M
    if not is_far or is_on_road(rings, ring_blocks, car[FRONT_X], car[FRONT_Y]):
        car[IS_ASTRAY] = 0.0
    elif car[IS_ASTRAY] == 0:
        car[IS_ASTRAY] = 1.0
        car[ROAD_PROGRESS], car[ROAD_X], car[ROAD_Y] = car[PREVIOUS_PROGRESS], car[LAST_X], car[LAST_Y]
    car[PREVIOUS_PROGRESS] = progress
    car[LAST_X], car[LAST_Y] = car[FRONT_X], car[FRONT_Y]


@exact
def _roll(car: Any, speed: float, curvature: float, duration: float) -> None:
    """Moves a car along an arc, with its rear axle across it; curvature in 1/m."""
    x, y = car[X] + REAR_AXLE_M * math.cos(car[YAW]), car[Y] + REAR_AXLE_M * math.sin(car[YAW])
    turn = speed * duration * curvature
    yaw = car[YAW] + turn
    if abs(turn) > 1e-9:
        x += (math.sin(yaw) - math.sin(car[YAW])) / curvature
        y -= (math.cos(yaw) - math.cos(car[YAW])) / curvature
    else:
        x += speed * duration * math.cos(yaw)
        y += speed * duration * math.sin(yaw)
    yaw = (yaw + math.pi) % (2 * math.pi) - math.pi
    car[X] = x - REAR_AXLE_M * math.cos(yaw)
    car[Y] = y - REAR_AXLE_M * math.sin(yaw)
    car[YAW] = yaw


@exact
def _drive(car: Any, dynamics: Any) -> None:
    """Moves a car for one control step under its commands."""
    lagged = dynamics[LATENCY] > 0 or dynamics[SPEED_LAG] > 0 or dynamics[STEERING_LAG] > 0 or dynamics[FRICTION] > 0
    substeps = SUBSTEPS if lagged else 1
    step = CONTROL_S / substeps
    for number in range(substeps):
        age = max(0, math.ceil((dynamics[LATENCY] - (number + 0.5) * step) / CONTROL_S))
        column = COMMAND_SPEED if age == 0 else EARLIER + 2 * (min(age, 3) - 1)
        speed = min(max(car[column], MIN_SPEED), MAX_SPEED) * dynamics[SPEED_FACTOR] * (1 + car[SPEED_NOISE])
        if age > 0 and car[column] == 0:
            speed = 0.0  # no command had been given then
        angle = math.radians(min(max(car[column + 1], -MAX_STEERING_DEG), MAX_STEERING_DEG))
        keep = math.exp(-step / dynamics[SPEED_LAG]) if dynamics[SPEED_LAG] > 0 else 0.0
        car[SPEED] = keep * car[SPEED] + (1 - keep) * speed
        keep = math.exp(-step / dynamics[STEERING_LAG]) if dynamics[STEERING_LAG] > 0 else 0.0
        car[STEERING] = keep * car[STEERING] + (1 - keep) * angle
        curvature = math.tan(car[STEERING]) / WHEELBASE_M * dynamics[STEERING_GAIN] * (1 + car[CURVATURE_NOISE])
        if dynamics[FRICTION] > 0 and car[SPEED] > 0:
            sharpest = dynamics[FRICTION] * GRAVITY / (car[SPEED] * car[SPEED])
            curvature = min(max(curvature, -sharpest), sharpest)
        _roll(car, car[SPEED], curvature, step)
    car[EARLIER + 2 : EARLIER + 6] = car[EARLIER : EARLIER + 4].copy()
    car[EARLIER], car[EARLIER + 1] = car[COMMAND_SPEED], car[COMMAND_STEERING]


@exact
def measure(
    cars: Any,
    agents: int,
    objects: Any,
    lines: Any,
    blocks: Any,
    distances: Any,
    rings: Any,
    ring_blocks: Any,
    turn: int,
) -> None:
    """Finds where each car is and which rule it met; counts the step.

    Args:
        cars: (C, COLUMNS); `agents` rows in a row share a world.
        agents: Number of cars in each world.
        objects: (C / agents, K, OBJECT_COLUMNS) of each world.
        lines: (2, 3, N, 2): in file order and in reverse, the center, the inner and the outer line.
        blocks: (2, 3, B, 6) of those lines, as `make_blocks` makes them.
        distances: (2, N) meters along those center lines.
        rings: (R, 2) points of the road's outline.
        ring_blocks: Blocks of the rings.
        turn: 1 where the road's file goes counter-clockwise, else 0.
    """
    for row in range(len(cars)):
        car = cars[row]
        if car[PHASE] != PARK:
            car[STEPS] += 1
            _locate(car, lines, blocks, distances, rings, ring_blocks, turn)
    for row in range(len(cars)):
        car = cars[row]
        if car[PHASE] == PARK:
            continue
        world = row // agents
        car[HIT] = _find_hit(car, objects[world], cars, world * agents, row, agents, distances[0, -1])
        if car[PHASE] == PREPARE:
            car[STATUS] = PREPARING
        elif car[PHASE] == PAUSE:
            car[STATUS] = PAUSED
        else:
            car[STATUS] = _find_status(car)
        _remember(car, rings, ring_blocks, distances[0, -1])


@exact
def drive(cars: Any, dynamics: Any) -> None:
    """Moves every running car by one control step; (C, COLUMNS) cars, (A, 6) dynamics of a world's cars."""
    for row in range(len(cars)):
        car = cars[row]
        if car[PHASE] == PARK:
            continue
        if car[PHASE] == PREPARE:
            car[PHASE] = RUN
        elif car[PHASE] == RUN:
            _drive(car, dynamics[row % len(dynamics)])
        car[TIME] += CONTROL_S

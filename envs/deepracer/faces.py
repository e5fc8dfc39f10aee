"""Compiled drawing of objects: their shadows, then their faces, the nearest at each pixel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from envs.compiled import fast
from envs.deepracer.kernels import (
    OBJECT_HEIGHT,
    OBJECT_LENGTH,
    OBJECT_SHAPE,
    OBJECT_STEERING,
    OBJECT_WIDTH,
    OBJECT_X,
    OBJECT_Y,
    OBJECT_YAW,
)

# Toward the sun, in the track's frame; and how bright a face is that is turned away from it, and how much brighter one
# is that is turned toward it.
_SUN = (0.46, -0.36, 0.81)
_AMBIENT = 0.72
_DIFFUSE = 0.36
_SHADOW = 0.62
_NEAREST_M = 0.02
_MOST_CORNERS = 24

# Camera: position in the frame of its mount, cosine and sine of its pitch, focal length in pixels.
_X, _Y, _Z, _COSINE, _SINE, _FOCAL = range(6)


@fast
def draw_objects(
    out: Any,
    poses: Any,
    objects: Any,
    colors: Any,
    tints: Any,
    shapes: Any,
    view: Any,
    depths: Any,
    rounding: float,
) -> None:
    """Draws objects into pictures of the ground.

    Args:
        out: (B, height, width, C) pictures.
        poses: (B, 3) x, y, yaw of what the camera is mounted to.
        objects: (B, K, OBJECT_COLUMNS) on the ground; those of no height are left out.
        colors: (B, K, C) of their paint.
        tints: (T, C) of their other parts.
        shapes: The Shapes.
        view: (6,) the camera's position in the frame of its mount, cosine and sine of its pitch, focal length.
        depths: (height, width) scratch: one over the distance ahead; 0 is the ground, -1 ground in a shadow.
        rounding: 0 cuts a value off, 0.5 rounds it.
    """
    count = objects.shape[1]
    seen = np.empty(count, np.int64)
    # Cosine and sine of each object's yaw, and its place, in a frame at the camera that is turned as its mount.
    frames = np.empty((count, 4))
    points = np.empty((len(shapes.vertices), 3))
    polygon = np.empty((2, _MOST_CORNERS, 3))
    screen = np.empty((_MOST_CORNERS, 2))
    color = np.empty(out.shape[3])
    for i in range(len(out)):
        found = _find_in_sight(seen, frames, objects[i], poses[i], view, out.shape[2], out.shape[1])
        if not found:
            continue
        depths[:] = np.float32(0.0)
        cosine, sine = math.cos(poses[i, 2]), math.sin(poses[i, 2])
        sun_x, sun_y = cosine * _SUN[0] + sine * _SUN[1], cosine * _SUN[1] - sine * _SUN[0]
        sun = (
            sun_x * view[_COSINE] - _SUN[2] * view[_SINE],
            sun_y,
            sun_x * view[_SINE] + _SUN[2] * view[_COSINE],
        )
        for k in seen[:found]:
            _draw_shadow(out[i], depths, objects[i, k], frames[k], (sun_x, sun_y), view, polygon, screen)
        for k in seen[:found]:
            shape = int(objects[i, k, OBJECT_SHAPE])
            begin, end = shapes.first_vertex[shape], shapes.first_vertex[shape + 1]
            _place_vertices(points, shapes.vertices, shapes.hubs, begin, end, objects[i, k], frames[k], view)
            for face in range(shapes.first_face[shape], shapes.first_face[shape + 1]):
                tint = shapes.tints[face]
                color[:] = colors[i, k] if tint < 0 else tints[tint]
                corners = shapes.corners[shapes.first_corner[face] : shapes.first_corner[face + 1]]
                _draw_face(out[i], depths, points, corners, color, sun, view[_FOCAL], polygon, screen, rounding)


@fast
def _find_in_sight(seen: Any, frames: Any, objects: Any, pose: Any, view: Any, width: int, height: int) -> int:
    """Finds the objects that may be in the picture, and fills their frames; returns how many there are."""
    cosine, sine = math.cos(pose[2]), math.sin(pose[2])
    found = 0
    for k in range(len(objects)):
        if objects[k, OBJECT_HEIGHT] <= 0:
            continue
        dx, dy = objects[k, OBJECT_X] - pose[0], objects[k, OBJECT_Y] - pose[1]
        turn = objects[k, OBJECT_YAW] - pose[2]
        frames[k, 0], frames[k, 1] = math.cos(turn), math.sin(turn)
        frames[k, 2] = cosine * dx + sine * dy - view[_X]
        frames[k, 3] = cosine * dy - sine * dx - view[_Y]
        if _is_in_sight(frames[k], objects[k], view, width, height):
            seen[found] = k
            found += 1
    return found


@fast
def _is_in_sight(frame: Any, row: Any, view: Any, width: int, height: int) -> bool:
    """Whether the sphere around an object and its shadow reaches into the picture."""
    size = math.sqrt(row[OBJECT_LENGTH] ** 2 + row[OBJECT_WIDTH] ** 2 + row[OBJECT_HEIGHT] ** 2)
    radius = size / 2 + row[OBJECT_HEIGHT] * 0.75
    rise = row[OBJECT_HEIGHT] / 2 - view[_Z]
    ahead = frame[2] * view[_COSINE] - rise * view[_SINE]
    up = frame[2] * view[_SINE] + rise * view[_COSINE]
    if ahead + radius < _NEAREST_M:
        return False
    across, along = width / 2 / view[_FOCAL], height / 2 / view[_FOCAL]
    if abs(frame[3]) - ahead * across > radius * math.sqrt(1 + across * across):
        return False
    return bool(abs(up) - ahead * along <= radius * math.sqrt(1 + along * along))


@fast
def _place_vertices(
    points: Any, vertices: Any, hubs: Any, begin: int, end: int, row: Any, frame: Any, view: Any
) -> None:
    """Computes where vertices are in the camera's frame: ahead, left, up."""
    length, width, height = row[OBJECT_LENGTH], row[OBJECT_WIDTH], row[OBJECT_HEIGHT]
    c, s = math.cos(row[OBJECT_STEERING]), math.sin(row[OBJECT_STEERING])
    for v in range(begin, end):
        x, y, z = vertices[v, 0] * length, vertices[v, 1] * width, vertices[v, 2] * height
        if hubs[v, 0] > 0:
            hub_x, hub_y = hubs[v, 1] * length, hubs[v, 2] * width
            dx, dy = x - hub_x, y - hub_y
            x, y = hub_x + c * dx - s * dy, hub_y + s * dx + c * dy
        ahead = frame[0] * x - frame[1] * y + frame[2]
        z -= view[_Z]
        points[v - begin, 0] = ahead * view[_COSINE] - z * view[_SINE]
        points[v - begin, 1] = frame[1] * x + frame[0] * y + frame[3]
        points[v - begin, 2] = ahead * view[_SINE] + z * view[_COSINE]


@fast
def _draw_face(
    out: Any,
    depths: Any,
    points: Any,
    corners: Any,
    color: Any,
    sun: Any,
    focal: float,
    polygon: Any,
    screen: Any,
    rounding: float,
) -> None:
    """Draws a flat face, in the pixels where it is the nearest so far; not one that is seen from behind."""
    a, b, c = points[corners[0]], points[corners[1]], points[corners[2]]
    ux, uy, uz = b[0] - a[0], b[1] - a[1], b[2] - a[2]
    vx, vy, vz = c[0] - a[0], c[1] - a[1], c[2] - a[2]
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    away = nx * a[0] + ny * a[1] + nz * a[2]
    if away >= 0:
        return
    count = len(corners)
    for n in range(count):
        polygon[0, n] = points[corners[n]]
    count = _project(polygon, count, screen, out.shape[1], out.shape[0], focal)
    if not count:
        return
    facing = (nx * sun[0] + ny * sun[1] + nz * sun[2]) / math.sqrt(nx * nx + ny * ny + nz * nz)
    shade = _AMBIENT + _DIFFUSE * max(facing, 0.0)
    for channel in range(len(color)):
        color[channel] = min(color[channel] * shade + rounding, 255.0)
    # One over the distance ahead is linear in column and row.
    by_column, by_row = -ny / away / focal, -nz / away / focal
    at_corner = nx / away - by_column * (out.shape[1] / 2 - 0.5) - by_row * (out.shape[0] / 2 - 0.5)
    top, bottom = _rows(screen, count, out.shape[0])
    for row in range(top, bottom):
        first, last = _columns(screen, count, row + 0.5, out.shape[1])
        depth = np.float32(at_corner + by_row * row)
        slope = np.float32(by_column)
        for column in range(first, last):
            near = depth + slope * np.float32(column)
            if near > depths[row, column]:
                depths[row, column] = near
                for channel in range(out.shape[2]):
                    out[row, column, channel] = np.uint8(color[channel])


@fast
def _draw_shadow(out: Any, depths: Any, row: Any, frame: Any, sun: Any, view: Any, polygon: Any, screen: Any) -> None:
    """Darkens the ground under an object and where its upper half, moved away from the sun, covers it."""
    height = row[OBJECT_HEIGHT]
    move_x, move_y = -sun[0] / _SUN[2] * height / 2, -sun[1] / _SUN[2] * height / 2
    count = 0
    for side in range(4):
        # The hull of a rectangle and its moved copy: sides that face the way of the move are moved, the others not.
        turn = side & 1
        sign = 1.0 if side < 2 else -1.0
        out_x = sign * (frame[1] * -1.0 if turn else frame[0])
        out_y = sign * (frame[0] if turn else frame[1])
        moves = 1.0 if out_x * move_x + out_y * move_y > 0 else 0.0
        half, half_side = row[OBJECT_LENGTH] / 2, row[OBJECT_WIDTH] / 2
        if turn:
            half, half_side = half_side, half
        for end in (-1.0, 1.0):
            x = frame[2] + out_x * half - out_y * half_side * end + moves * move_x
            y = frame[3] + out_y * half + out_x * half_side * end + moves * move_y
            polygon[0, count, 0] = x * view[_COSINE] + view[_Z] * view[_SINE]
            polygon[0, count, 1] = y
            polygon[0, count, 2] = x * view[_SINE] - view[_Z] * view[_COSINE]
            count += 1
    count = _project(polygon, count, screen, out.shape[1], out.shape[0], view[_FOCAL])
    if not count:
        return
    top, bottom = _rows(screen, count, out.shape[0])
    for line in range(top, bottom):
        first, last = _columns(screen, count, line + 0.5, out.shape[1])
        for column in range(first, last):
            if depths[line, column] < 0:  # in another shadow already
                continue
            depths[line, column] = -1.0
            for channel in range(out.shape[2]):
                out[line, column, channel] = np.uint8(np.float32(out[line, column, channel]) * np.float32(_SHADOW))


@fast
def _project(polygon: Any, count: int, screen: Any, width: int, height: int, focal: float) -> int:
    """Projects a polygon's part that is in front of the camera; returns its number of corners."""
    kept = 0
    for n in range(count):
        a, b = polygon[0, n], polygon[0, n + 1 if n + 1 < count else 0]
        if a[0] >= _NEAREST_M:
            polygon[1, kept] = a
            kept += 1
        if (a[0] >= _NEAREST_M) != (b[0] >= _NEAREST_M):
            share = (_NEAREST_M - a[0]) / (b[0] - a[0])
            polygon[1, kept, 0] = _NEAREST_M
            polygon[1, kept, 1] = a[1] + share * (b[1] - a[1])
            polygon[1, kept, 2] = a[2] + share * (b[2] - a[2])
            kept += 1
    for n in range(kept):
        scale = focal / polygon[1, n, 0]
        screen[n, 0] = width / 2 - polygon[1, n, 1] * scale
        screen[n, 1] = height / 2 - polygon[1, n, 2] * scale
    return kept


@fast
def _rows(screen: Any, count: int, height: int) -> tuple[int, int]:
    """Finds the rows whose middle a polygon may cover."""
    low, high = screen[0, 1], screen[0, 1]
    for n in range(1, count):
        low, high = min(low, screen[n, 1]), max(high, screen[n, 1])
    return math.ceil(max(low - 0.5, 0.0)), math.ceil(min(high - 0.5, float(height)))


@fast
def _columns(screen: Any, count: int, y: float, width: int) -> tuple[int, int]:
    """Finds the columns whose middle a convex polygon covers at a height of the picture."""
    low, high = np.inf, -np.inf
    for n in range(count):
        m = n + 1 if n + 1 < count else 0
        ay, by = screen[n, 1], screen[m, 1]
        if (ay > y) != (by > y):
            x = screen[n, 0] + (y - ay) / (by - ay) * (screen[m, 0] - screen[n, 0])
            low, high = min(low, x), max(high, x)
    if high < low:
        return 0, 0
    return math.ceil(max(low - 0.5, 0.0)), math.ceil(min(high - 0.5, float(width)))

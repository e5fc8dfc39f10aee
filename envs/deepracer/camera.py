"""Renders pictures for any camera: the ground by inverse perspective mapping, the objects on it as flat faces.

A camera that is fixed to a car sees each point of the flat ground at the same pixel for ever, and all pixels of a row
see equally far ahead: a row of a picture is one or more straight lines over a picture of the ground. Far rows cover
long strips of ground: they are averages of several lines, in a smaller picture of the ground.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.compiled import exact, fast
from envs.deepracer.faces import draw_objects
from envs.deepracer.kernels import (
    OBJECT_HEIGHT,
    OBJECT_LENGTH,
    OBJECT_WIDTH,
    OBJECT_X,
    OBJECT_Y,
    OBJECT_YAW,
)
from envs.deepracer.scenery import Ground
from envs.deepracer.shapes import SHAPES

_MOST_LINES = 8
_FARTHEST_M = 120.0


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera, and the part of the flat ground that each row of its pixels sees.

    Attributes:
        width: Pixels.
        height: Pixels.
        focal: Distance of the picture plane, in pixels.
        position: (3,) in the frame that it is mounted to, meters.
        pitch: Angle below the horizon, in radians.
        left: (width,) tangent of each column's angle to the left.
        first: (height + 1,) where each row's ground lines begin.
        ahead: (M,) meters ahead of the mount at which a line crosses the ground.
        reach: (M,) meters that it moves to the left for a tangent of 1.
        footprints: (M,) meters of ground that a sample of a line stands for.
        coverage: (height,) share of each row that is ground.
    """

    width: int
    height: int
    focal: float
    position: NDArray[np.float64]
    pitch: float
    left: NDArray[np.float32]
    first: NDArray[np.int64]
    ahead: NDArray[np.float64]
    reach: NDArray[np.float64]
    footprints: NDArray[np.float64]
    coverage: NDArray[np.float64]

    def elevations(self) -> NDArray[np.float64]:
        """Computes (height, width) angles of the pixels above the horizon, in radians."""
        up = -(np.arange(self.height) + 0.5 - self.height / 2)[:, None] / self.focal
        rise = up * math.cos(self.pitch) - math.sin(self.pitch)
        return np.asarray(np.arcsin(rise / np.sqrt(1 + up**2 + self.left.astype(np.float64) ** 2)))


def make_camera(
    width: int, height: int, *, field_of_view: float, position: tuple[float, float, float], pitch: float
) -> Camera:
    """Makes a camera that looks along +x, pitched down.

    Args:
        width: Width in pixels.
        height: Height in pixels.
        field_of_view: Horizontal, in radians.
        position: Position in the frame of its mount, in meters; z is above the ground.
        pitch: Angle below the horizon, in radians.
    """
    focal = width / 2 / math.tan(field_of_view / 2)
    left = -(np.arange(width) + 0.5 - width / 2) / focal
    rows = [_find_lines(row + 0.5 - height / 2, focal, position, pitch) for row in range(height)]
    counts = [len(ahead) for ahead, _, _, _ in rows]
    ahead, reach, footprints = (np.concatenate([found[part] for found in rows]) for part in range(3))
    return Camera(
        width,
        height,
        focal,
        np.array(position),
        pitch,
        left.astype(np.float32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        ahead,
        reach,
        footprints,
        np.array([coverage for _, _, _, coverage in rows]),
    )


def _find_lines(
    down: float, focal: float, position: tuple[float, float, float], pitch: float
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Finds the lines on the ground that a row sees: ahead, reach, footprint of each, and the share that is ground.

    A row stands for one and a half of it, as a filter that reduces a larger picture does.
    """
    cosine, sine = math.cos(pitch), math.sin(pitch)
    up = -down / focal
    nearest = position[2] / _FARTHEST_M  # how far rays fall per meter, at least, to meet the ground in sight
    falls = np.maximum(sine - (up + np.array([-0.75, 0.75]) / focal) * cosine, nearest)
    near, far = position[2] / falls
    across = (near + far) / 2 / focal
    count = int(np.clip(round((far - near) / (4 * across)), 1, _MOST_LINES))
    levels = up + np.linspace(-0.75, 0.75, 2 * count + 1)[1::2] / focal
    seen = levels[levels * cosine < sine]
    reach = position[2] / np.maximum(sine - seen * cosine, nearest)
    ahead = position[0] + reach * (cosine + seen * sine)
    footprint = max(across, (far - near) / count / 2)
    return ahead, reach, np.full(len(reach), footprint), len(seen) / count


class Renderer:
    """Draws pictures of one ground with one camera.

    Args:
        camera: Camera to draw with.
        ground: The ground, in color or gray.
        fineness: Objects are drawn so many times as large and reduced, for smooth edges.
    """

    def __init__(self, camera: Camera, ground: Ground, *, fineness: int = 1) -> None:
        self.camera = camera
        self._fineness = fineness
        self._ground = ground
        levels = np.log2(np.maximum(camera.footprints / ground.pixel_m, 1e-9))
        self._levels = np.clip(np.round(levels), 0, len(ground.sizes) - 1).astype(np.int64)
        self._lines = np.stack([camera.ahead, camera.reach], axis=1)
        sky_rows = int(np.flatnonzero(camera.coverage < 1)[-1]) + 1 if (camera.coverage < 1).any() else 0
        sky = ground.sky_at(camera.elevations()[:sky_rows]) * (1 - camera.coverage[:sky_rows, None, None])
        self._sky = np.ascontiguousarray(np.moveaxis(sky, -1, 0).astype(np.float32))
        self._view = np.array(
            [*camera.position, math.cos(camera.pitch), math.sin(camera.pitch), camera.focal * fineness]
        )
        size = (camera.height * fineness, camera.width * fineness)
        self._depths = np.zeros(size, np.float32)

    def draw(
        self,
        out: NDArray[np.uint8],
        poses: NDArray[np.float64],
        objects: NDArray[np.float64],
        colors: NDArray[np.float64],
        *,
        rounding: float = 0.0,
    ) -> None:
        """Draws a picture for each pose.

        Args:
            out: (B, height, width, C), overwritten.
            poses: (B, 3) x, y, yaw of what the camera is mounted to.
            objects: (B, K, OBJECT_COLUMNS) on the ground; those of no height are left out.
            colors: (B, K, C).
            rounding: 0 cuts a value off, 0.5 rounds it.
        """
        ground, camera = self._ground, self.camera
        _draw_grounds(
            out,
            poses,
            camera.position,
            camera.left,
            camera.first,
            camera.coverage,
            self._lines,
            self._levels,
            ground.quads,
            ground.sizes,
            ground.origins,
            ground.pixel_m,
            self._sky,
            np.float32(rounding),
        )
        if not objects.shape[1]:
            return
        if self._fineness == 1:
            draw_objects(out, poses, objects, colors, ground.tints, SHAPES, self._view, self._depths, rounding)
            return
        large = np.empty((1, *self._depths.shape, out.shape[3]), np.uint8)
        for i in range(len(out)):
            _enlarge(large[0], out[i], self._fineness)
            part = slice(i, i + 1)
            draw_objects(
                large,
                poses[part],
                objects[part],
                colors[part],
                ground.tints,
                SHAPES,
                self._view,
                self._depths,
                rounding,
            )
            _reduce(out[i], large[0], self._fineness)


@fast
def _draw_grounds(
    out: Any,
    poses: Any,
    position: Any,
    left: Any,
    first: Any,
    coverage: Any,
    lines: Any,
    levels: Any,
    quads: Any,
    sizes: Any,
    origins: Any,
    pixel_m: float,
    sky: Any,
    rounding: Any,
) -> None:
    """Draws sky and ground: each row is the mean of its lines, interpolated in the picture of the ground."""
    width = len(left)
    sums = np.empty(width, np.float32)
    values = np.empty(width, np.uint8)
    places = np.empty(width, np.int32)
    found = np.empty(width, np.uint32)
    shares = np.empty((2, width), np.float32)
    for picture in range(len(out)):
        cosine, sine = math.cos(poses[picture, 2]), math.sin(poses[picture, 2])
        for row in range(out.shape[1]):
            begin, end = first[row], first[row + 1]
            for channel in range(len(quads)):
                if row < sky.shape[1]:
                    sums[:] = sky[channel, row]
                else:
                    sums[:] = np.float32(0.0)
                for number in range(begin, end):
                    start, rows, columns = sizes[levels[number]]
                    scale = 1 / (pixel_m * 2.0 ** levels[number])
                    ahead, reach = lines[number]
                    x = poses[picture, 0] + cosine * ahead - sine * position[1] - origins[levels[number], 0]
                    y = poses[picture, 1] + sine * ahead + cosine * position[1] - origins[levels[number], 1]
                    across = np.float32(x * scale - 0.5), np.float32(-sine * reach * scale)
                    along = np.float32(y * scale - 0.5), np.float32(cosine * reach * scale)
                    _find_places(places, shares[0], shares[1], left, across, along, rows, columns)
                    _load(found, quads[channel], places, start)
                    _add(sums, found, shares[0], shares[1], np.float32(coverage[row] / (end - begin)))
                _cut(values, sums, rounding)
                out[picture, row, :, channel] = values


# Three loops: the compiler makes vector instructions of the first and the last one, and of no loop that loads from all
# over a picture.
@fast
def _find_places(places: Any, u: Any, v: Any, left: Any, across: Any, along: Any, rows: int, columns: int) -> None:
    """Finds the pixels under the points of a line, and the points' shares of the way to the next ones."""
    x0, dx = across
    y0, dy = along
    last_column, last_row, stride = np.float32(columns - 2), np.float32(rows - 2), np.int32(columns)
    for i in range(len(left)):
        # Beyond its edge the ground is as at the edge, which is plain field.
        x = min(max(x0 + dx * left[i], np.float32(0.0)), last_column)
        y = min(max(y0 + dy * left[i], np.float32(0.0)), last_row)
        column, row = np.int32(x), np.int32(y)
        u[i], v[i] = x - np.float32(column), y - np.float32(row)
        places[i] = np.int32(np.int32(row * stride) + column)


@fast
def _load(found: Any, quads: Any, places: Any, start: int) -> None:
    for i in range(len(places)):
        found[i] = quads[np.uint64(start + places[i])]


@fast
def _add(sums: Any, quads: Any, u: Any, v: Any, weight: Any) -> None:
    """Adds what is between four pixels, by bilinear interpolation."""
    for i in range(len(sums)):
        quad = np.int32(quads[i])
        a, b = np.float32(quad & np.int32(255)), np.float32(np.int32(quad >> np.int32(8)) & np.int32(255))
        c = np.float32(np.int32(quad >> np.int32(16)) & np.int32(255))
        d = np.float32(np.int32(quad >> np.int32(24)) & np.int32(255))
        low, high = a + (b - a) * u[i], c + (d - c) * u[i]
        sums[i] += weight * (low + (high - low) * v[i])


@fast
def _cut(values: Any, sums: Any, rounding: Any) -> None:
    for i in range(len(sums)):
        values[i] = np.uint8(np.int32(min(sums[i] + rounding, np.float32(255.0))))


@exact
def _enlarge(large: Any, picture: Any, times: int) -> None:
    for row in range(len(large)):
        for column in range(picture.shape[1]):
            for right in range(times):
                large[row, column * times + right] = picture[row // times, column]


@exact
def _reduce(picture: Any, large: Any, times: int) -> None:
    """Reduces a picture to the rounded means of its squares."""
    count = times * times
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            for channel in range(picture.shape[2]):
                total = count // 2
                for down in range(times):
                    for right in range(times):
                        total += large[row * times + down, column * times + right, channel]
                picture[row, column, channel] = np.uint8(total // count)


@exact
def cast_lidar(out: Any, poses: Any, boxes: Any, angles: Any, offset: float, nearest: float, farthest: float) -> None:
    """Distances to boxes around, as a flat scan; the ground and what is behind the range are not seen.

    Args:
        out: (B, R) meters, overwritten; infinite where there is nothing.
        poses: (B, 3) of the cars.
        boxes: (B, K, OBJECT_COLUMNS).
        angles: (R,) of the rays in the car's frame, radians.
        offset: Meters of the scanner ahead of the car's origin.
        nearest: Least range in meters.
        farthest: Greatest range in meters.
    """
    for i in range(len(out)):
        x0 = poses[i, 0] + offset * math.cos(poses[i, 2])
        y0 = poses[i, 1] + offset * math.sin(poses[i, 2])
        for r in range(len(angles)):
            best = np.inf
            for k in range(boxes.shape[1]):
                if boxes[i, k, OBJECT_HEIGHT] <= 0:
                    continue
                turn = boxes[i, k, OBJECT_YAW]
                dx, dy = x0 - boxes[i, k, OBJECT_X], y0 - boxes[i, k, OBJECT_Y]
                c, s = math.cos(turn), math.sin(turn)
                px, py = c * dx + s * dy, c * dy - s * dx
                angle = poses[i, 2] + angles[r] - turn
                vx, vy = math.cos(angle), math.sin(angle)
                entry, exit_ = 0.0, np.inf
                for axis in range(2):
                    o, d = (px, vx) if axis == 0 else (py, vy)
                    h = (boxes[i, k, OBJECT_LENGTH] if axis == 0 else boxes[i, k, OBJECT_WIDTH]) / 2
                    if abs(d) < 1e-12:
                        if abs(o) > h:
                            exit_ = -1.0
                        continue
                    one, two = (-h - o) / d, (h - o) / d
                    entry, exit_ = max(entry, min(one, two)), min(exit_, max(one, two))
                if exit_ >= entry and entry < best:
                    best = entry
            out[i, r] = best if nearest <= best <= farthest else np.inf

"""Renders pictures for any camera: the ground by inverse perspective mapping, boxes on it by ray casting.

A camera that is fixed to a car sees each point of the flat ground at the same pixel for ever, so the ground under every
pixel is worked out once, in the car's frame; a picture is a rotation and a look-up. Far pixels cover long strips of
ground: they are averages of several points, looked up in a smaller picture of the ground.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.compiled import exact, fast
from envs.deepracer.kernels import (
    OBJECT_HEIGHT,
    OBJECT_LENGTH,
    OBJECT_WIDTH,
    OBJECT_X,
    OBJECT_Y,
    OBJECT_YAW,
)
from envs.deepracer.scenery import Ground

_MOST_SAMPLES = 8
_FARTHEST_M = 60.0
_TOP_SHADE = 1.0
_END_SHADE = 0.82
_SIDE_SHADE = 0.66


@dataclasses.dataclass(frozen=True)
class Camera:
    """A pinhole camera, and the part of the flat ground that each of its pixels sees.

    Attributes:
        width: Pixels.
        height: Pixels.
        position: (3,) in the frame that it is mounted to, meters.
        rays: (P, 3) direction of each pixel in that frame, row by row from the upper left.
        first: (P + 1,) where each pixel's ground samples begin.
        samples: (M, 2) ground points in that frame, meters.
        footprints: (M,) meters of ground that a sample stands for.
    """

    width: int
    height: int
    position: NDArray[np.float64]
    rays: NDArray[np.float32]
    first: NDArray[np.int64]
    samples: NDArray[np.float32]
    footprints: NDArray[np.float32]


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
    columns, rows = np.meshgrid(np.arange(width) + 0.5 - width / 2, np.arange(height) + 0.5 - height / 2)
    ahead, left, up = np.ones(width * height), -columns.ravel() / focal, -rows.ravel() / focal
    cosine, sine = math.cos(pitch), math.sin(pitch)
    rays = np.stack([ahead * cosine + up * sine, left, up * cosine - ahead * sine], axis=1)
    counts, samples, footprints = _sample_ground((height, width), focal, np.array(position), (cosine, sine))
    return Camera(
        width,
        height,
        np.array(position),
        rays.astype(np.float32),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        samples.astype(np.float32),
        footprints.astype(np.float32),
    )


def _sample_ground(
    shape: tuple[int, int], focal: float, position: NDArray[np.float64], turn: tuple[float, float]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Samples the ground behind each pixel; returns the count per pixel, the points, and their footprints.

    A filter is two pixels of the large picture's reduction high; all pixels of a row see equally far ahead.
    """
    height, width = shape
    cosine, sine = turn
    left = -(np.arange(width) + 0.5 - width / 2) / focal
    counts = np.zeros(height, np.int64)
    points = []
    footprints = []
    for row in range(height):
        up = -(row + 0.5 - height / 2) / focal
        falls = (up + np.array([-0.75, 0.75]) / focal) * cosine - sine
        if falls[0] >= -position[2] / _FARTHEST_M:
            continue
        near, far = position[2] / -falls[0], position[2] / max(-falls[1], position[2] / _FARTHEST_M)
        across = (near + far) / 2 / focal
        count = int(np.clip(round((far - near) / (4 * across)), 1, _MOST_SAMPLES))
        levels = up + np.linspace(-0.75, 0.75, 2 * count + 1)[1::2] / focal
        levels = levels[levels * cosine - sine < -position[2] / _FARTHEST_M]
        reach = position[2] / (sine - levels * cosine)
        counts[row] = len(reach)
        ahead = np.broadcast_to(position[0] + reach * (cosine + levels * sine), (width, len(reach)))
        points.append(np.stack([ahead, position[1] + reach * left[:, None]], axis=-1).reshape(-1, 2))
        footprints.append(np.full(width * len(reach), max(across, (far - near) / count / 2)))
    return np.repeat(counts, width), np.concatenate(points), np.concatenate(footprints)


class Renderer:
    """Draws pictures of one ground with one camera.

    Args:
        camera: Camera to draw with.
        ground: The ground, in color or gray.
    """

    def __init__(self, camera: Camera, ground: Ground) -> None:
        self.camera = camera
        self._ground = ground
        levels = np.log2(np.maximum(camera.footprints / ground.pixel_m, 1e-9))
        levels = np.clip(np.round(levels), 0, len(ground.sizes) - 1).astype(np.int64)
        scales = 1 / (ground.pixel_m * 2.0**levels)
        self._samples = np.stack([*camera.samples.T, scales]).astype(np.float32)
        self._sizes = np.ascontiguousarray(ground.sizes[levels].T.astype(np.int32))
        self._values = np.empty((ground.quads.shape[1], len(levels)), np.float32)
        self._depths = np.empty(camera.width * camera.height, np.float32)
        self._sky = camera.rays[:, 2] >= -1e-6
        self._ground_depths = np.full(len(self._depths), np.inf, np.float32)
        self._ground_depths[~self._sky] = -camera.position[2] / camera.rays[~self._sky, 2]

    def draw(
        self,
        out: NDArray[np.uint8],
        poses: NDArray[np.float64],
        boxes: NDArray[np.float64],
        colors: NDArray[np.float64],
        *,
        rounding: float = 0.0,
    ) -> None:
        """Draws a picture for each pose.

        Args:
            out: (B, height, width, C), overwritten.
            poses: (B, 3) x, y, yaw of what the camera is mounted to.
            boxes: (B, K, OBJECT_COLUMNS) on the ground; those of no height are left out.
            colors: (B, K, C).
            rounding: 0 cuts a value off, 0.5 rounds it.
        """
        ground, camera = self._ground, self.camera
        pictures = out.reshape(len(out), camera.width * camera.height, -1)
        for i, (picture, pose) in enumerate(zip(pictures, poses, strict=True)):
            _look_up(self._values, pose, self._samples, self._sizes, ground.quads, ground.origin)
            _average(picture, self._values, camera.first, ground.background, rounding)
            if boxes.shape[1]:
                self._depths[:] = self._ground_depths
                _draw_boxes(
                    picture,
                    pose,
                    boxes[i],
                    colors[i],
                    camera.position,
                    camera.rays,
                    camera.width,
                    self._depths,
                    rounding,
                )


@fast
def _look_up(values: Any, pose: Any, samples: Any, sizes: Any, quads: Any, origin: Any) -> None:
    """Looks up the ground at every sample by bilinear interpolation in its picture.

    No branch and one 32-bit load a sample and channel, so that the compiler makes vector instructions of it.
    """
    cosine, sine = np.float32(math.cos(pose[2])), np.float32(math.sin(pose[2]))
    left, low = np.float32(pose[0] - origin[0]), np.float32(pose[1] - origin[1])
    zero, half, one = np.float32(0.0), np.float32(0.5), np.float32(1.0)
    aheads, acrosses, scales = samples[0], samples[1], samples[2]
    starts, rows, columns = sizes[0], sizes[1], sizes[2]
    for c in range(len(values)):
        channel, found = quads[:, c], values[c]
        for m in range(len(scales)):
            x = (left + cosine * aheads[m] - sine * acrosses[m]) * scales[m] - half
            y = (low + sine * aheads[m] + cosine * acrosses[m]) * scales[m] - half
            # Beyond its edge the ground is as at the edge, which is the background.
            x = min(max(x, zero), np.float32(columns[m] - 2))
            y = min(max(y, zero), np.float32(rows[m] - 2))
            column, row = np.int32(x), np.int32(y)
            u, v = x - np.float32(column), y - np.float32(row)
            quad = channel[starts[m] + row * columns[m] + column]
            a, b = np.float32(quad & 255), np.float32((quad >> 8) & 255)
            d, e = np.float32((quad >> 16) & 255), np.float32(quad >> 24)
            found[m] = (a * (one - u) + b * u) * (one - v) + (d * (one - u) + e * u) * v


@fast
def _average(picture: Any, values: Any, first: Any, background: Any, rounding: float) -> None:
    """Averages each pixel's samples; pixels without samples get the background."""
    for c in range(len(values)):
        found = values[c]
        for p in range(len(picture)):
            begin, end = first[p], first[p + 1]
            if end == begin:
                picture[p, c] = np.uint8(background[c] + rounding)
                continue
            total = np.float32(0.0)
            for m in range(begin, end):
                total += found[m]
            picture[p, c] = np.uint8(min(total / np.float32(end - begin) + np.float32(rounding), np.float32(255.0)))


@fast
def _draw_boxes(
    picture: Any,
    pose: Any,
    boxes: Any,
    colors: Any,
    position: Any,
    rays: Any,
    width: int,
    depths: Any,
    rounding: float,
) -> None:
    for k in range(len(boxes)):
        if boxes[k, OBJECT_HEIGHT] > 0:
            _draw_box(picture, pose, boxes[k], colors[k], position, rays, width, depths, rounding)


@fast
def _draw_box(
    out: Any,
    pose: Any,
    box: Any,
    color: Any,
    position: Any,
    rays: Any,
    width: int,
    depths: Any,
    rounding: float,
) -> None:
    """Draws one box, in the pixels where it is the nearest object so far."""
    cosine, sine = math.cos(pose[2]), math.sin(pose[2])
    cx = pose[0] + cosine * position[0] - sine * position[1] - box[OBJECT_X]
    cy = pose[1] + sine * position[0] + cosine * position[1] - box[OBJECT_Y]
    # The camera in the box's frame; half sizes.
    turn = box[OBJECT_YAW]
    bx, by = math.cos(turn) * cx + math.sin(turn) * cy, math.cos(turn) * cy - math.sin(turn) * cx
    hx, hy, height = box[OBJECT_LENGTH] / 2, box[OBJECT_WIDTH] / 2, box[OBJECT_HEIGHT]
    c, s = math.cos(pose[2] - turn), math.sin(pose[2] - turn)
    top, bottom, leftmost, rightmost = _find_pixels(bx, by, position[2], hx, hy, height, c, s, rays, width)
    for row in range(top, bottom):
        for column in range(leftmost, rightmost):
            p = row * width + column
            dx, dy = c * rays[p, 0] - s * rays[p, 1], s * rays[p, 0] + c * rays[p, 1]
            dz = rays[p, 2]
            entry = 0.0
            exit_ = np.inf
            face = 2
            for axis in range(3):
                o, d = (bx, dx) if axis == 0 else (by, dy) if axis == 1 else (position[2] - height / 2, dz)
                h = hx if axis == 0 else hy if axis == 1 else height / 2
                if abs(d) < 1e-9:
                    if abs(o) > h:
                        exit_ = -1.0
                    continue
                one, two = (-h - o) / d, (h - o) / d
                if min(one, two) > entry:
                    entry = min(one, two)
                    face = axis
                exit_ = min(exit_, max(one, two))
            if exit_ <= entry or entry <= 0 or entry >= depths[p]:
                continue
            depths[p] = entry
            shade = _END_SHADE if face == 0 else _SIDE_SHADE if face == 1 else _TOP_SHADE
            for channel in range(out.shape[1]):
                out[p, channel] = np.uint8(color[channel] * shade + rounding)


@fast
def _find_pixels(
    bx: float, by: float, z: float, hx: float, hy: float, height: float, c: float, s: float, rays: Any, width: int
) -> tuple[int, int, int, int]:
    """Finds the rows and columns that a box may cover: all if some corners are behind the camera, none if all are."""
    rows = len(rays) // width
    # Rays are linear in row and column: three of them give the camera's axes.
    origin, right, down = rays[0], rays[1], rays[width]
    rx, ry, rz = right[0] - origin[0], right[1] - origin[1], right[2] - origin[2]
    ex, ey, ez = down[0] - origin[0], down[1] - origin[1], down[2] - origin[2]
    top, bottom, leftmost, rightmost = float(rows), 0.0, float(width), 0.0
    # Normal of the picture plane, and the change of a ray from one pixel to the next.
    nx, ny, nz = ry * ez - rz * ey, rz * ex - rx * ez, rx * ey - ry * ex
    plane = nx * origin[0] + ny * origin[1] + nz * origin[2]
    r2, e2 = rx * rx + ry * ry + rz * rz, ex * ex + ey * ey + ez * ez
    behind = 0
    for corner in range(8):
        x = (hx if corner & 1 else -hx) - bx
        y = (hy if corner & 2 else -hy) - by
        dz = (height if corner & 4 else 0.0) - z
        dx, dy = c * x + s * y, c * y - s * x
        along = (nx * dx + ny * dy + nz * dz) / plane
        if along < 0.02:
            behind += 1
            continue
        ox, oy, oz = dx / along - origin[0], dy / along - origin[1], dz / along - origin[2]
        column, row = (ox * rx + oy * ry + oz * rz) / r2, (ox * ex + oy * ey + oz * ez) / e2
        top, bottom = min(top, row), max(bottom, row)
        leftmost, rightmost = min(leftmost, column), max(rightmost, column)
    if behind == 8:
        return 0, 0, 0, 0
    if behind:
        return 0, rows, 0, width
    return (
        max(0, int(top // 1)),
        min(rows, int(bottom // 1) + 2),
        max(0, int(leftmost // 1)),
        min(width, int(rightmost // 1) + 2),
    )


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

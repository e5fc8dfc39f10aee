"""Shapes of the objects on a track, as flat faces: a box, and a car with wheels that turn.

The car's axles, wheels and outline are those of the original's robot description; its body is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from envs.deepracer.kernels import CAR_HEIGHT_M, CAR_LENGTH_M, CAR_WIDTH_M, FRONT_AXLE_M, REAR_AXLE_M

BOX, CAR = 0.0, 1.0  # values of OBJECT_SHAPE

# Tints: the object's own color, or one of scenery.TINTS.
PAINT = -1
TYRE, RIM, WINDOW, TAIL_LIGHT, HEADLIGHT = range(5)

_WHEEL_RADIUS_M = 0.036
_WHEEL_WIDTH_M = 0.034
_WHEEL_SIDES = 10
_FRONT_WHEEL_M = 0.0796  # from the middle of the car to that of the wheel
_REAR_WHEEL_M = 0.08105

Point = tuple[float, float, float]


class Shapes(NamedTuple):
    """All shapes behind each other, in units of an object's length, width and height.

    Attributes:
        vertices: (V, 3), x ahead, y to the left, z up from the ground.
        hubs: (V, 3) whether the vertex turns with the steering, and x and y of the point that it turns about.
        first_corner: (F + 1,) where each face's corners begin.
        corners: (N,) vertices of the faces, counted from their shape's first, counter-clockwise from outside.
        tints: (F,) PAINT, or a number of scenery.TINTS.
        first_vertex: (S + 1,) where each shape's vertices begin.
        first_face: (S + 1,) where each shape's faces begin.
    """

    vertices: NDArray[np.float64]
    hubs: NDArray[np.float64]
    first_corner: NDArray[np.int64]
    corners: NDArray[np.int64]
    tints: NDArray[np.int64]
    first_vertex: NDArray[np.int64]
    first_face: NDArray[np.int64]


class _Shape:
    """A shape while it is built, in units of `size` meters."""

    def __init__(self, size: Point) -> None:
        self._size = size
        self.vertices: list[Point] = []
        self.hubs: list[Point] = []
        self.faces: list[list[int]] = []
        self.tints: list[int] = []

    def add_face(self, points: Sequence[Point], tint: int, hub: tuple[float, float] | None = None) -> None:
        """Adds a face by its corners, counter-clockwise from outside; one with a hub turns with the steering."""
        first = len(self.vertices)
        length, width, height = self._size
        self.vertices += [(x / length, y / width, z / height) for x, y, z in points]
        self.hubs += [(0.0, 0.0, 0.0) if hub is None else (1.0, hub[0] / length, hub[1] / width)] * len(points)
        self.faces.append(list(range(first, len(self.vertices))))
        self.tints.append(tint)

    def add_loft(self, bottom: Sequence[float], top: Sequence[float], sides: int, roof: int, *, y: float = 0.0) -> None:
        """Adds a solid between two rectangles, without its bottom.

        Args:
            bottom: Least and largest x, half the width, z.
            top: The same, and z at its front.
            sides: Tint of the sides.
            roof: Tint of the top.
            y: Middle of both rectangles.
        """
        back, front, half, z = bottom
        low = [(front, y + half, z), (back, y + half, z), (back, y - half, z), (front, y - half, z)]
        back, front, half, z, z_front = top
        high = [(front, y + half, z_front), (back, y + half, z), (back, y - half, z), (front, y - half, z_front)]
        for i in range(4):
            j = (i + 1) % 4
            self.add_face([low[i], low[j], high[j], high[i]], sides)
        self.add_face(high, roof)

    def add_wheel(self, x: float, y: float, *, turns: bool) -> None:
        """Adds a wheel, seen from outside: tread, side and rim."""
        hub = (x, y) if turns else None
        side = 1 if y > 0 else -1
        angles = np.pi / 2 + np.arange(_WHEEL_SIDES) * 2 * np.pi / _WHEEL_SIDES

        def ring(radius: float, across: float) -> list[Point]:
            points = [
                (x + radius * float(np.cos(a)), across, _WHEEL_RADIUS_M + radius * float(np.sin(a))) for a in angles
            ]
            return points[::-1] if side > 0 else points

        inside, outside = (ring(_WHEEL_RADIUS_M, y + end * side * _WHEEL_WIDTH_M / 2) for end in (-1, 1))
        for i in range(_WHEEL_SIDES):
            j = (i + 1) % _WHEEL_SIDES
            self.add_face([inside[i], inside[j], outside[j], outside[i]], TYRE, hub)
        self.add_face(outside, TYRE, hub)
        self.add_face(ring(0.55 * _WHEEL_RADIUS_M, y + side * (_WHEEL_WIDTH_M / 2 + 0.001)), RIM, hub)


def _make_box() -> _Shape:
    box = _Shape((1.0, 1.0, 1.0))
    box.add_loft((-0.5, 0.5, 0.5, 0.0), (-0.5, 0.5, 0.5, 1.0, 1.0), PAINT, PAINT)
    return box


def _make_car() -> _Shape:
    car = _Shape((CAR_LENGTH_M, CAR_WIDTH_M, CAR_HEIGHT_M))
    car.add_loft((-0.13, 0.14, 0.055, 0.018), (-0.15, 0.155, 0.06, 0.07, 0.07), TYRE, TYRE)
    car.add_loft((-0.158, 0.16, 0.086, 0.068), (-0.15, 0.14, 0.078, 0.118, 0.1), PAINT, PAINT)
    car.add_loft((-0.115, 0.075, 0.068, 0.113), (-0.095, 0.015, 0.052, 0.168, 0.168), WINDOW, PAINT)
    car.add_loft((0.118, 0.148, 0.022, 0.1), (0.12, 0.1455, 0.018, 0.138, 0.138), TYRE, TYRE)
    for y in (-0.055, 0.055):
        car.add_loft((-0.15, -0.13, 0.004, 0.115), (-0.155, -0.138, 0.004, 0.18, 0.18), TYRE, TYRE, y=y)
    car.add_loft((-0.16, -0.122, 0.088, 0.178), (-0.16, -0.122, 0.088, 0.187, 0.184), PAINT, PAINT)
    for y in (-0.055, 0.055):
        car.add_face(_light(-0.1575, y), TAIL_LIGHT)
        car.add_face([(-x, along, z) for x, along, z in _light(-0.156, y)][::-1], HEADLIGHT)
    for side in (-1, 1):
        car.add_wheel(REAR_AXLE_M, side * _REAR_WHEEL_M, turns=False)
        car.add_wheel(FRONT_AXLE_M, side * _FRONT_WHEEL_M, turns=True)
    return car


def _light(x: float, y: float) -> list[Point]:
    """Corners of a light that faces backwards."""
    half = 0.016
    return [(x, y - half, 0.082), (x, y - half, 0.1), (x, y + half, 0.1), (x, y + half, 0.082)]


def _pack(shapes: Sequence[_Shape]) -> Shapes:
    first_vertex = np.cumsum([0, *(len(shape.vertices) for shape in shapes)])
    faces = [face for shape in shapes for face in shape.faces]
    return Shapes(
        np.array([vertex for shape in shapes for vertex in shape.vertices]),
        np.array([hub for shape in shapes for hub in shape.hubs]),
        np.cumsum([0, *map(len, faces)]),
        np.array([corner for face in faces for corner in face]),
        np.array([tint for shape in shapes for tint in shape.tints]),
        first_vertex,
        np.cumsum([0, *(len(shape.faces) for shape in shapes)]),
    )


SHAPES = _pack([_make_box(), _make_car()])

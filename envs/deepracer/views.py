"""Rendered views of a race: from the car's front, from behind it, from above, and a map with driven lines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.deepracer import kernels, scenery
from envs.deepracer.camera import Renderer, make_camera
from envs.deepracer.sensors import CAMERA_AT, CAMERA_PITCH, FIELD_OF_VIEW, boxes_around, object_colors
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import Track

VIEWS = ("race", "front", "follow", "top")
SIZE = (640, 480)
_FOLLOW_BEHIND_M = 1.5
_FOLLOW_UP_M = 1.0
_FOLLOW_PITCH = np.radians(18)
_INSET = (200, 150)
_CAR_COLORS = (scenery.CAR, (214, 60, 50), (230, 180, 30), (60, 160, 90))


class Views:
    """Draws views of a simulation.

    Args:
        simulation: Simulation to draw.
    """

    def __init__(self, simulation: Simulation) -> None:
        self._simulation = simulation
        ground = scenery.draw_ground(simulation.track)
        width, height = SIZE
        mounts = {"front": (CAMERA_AT, CAMERA_PITCH)}
        mounts["follow"] = ((-_FOLLOW_BEHIND_M, 0.0, _FOLLOW_UP_M), _FOLLOW_PITCH)
        self._renderers = {
            name: Renderer(
                make_camera(width, height, field_of_view=FIELD_OF_VIEW, position=position, pitch=float(pitch)), ground
            )
            for name, (position, pitch) in mounts.items()
        }
        self._map = Map(simulation.track, SIZE)

    def draw(self, row: int, view: str) -> NDArray[np.uint8]:
        """Returns (480, 640, 3) picture of a car."""
        if view == "top":
            return self._draw_map()
        picture = self._draw(row, "follow" if view == "race" else view)
        if view == "race":
            inset = Image.fromarray(self._draw_map()).resize(_INSET, Image.Resampling.LANCZOS)
            picture[8 : 8 + _INSET[1], -8 - _INSET[0] : -8] = np.asarray(inset)
        return picture

    def _draw(self, row: int, view: str) -> NDArray[np.uint8]:
        simulation = self._simulation
        boxes = boxes_around(simulation)[row]
        colors = object_colors(simulation.race)
        agent = row % simulation.agents
        colors += [_CAR_COLORS[i % len(_CAR_COLORS)] for i in range(simulation.agents) if i != agent]
        if view == "follow":
            own = np.zeros((1, kernels.OBJECT_COLUMNS))
            own[0, : kernels.OBJECT_YAW + 1] = simulation.cars[row, : kernels.YAW + 1]
            size = kernels.OBJECT_LENGTH
            own[0, size : size + 3] = kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M, kernels.CAR_HEIGHT_M
            boxes = np.concatenate([boxes, own])
            colors = [*colors, _CAR_COLORS[agent % len(_CAR_COLORS)]]
        out = np.zeros((1, SIZE[1], SIZE[0], 3), np.uint8)
        painted = np.array(colors, np.float64).reshape(1, -1, 3)
        pose = simulation.cars[row : row + 1, : kernels.YAW + 1]
        self._renderers[view].draw(out, pose, boxes[None], painted)
        return np.asarray(out[0])

    def _draw_map(self) -> NDArray[np.uint8]:
        simulation = self._simulation
        rectangles = [(row, scenery.BOX) for row in simulation.objects.rows[0]]
        for number, car in enumerate(simulation.cars[: simulation.agents]):
            row = np.array([*car[: kernels.YAW + 1], 2 * kernels.CAR_LENGTH_M, 2 * kernels.CAR_WIDTH_M, 0.0])
            rectangles.append((row, _CAR_COLORS[number % len(_CAR_COLORS)]))
        return np.asarray(self._map.with_rectangles(rectangles))


class Map:
    """Map of a track, seen from above.

    Args:
        track: Track to draw.
        size: Width and height in pixels.
    """

    def __init__(self, track: Track, size: tuple[int, int]) -> None:
        self.track = track
        self._size = size
        points = np.concatenate([track.outer, track.inner])
        low, high = points.min(axis=0) - 0.5, points.max(axis=0) + 0.5
        self._scale = float(np.min(np.array(size) / (high - low)))
        self._low = (low + high) / 2 - np.array(size) / self._scale / 2
        self.image = self._draw()

    def at(self, line: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Pixels of points (N, 2) in meters; y points up."""
        places = (line - self._low) * self._scale
        return [(float(x), self._size[1] - float(y)) for x, y in places]

    def _draw(self) -> Image.Image:
        image = Image.new("RGB", self._size, scenery.FIELD)
        draw = ImageDraw.Draw(image)
        track = self.track
        scenery.draw_road(draw, track, self.at)
        for border in (track.inner, track.outer):
            draw.line(self.at(border), fill=scenery.EDGE, width=2)
        for i in range(0, len(track.center) - 1, 2):
            draw.line(self.at(track.center[i : i + 2]), fill=scenery.DASH)
        start = self.at(np.stack([track.inner[0], track.outer[0]]))
        draw.line(start, fill=(220, 40, 40), width=3)
        return image

    def with_rectangles(self, rectangles: Sequence[tuple[NDArray[np.float64], scenery.Color]]) -> Image.Image:
        """Returns a copy with objects' rows drawn on it."""
        image = self.image.copy()
        draw = ImageDraw.Draw(image)
        for row, color in rectangles:
            x, y, yaw, length, width = row[:5]
            corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [length / 2, width / 2]
            turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
            draw.polygon(self.at(corners @ turn + [x, y]), fill=color)
        return image

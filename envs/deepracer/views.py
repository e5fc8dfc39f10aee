"""Rendered views of a race: from the car's front, from behind it, from above, and a map with driven lines."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.deepracer import kernels, scenery
from envs.deepracer.camera import Renderer, make_camera
from envs.deepracer.hud import Standing, draw_inset, draw_standings
from envs.deepracer.sensors import (
    CAMERA_AT,
    CAMERA_PITCH,
    FIELD_OF_VIEW,
    cars_as_objects,
    object_colors,
    objects_around,
)
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import Track

VIEWS = ("race", "front", "follow", "top")
SIZE = (640, 480)
_FOLLOW_BEHIND_M = 1.5
_FOLLOW_UP_M = 1.0
_FOLLOW_PITCH = np.radians(18)
_FINENESS = 2
_INSET = (200, 150)
_INSET_FIELD = (12, 16, 22)
_INSET_ROAD = (66, 71, 78)
_INSET_OUTLINE = (235, 238, 242)
_LEAST_CAR_PIXELS = 8.0  # of a car on a map
CAR_COLORS = (scenery.CAR, (214, 60, 50), (230, 180, 30), (60, 160, 90))
# The follow camera's time constants; and how far a car moves in a step at most unless it is put elsewhere.
_FOLLOW_S = 0.12
_FOLLOW_TURN_S = 0.4
_FARTHEST_STEP_M = 0.6
_NOTES = {
    kernels.CRASHED: "crashed",
    kernels.OFF_TRACK: "off track",
    kernels.IMMOBILIZED: "immobilized",
    kernels.REVERSED: "reversed",
}


class Views:
    """Draws views of a simulation.

    Args:
        simulation: Simulation to draw.
        names: Names of the racers.
    """

    def __init__(self, simulation: Simulation, names: Sequence[str] = ("DeepRacer",)) -> None:
        self._simulation = simulation
        self._names = names
        ground = scenery.draw_ground(simulation.track)
        width, height = SIZE
        mounts = {"front": (CAMERA_AT, CAMERA_PITCH)}
        mounts["follow"] = ((-_FOLLOW_BEHIND_M, 0.0, _FOLLOW_UP_M), _FOLLOW_PITCH)
        self._renderers = {
            name: Renderer(
                make_camera(width, height, field_of_view=FIELD_OF_VIEW, position=position, pitch=float(pitch)),
                ground,
                fineness=_FINENESS,
            )
            for name, (position, pitch) in mounts.items()
        }
        self._map = Map(simulation.track, SIZE)
        self._inset = Map(simulation.track, _INSET, field=_INSET_FIELD, road=_INSET_ROAD, outline=_INSET_OUTLINE)
        self._followers = [Follower() for _ in simulation.cars]

    def draw(self, row: int, view: str) -> NDArray[np.uint8]:
        """Returns (480, 640, 3) picture of a car."""
        if view == "top":
            return np.asarray(self._map.with_rectangles(self._rectangles(row)))
        if view == "race":
            picture = self._draw(row, "follow")
            self.add_display(picture, row)
            return picture
        return self._draw(row, view)

    def add_display(self, picture: NDArray[np.uint8], row: int) -> None:
        """Draws the standings of a car's world, and the map, over a picture."""
        simulation = self._simulation
        first = row - row % simulation.agents
        draw_standings(picture, [self._standing(car) for car in range(first, first + simulation.agents)])
        draw_inset(picture, self._inset.with_rectangles(self._rectangles(row)))

    def _standing(self, row: int) -> Standing:
        simulation = self._simulation
        race = simulation.race
        car = simulation.cars[row]
        agent = row % simulation.agents
        is_paused = car[kernels.PHASE] == kernels.PAUSE
        lap = simulation.laps[row] + 1 if race.is_continuous else simulation.episodes[row] + 1
        return Standing(
            name=self._names[agent % len(self._names)],
            color=CAR_COLORS[agent % len(CAR_COLORS)],
            lap=min(int(lap), race.laps) if race.laps > 1 else int(lap),
            laps=race.laps if race.laps > 1 or race.is_continuous else 0,
            time_s=float(car[kernels.TIME]),
            resets=int(simulation.resets[row]),
            speed=0.0 if is_paused else float(car[kernels.SPEED]),
            note=_NOTES.get(int(simulation.failures[row]), "") if is_paused else "",
        )

    def _draw(self, row: int, view: str) -> NDArray[np.uint8]:
        simulation = self._simulation
        objects = objects_around(simulation)[row]
        colors = object_colors(simulation.race)
        agent = row % simulation.agents
        colors += [CAR_COLORS[i % len(CAR_COLORS)] for i in range(simulation.agents) if i != agent]
        pose = simulation.cars[row, : kernels.YAW + 1]
        if view == "follow":
            objects = np.concatenate([objects, cars_as_objects(simulation)[row : row + 1]])
            colors = [*colors, CAR_COLORS[agent % len(CAR_COLORS)]]
            pose = self._followers[row].move(pose, time_s=float(simulation.cars[row, kernels.TIME]))
        out = np.zeros((1, SIZE[1], SIZE[0], 3), np.uint8)
        painted = np.array(colors, np.float64).reshape(1, -1, 3)
        self._renderers[view].draw(out, pose[None], objects[None], painted, rounding=0.5)
        return np.asarray(out[0])

    def _rectangles(self, row: int) -> list[tuple[NDArray[np.float64], scenery.Color]]:
        """Objects of a car's world on the map, the agents' cars last."""
        simulation = self._simulation
        world = row // simulation.agents
        rectangles = list(zip(simulation.objects.rows[world], object_colors(simulation.race), strict=True))
        first = world * simulation.agents
        for agent, car in enumerate(cars_as_objects(simulation)[first : first + simulation.agents]):
            rectangles.append((car, CAR_COLORS[agent % len(CAR_COLORS)]))
        return rectangles


class Follower:
    """A camera's mount that follows a car smoothly: it turns and moves toward the car's pose by first-order lags."""

    def __init__(self) -> None:
        self._time_s = math.inf
        self._car = np.zeros(3)
        self._pose = np.zeros(3)

    def move(self, car: NDArray[np.float64], *, time_s: float) -> NDArray[np.float64]:
        """Returns (3,) x, y, yaw of the mount; that of the car where it was put elsewhere, or time went back.

        Args:
            car: (3,) x, y, yaw of the car.
            time_s: Time of the race in seconds.
        """
        passed_s = time_s - self._time_s
        steps = max(1.0, passed_s / kernels.CONTROL_S)
        moved_m = float(np.hypot(*(car[:2] - self._car[:2])))
        if passed_s < 0 or moved_m > _FARTHEST_STEP_M * steps:
            self._pose = car.copy()
        else:
            turn = (car[2] - self._pose[2] + np.pi) % (2 * np.pi) - np.pi
            self._pose[:2] += (car[:2] - self._pose[:2]) * (1 - math.exp(-passed_s / _FOLLOW_S))
            self._pose[2] += turn * (1 - math.exp(-passed_s / _FOLLOW_TURN_S))
        self._time_s = time_s
        self._car = car.copy()
        return self._pose.copy()


class Map:
    """Map of a track, seen from above.

    Args:
        track: Track to draw.
        size: Width and height in pixels.
        field: Color beside the road.
        road: Color of the road.
        outline: Color around objects, None for none.
    """

    def __init__(
        self,
        track: Track,
        size: tuple[int, int],
        *,
        field: scenery.Color = scenery.FIELD,
        road: scenery.Color = scenery.ROAD,
        outline: scenery.Color | None = None,
    ) -> None:
        self.track = track
        self._outline = outline
        self._size = size
        points = np.concatenate([track.outer, track.inner])
        low, high = points.min(axis=0) - 0.5, points.max(axis=0) + 0.5
        self._scale = float(np.min(np.array(size) / (high - low)))
        self._low = (low + high) / 2 - np.array(size) / self._scale / 2
        self._large = self._draw(field, road)
        self.image = self._large.reduce(_FINENESS)

    def at(self, line: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Pixels of points (N, 2) in meters; y points up."""
        places = (line - self._low) * self._scale
        return [(float(x), self._size[1] - float(y)) for x, y in places]

    def _at_large(self, line: NDArray[np.float64]) -> list[tuple[float, float]]:
        """Pixels in the large picture, which is reduced for smooth edges."""
        return [(_FINENESS * x - 0.5, _FINENESS * y - 0.5) for x, y in self.at(line)]

    def _draw(self, field: scenery.Color, road: scenery.Color) -> Image.Image:
        image = Image.new("RGB", (_FINENESS * self._size[0], _FINENESS * self._size[1]), field)
        draw = ImageDraw.Draw(image)
        track = self.track
        scenery.draw_road(draw, track, self._at_large, field=field, road=road)
        for border in (track.inner, track.outer):
            draw.line(self._at_large(border), fill=scenery.EDGE, width=2 * _FINENESS, joint="curve")
        for i in range(0, len(track.center) - 1, 2):
            draw.line(self._at_large(track.center[i : i + 2]), fill=scenery.DASH, width=_FINENESS)
        start = self._at_large(np.stack([track.inner[0], track.outer[0]]))
        draw.line(start, fill=(220, 40, 40), width=3 * _FINENESS)
        return image

    def with_rectangles(self, rectangles: Sequence[tuple[NDArray[np.float64], scenery.Color]]) -> Image.Image:
        """Returns a copy with objects' rows drawn on it, at their true size where that can be seen."""
        image = self._large.copy()
        draw = ImageDraw.Draw(image)
        for row, color in rectangles:
            x, y, yaw, length, width = row[:5]
            larger = max(1.0, _LEAST_CAR_PIXELS / self._scale / length)
            corners = np.array([[1, 1], [1, -1], [-1, -1], [-1, 1]]) * [length / 2 * larger, width / 2 * larger]
            turn = np.array([[np.cos(yaw), np.sin(yaw)], [-np.sin(yaw), np.cos(yaw)]])
            draw.polygon(self._at_large(corners @ turn + [x, y]), fill=color, outline=self._outline)
        return image.reduce(_FINENESS)

"""Observations of all cars at once: gray pictures of one or two cameras, and the LIDAR's three forms.

Source of mounts, sizes and value ranges: DeepRacer's simulation application 6.0.5, `urdf/deepracer`, `sensors/utils.py`
and `sensors/sensors_rollout.py`.
"""

from __future__ import annotations

import math
from functools import lru_cache

import gymnasium
import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels, scenery
from envs.deepracer.camera import Renderer, cast_lidar, make_camera
from envs.deepracer.metadata import LIDAR_RAYS, SECTORS, Metadata
from envs.deepracer.race import Race
from envs.deepracer.scenery import Ground
from envs.deepracer.shapes import CAR
from envs.deepracer.simulation import Simulation
from envs.deepracer.tracks import Track

WIDTH, HEIGHT = 160, 120
FIELD_OF_VIEW = 1.13
CAMERA_PITCH = 0.2618
CAMERA_AT = (0.1453, 0.0, 0.1303)
_EYES_M = 0.03
_LIDAR_AHEAD_M = 0.02913
_LIDAR_YAW = np.pi
_LIDAR_HALF = 2.61799
_LIDAR_RANGE = (0.15, 12.0)
_LIDAR_NOISE = 0.01
_LIDAR_STEP = 0.01
_LIDAR_SEES_M = 1.0
_SECTOR_NEAR_M = 0.5
Rows = NDArray[np.int64] | slice
_ALL = slice(None)
_NOISE = 4.0  # gray levels, where a race randomizes what cars see


@lru_cache(maxsize=8)
def _gray_ground(*lines: bytes) -> Ground:
    """Draws a track's ground in gray from its three lines; cached, as it takes megabytes."""
    center, inner, outer = (np.frombuffer(line).reshape(-1, 2) for line in lines)
    return scenery.draw_ground(Track("", center, inner, outer)).in_gray()


class Sensors:
    """Sensors of every car of a simulation.

    Args:
        simulation: Simulation of the cars.
        metadata: Metadata that lists the sensors.
    """

    def __init__(self, simulation: Simulation, metadata: Metadata) -> None:
        self._simulation = simulation
        self._metadata = metadata
        track = simulation.track
        ground = _gray_ground(*(line.tobytes() for line in (track.center, track.inner, track.outer)))
        sides = (_EYES_M, -_EYES_M) if metadata.camera == "STEREO_CAMERAS" else (0.0,)
        self._ground = ground
        self._sides = sides
        self._renderers = self._mount_cameras()
        # Of each car, where each episode has cameras of its own.
        self._own_renderers = [self._renderers] * len(simulation.cars)
        count = len(simulation.cars)
        race = simulation.race
        self._pictures = np.zeros((len(sides), count, HEIGHT, WIDTH, 1), np.uint8)
        self._scans = np.zeros((count, LIDAR_RAYS))
        self._angles = _LIDAR_YAW + np.linspace(-_LIDAR_HALF, _LIDAR_HALF, LIDAR_RAYS)
        colors = [*object_colors(race), *[scenery.CAR] * (simulation.agents - 1)]
        gray = np.array(colors, np.float64).reshape(-1, 3) @ scenery.LUMA
        self._colors = np.repeat(gray[None, :, None], count, axis=0)
        self._lights = np.tile(np.arange(256, dtype=np.uint8), (count, 1))
        self._pixel_noise = race.randomize.pixel_noise or (_NOISE if race.enable_domain_randomization else 0.0)
        self._changes_pictures = race.enable_domain_randomization or race.randomize.changes_pictures
        self._moves_camera = race.randomize.moves_camera

    def _mount_cameras(self, *, higher_m: float = 0.0, lower_rad: float = 0.0) -> list[Renderer]:
        """Makes the renderers of a car whose cameras are higher, and look farther down, than the others'."""
        x, _, z = CAMERA_AT
        cameras = [
            make_camera(
                WIDTH,
                HEIGHT,
                field_of_view=FIELD_OF_VIEW,
                position=(x, side, z + higher_m),
                pitch=CAMERA_PITCH + lower_rad,
            )
            for side in self._sides
        ]
        return [Renderer(camera, self._ground) for camera in cameras]

    @property
    def space(self) -> gymnasium.spaces.Space[NDArray[np.uint8]] | gymnasium.spaces.Dict:
        """Observation space of one car: the picture, or a dict of picture and scan by sensor name."""
        picture = gymnasium.spaces.Box(0, 255, (HEIGHT, WIDTH, len(self._renderers)), np.uint8)
        if self._metadata.lidar is None:
            return picture
        scan = gymnasium.spaces.Box(0, 1, (self._metadata.scan_size,), np.float32)
        return gymnasium.spaces.Dict({self._metadata.camera: picture, self._metadata.lidar: scan})

    def randomize(self, world: int) -> None:
        """Draws the light and the cameras of a world's new episode, where the race randomizes them."""
        simulation = self._simulation
        race = simulation.race
        rows = range(world * simulation.agents, (world + 1) * simulation.agents)
        if self._changes_pictures:
            self._lights[rows] = scenery.gray_under_light(self._draw_light())
        if race.enable_domain_randomization or race.randomize.color:
            count = race.obstacles + race.number_of_bot_cars
            self._colors[rows, :count] = simulation.random.uniform(20, 235, (count, 1))
        if self._moves_camera:
            ranges = race.randomize
            for row in rows:
                height, pitch = simulation.random.uniform(-1, 1, 2)
                self._own_renderers[row] = self._mount_cameras(
                    higher_m=height * ranges.camera_height_m, lower_rad=math.radians(pitch * ranges.camera_pitch_deg)
                )

    def _draw_light(self) -> NDArray[np.float64]:
        """Draws (3,) brightness in red, green and blue."""
        race = self._simulation.race
        random = self._simulation.random
        light = scenery.random_light(random) if race.enable_domain_randomization else np.ones(3)
        if race.randomize.changes_pictures:
            light = light * (1 + race.randomize.light * random.uniform(-1, 1))
            light = light * (1 + race.randomize.color * random.uniform(-1, 1, 3))
        return np.asarray(light, np.float64)

    def observe(self, rows: Rows = _ALL) -> NDArray[np.uint8] | dict[str, NDArray[np.uint8] | NDArray[np.float32]]:
        """Returns (B, ...) current observations of the cars of these rows, in a new array."""
        objects = objects_around(self._simulation)[rows]
        poses = self._simulation.cars[rows, : kernels.YAW + 1]
        pictures = self._see(objects, poses, rows)
        if self._metadata.lidar is None:
            return pictures
        return {self._metadata.camera: pictures, self._metadata.lidar: self._scan(objects, poses)}

    def _see(self, objects: NDArray[np.float64], poses: NDArray[np.float64], rows: Rows) -> NDArray[np.uint8]:
        rounding = 0.5 if len(self._renderers) > 1 else 0.0  # each camera pair's pictures are rounded, not cut
        drawn = [out[: len(poses)] for out in self._pictures]
        if self._moves_camera:
            self._see_apart(drawn, objects, poses, rows, rounding=rounding)
        else:
            for renderer, out in zip(self._renderers, drawn, strict=True):
                renderer.draw(out, poses, objects, self._colors[rows], rounding=rounding)
        pictures = np.concatenate(drawn, axis=-1)
        if self._changes_pictures:
            self._light(pictures, self._lights[rows])
        return pictures

    def _see_apart(
        self,
        drawn: list[NDArray[np.uint8]],
        objects: NDArray[np.float64],
        poses: NDArray[np.float64],
        rows: Rows,
        *,
        rounding: float,
    ) -> None:
        """Draws each car's pictures with its own cameras."""
        for number, row in enumerate(np.arange(len(self._own_renderers))[rows]):
            one = slice(number, number + 1)
            for renderer, out in zip(self._own_renderers[row], drawn, strict=True):
                renderer.draw(out[one], poses[one], objects[one], self._colors[row : row + 1], rounding=rounding)

    def _light(self, pictures: NDArray[np.uint8], lights: NDArray[np.uint8]) -> None:
        """Changes (B, H, W, C) pictures to what they are under (B, 256) lights, and adds noise."""
        for picture, light in zip(pictures, lights, strict=True):
            lit = light[picture]
            if self._pixel_noise:
                lit = np.clip(lit + self._simulation.random.normal(0, self._pixel_noise, picture.shape), 0, 255)
            picture[:] = lit

    def _scan(self, objects: NDArray[np.float64], poses: NDArray[np.float64]) -> NDArray[np.float32]:
        metadata = self._metadata
        measured = self._scans[: len(poses)]
        cast_lidar(measured, np.ascontiguousarray(poses), objects, self._angles, _LIDAR_AHEAD_M, *_LIDAR_RANGE)
        noise = self._simulation.random.normal(0, _LIDAR_NOISE, measured.shape)
        scans = np.round((measured + noise) / _LIDAR_STEP) * _LIDAR_STEP
        if metadata.lidar == "LIDAR":
            return np.asarray(np.clip(scans, _LIDAR_RANGE[0], _LIDAR_SEES_M), np.float32)
        if metadata.lidar == "SECTOR_LIDAR":
            nearest = scans.reshape(len(poses), SECTORS, -1).min(axis=2)
            return np.asarray(nearest < _SECTOR_NEAR_M, np.float32)
        nearest = np.minimum(scans.reshape(len(poses), metadata.num_sectors, -1).min(axis=2), metadata.clipping_m)
        value = np.floor(nearest / metadata.clipping_m * metadata.values_per_sector).astype(np.int64)
        codes = np.arange(metadata.values_per_sector) == np.maximum(value, 0)[..., None]
        return np.asarray(codes.reshape(len(poses), -1), np.float32)


def object_colors(race: Race) -> list[scenery.Color]:
    """Colors of the obstacles, then of the bot cars."""
    obstacle = scenery.BOT if race.is_obstacle_bot_car else scenery.BOX
    return [obstacle] * race.obstacles + [scenery.BOT] * race.number_of_bot_cars


def objects_around(simulation: Simulation) -> NDArray[np.float64]:
    """Returns (C, K, OBJECT_COLUMNS) objects around each car: those of its world, then the other agents' cars."""
    rows = np.repeat(simulation.objects.rows, simulation.agents, axis=0)
    if simulation.agents == 1:
        return rows
    cars = cars_as_objects(simulation).reshape(simulation.worlds, simulation.agents, -1)
    others = np.zeros((len(rows), simulation.agents - 1, kernels.OBJECT_COLUMNS))
    for agent in range(simulation.agents):
        beside = [other for other in range(simulation.agents) if other != agent]
        others[agent :: simulation.agents] = cars[:, beside]
    return np.concatenate([rows, others], axis=1)


def cars_as_objects(simulation: Simulation) -> NDArray[np.float64]:
    """Returns (C, OBJECT_COLUMNS) the agents' cars as objects."""
    rows = np.zeros((len(simulation.cars), kernels.OBJECT_COLUMNS))
    rows[:, : kernels.OBJECT_YAW + 1] = simulation.cars[:, : kernels.YAW + 1]
    size = kernels.OBJECT_LENGTH
    rows[:, size : size + 3] = kernels.CAR_LENGTH_M, kernels.CAR_WIDTH_M, kernels.CAR_HEIGHT_M
    rows[:, kernels.OBJECT_STEERING] = simulation.cars[:, kernels.STEERING]
    rows[:, kernels.OBJECT_SHAPE] = CAR
    return rows

"""Draws the ground of a track from above, in several sizes, and defines the colors of the sky and of all objects.

Colors and line widths are ours, chosen so that gray values fall where published sample images have them: dark sky,
gray road of 70 to 90, light field, white edges, a dashed center line.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from envs.deepracer.tracks import Line, Track

Color = tuple[int, int, int]

# The sky by elevation in radians: haze at the horizon, dark above.
_SKY_ELEVATIONS = (0.0, 0.05, 0.16, 0.6)
SKY: tuple[Color, ...] = ((132, 146, 156), (92, 112, 138), (58, 78, 108), (34, 50, 78))
FIELD: Color = (96, 148, 92)
ROAD: Color = (78, 79, 84)
EDGE: Color = (252, 252, 250)
DASH: Color = (240, 170, 40)
BOX: Color = (190, 140, 90)
BOT: Color = (196, 200, 206)
CAR: Color = (40, 90, 200)
# Parts of objects that are not painted in the object's color, by the numbers that shapes.py uses.
TINTS: tuple[Color, ...] = ((22, 22, 25), (150, 154, 162), (26, 34, 46), (196, 34, 30), (236, 232, 214))
LUMA = np.array([0.2989, 0.587, 0.114])

_MARGIN_M = 1.2
_MARGIN_PIXELS = 200
_EDGE_M = 0.05
_DASH_WIDTH_M = 0.03
_DASH_M = 0.12
_GAP_M = 0.12
_FINEST_M = 0.005
_MOST_PIXELS = 12_000_000
_LEVELS = 8
# The field's texture: lattices of random brightness that repeat, their cells in meters and their strength.
_LATTICES = ((1.6, 0.05), (0.4, 0.05), (0.1, 0.05), (0.03, 0.05))
_LATTICE_CELLS = 64


@dataclasses.dataclass(frozen=True)
class Ground:
    """The ground in several sizes, each half as fine as the one before, and the sky above it, for the renderer.

    Coarser sizes reach farther: a camera sees what is far away in them.

    Attributes:
        quads: (C, P) uint32 of all sizes behind each other, rows from the lowest y, columns from the lowest x. Each
            holds a pixel, the one right of it, the one above, and the one above that on the right, in its bytes from
            the lowest: what is between them takes one load.
        sizes: (S, 3) int64: first pixel, rows and columns of each size.
        origins: (S, 2) x and y of each size's lowest corner, in meters.
        pixel_m: Side of a pixel of the first size, in meters.
        sky: (E, C) colors of the sky by elevation.
        tints: (T, C) colors of the parts of objects that are not painted.
    """

    quads: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    origins: NDArray[np.float64]
    pixel_m: float
    sky: NDArray[np.float64]
    tints: NDArray[np.float64]

    def in_gray(self) -> Ground:
        """Converts ground, sky and tints to gray (luma)."""
        gray = np.zeros((1, self.quads.shape[1]), np.uint32)
        for byte in range(0, 32, 8):
            gray[0] |= (LUMA @ (self.quads >> byte & 255)).astype(np.uint32) << np.uint32(byte)
        return dataclasses.replace(self, quads=gray, sky=self.sky @ LUMA[:, None], tints=self.tints @ LUMA[:, None])

    def sky_at(self, elevations: NDArray[np.float64]) -> NDArray[np.float64]:
        """Computes colors (..., C) of the sky at elevations (...) in radians."""
        return np.stack([np.interp(elevations, _SKY_ELEVATIONS, channel) for channel in self.sky.T], axis=-1)


def draw_ground(track: Track) -> Ground:
    """Draws a track's surroundings, road, edges and center line, in color."""
    points = np.concatenate([track.outer, track.inner])
    low, high = points.min(axis=0) - _MARGIN_M, points.max(axis=0) + _MARGIN_M
    pixel_m = max(_FINEST_M, float(np.sqrt(np.prod(high - low) / _MOST_PIXELS)))
    # Whole pixels of the coarsest size, so that all sizes are of the same squares.
    side = 2 ** (_LEVELS - 1)
    width, height = (int(n) * side for n in np.ceil((high - low) / pixel_m / side))
    image = _draw_track(track, low, pixel_m, (width, height))
    parts: list[NDArray[np.uint32]] = []
    sizes = []
    origins = []
    first = 0
    for level in range(_LEVELS):
        scale = pixel_m * 2**level
        drawn = np.asarray(image.reduce(2**level), np.float32)
        origin = low - _MARGIN_PIXELS * scale
        quads = _as_quads(_on_field(drawn, origin, scale))
        parts.append(quads.reshape(3, -1))
        sizes.append((first, *quads.shape[1:]))
        origins.append(origin)
        first += parts[-1].shape[1]
    return Ground(
        np.concatenate(parts, axis=1),
        np.array(sizes, np.int64),
        np.array(origins),
        pixel_m,
        np.array(SKY, np.float64),
        np.array(TINTS, np.float64),
    )


def _draw_track(track: Track, low: NDArray[np.float64], pixel_m: float, size: tuple[int, int]) -> Image.Image:
    """Draws road and lines on transparent ground; smooth edges come from drawing at twice the size."""
    image = Image.new("RGBA", (2 * size[0], 2 * size[1]), (0, 0, 0, 0))
    draw = ImageDraw.Draw(image)

    def at(line: Line) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in (line - low) / pixel_m * 2 - 0.5]

    draw_road(draw, track, at, field=(0, 0, 0, 0))
    for border in (track.inner, track.outer):
        inward = track.center - border
        inward *= _EDGE_M / np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1e-9)
        draw.polygon(at(np.concatenate([border, (border + inward)[::-1]])), fill=EDGE)
    for start in np.arange(0, track.length, _DASH_M + _GAP_M):
        dash = track.place(np.linspace(start, min(start + _DASH_M, track.length - 1e-6), 4))
        normal = np.stack([-np.sin(dash[:, 2]), np.cos(dash[:, 2])], axis=1) * _DASH_WIDTH_M / 2
        draw.polygon(at(np.concatenate([dash[:, :2] + normal, (dash[:, :2] - normal)[::-1]])), fill=DASH)
    return image.reduce(2)


def draw_road(
    draw: Any,
    track: Track,
    at: Callable[[Line], list[tuple[float, float]]],
    *,
    field: tuple[int, ...] = FIELD,
    road: tuple[int, ...] = ROAD,
) -> None:
    """Fills the road, and the field within it again; `at` turns meters into pixels."""
    if track.is_closed:
        rings = sorted((track.outer, track.inner), key=_area, reverse=True)
        draw.polygon(at(rings[0]), fill=road)
        draw.polygon(at(rings[1]), fill=field)
    else:
        draw.polygon(at(np.concatenate([track.outer, track.inner[::-1]])), fill=road)


def _area(ring: Line) -> float:
    x, y = ring.T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))


def _on_field(drawn: NDArray[np.float32], origin: NDArray[np.float64], scale: float) -> NDArray[np.uint32]:
    """Lays a picture (H, W, 4) with transparency on a field that is larger all around; returns (3, H', W')."""
    margin = _MARGIN_PIXELS
    shape = (drawn.shape[0] + 2 * margin, drawn.shape[1] + 2 * margin)
    brightness = 1 + _texture(shape, origin, scale)
    # Beyond a size's edge its outermost pixels go on for ever: plain field.
    brightness[[0, -1]] = brightness[:, [0, -1]] = 1
    middle = (slice(margin, -margin),) * 2
    covered = drawn[..., 3] / 255
    field = np.empty((3, *shape), np.uint32)
    for channel, color in enumerate(FIELD):
        lit = color * brightness
        lit[middle] = lit[middle] * (1 - covered) + drawn[..., channel] * covered
        field[channel] = np.clip(lit + 0.5, 0, 255)
    return field


def _texture(shape: tuple[int, int], origin: NDArray[np.float64], scale: float) -> NDArray[np.float32]:
    """Computes the field's deviations from its mean brightness, as shares of it; fine ones are left to fine sizes."""
    random = np.random.default_rng(0)
    total = np.zeros(shape, np.float32)
    for cell_m, strength in _LATTICES:
        lattice = random.uniform(-1, 1, (_LATTICE_CELLS, _LATTICE_CELLS)).astype(np.float32)
        if cell_m < 2 * scale:
            continue
        rows, columns = (
            _interpolation(count, start, scale / cell_m)
            for count, start in zip(shape, origin[::-1] / cell_m, strict=True)
        )
        total += strength * (rows @ lattice @ columns.T)
    return total


def _interpolation(count: int, start: float, step: float) -> NDArray[np.float32]:
    """Makes the matrix (count, cells) that interpolates a lattice that repeats, from a place on, in even steps."""
    places = start + (np.arange(count) + 0.5) * step
    cells = np.floor(places).astype(np.int64)
    share = places - cells
    share = share * share * (3 - 2 * share)
    matrix = np.zeros((count, _LATTICE_CELLS), np.float32)
    matrix[np.arange(count), cells % _LATTICE_CELLS] = 1 - share
    matrix[np.arange(count), (cells + 1) % _LATTICE_CELLS] = share
    return matrix


def _as_quads(pixels: NDArray[np.uint32]) -> NDArray[np.uint32]:
    quads = pixels.copy()
    quads[:, :, :-1] |= pixels[:, :, 1:] << np.uint32(8)
    quads[:, :-1] |= pixels[:, 1:] << np.uint32(16)
    quads[:, :-1, :-1] |= pixels[:, 1:, 1:] << np.uint32(24)
    return quads


def random_light(random: np.random.Generator) -> NDArray[np.float64]:
    """Draws a light: (3,) brightness in red, green and blue, from its color and its distance."""
    return np.asarray(0.25 + random.uniform(0, 1, 3) * random.uniform(0.4, 1.2), np.float64)


def gray_under_light(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Computes (256,) gray values under a light: exact for the scenery's colors, interpolated between them."""
    palette = np.array([(0, 0, 0), *SKY, ROAD, FIELD, DASH, EDGE], np.float64)
    palette = palette[np.argsort(palette @ LUMA)]
    lit = np.clip(palette * light, 0, 255)
    values = np.interp(np.arange(256), palette @ LUMA, lit @ LUMA)
    return np.asarray(np.clip(values, 0, 255), np.uint8)

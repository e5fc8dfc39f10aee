"""Draws the ground of a track from above, in several sizes, and defines the colors of all objects.

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

SKY: Color = (58, 70, 88)
FIELD: Color = (96, 148, 92)
ROAD: Color = (78, 79, 84)
EDGE: Color = (252, 252, 250)
DASH: Color = (240, 170, 40)
BOX: Color = (176, 128, 82)
BOT: Color = (40, 44, 52)
CAR: Color = (40, 90, 200)
LUMA = np.array([0.2989, 0.587, 0.114])

_MARGIN_M = 1.2
_EDGE_M = 0.05
_DASH_WIDTH_M = 0.03
_DASH_M = 0.12
_GAP_M = 0.12
_FINEST_M = 0.005
_MOST_PIXELS = 12_000_000
_LEVELS = 6


@dataclasses.dataclass(frozen=True)
class Ground:
    """The ground in several sizes, each half of the one before, for the renderer to pick from.

    Attributes:
        quads: (P, C) uint32 of all sizes behind each other, rows from the lowest y, columns from the lowest x. Each
            holds a pixel, the one right of it, the one above, and the one above that on the right, in its bytes from
            the lowest: what is between them takes one load.
        sizes: (S, 3) int64: first pixel, rows and columns of each size.
        origin: x and y of the lowest corner, in meters.
        pixel_m: Side of a pixel of the first size, in meters.
        background: (C,) where there is no ground.
    """

    quads: NDArray[np.uint32]
    sizes: NDArray[np.int64]
    origin: NDArray[np.float64]
    pixel_m: float
    background: NDArray[np.float64]

    def in_gray(self) -> Ground:
        """Converts the ground to gray (luma)."""
        gray = np.zeros((len(self.quads), 1), np.uint32)
        for byte in range(0, 32, 8):
            gray[:, 0] |= ((self.quads >> byte & 255) @ LUMA).astype(np.uint32) << np.uint32(byte)
        return dataclasses.replace(self, quads=gray, background=self.background @ LUMA[:, None])


def draw_ground(track: Track) -> Ground:
    """Draws a track's surroundings, road, edges and center line, in color."""
    points = np.concatenate([track.outer, track.inner])
    low, high = points.min(axis=0) - _MARGIN_M, points.max(axis=0) + _MARGIN_M
    pixel_m = max(_FINEST_M, float(np.sqrt(np.prod(high - low) / _MOST_PIXELS)))
    width, height = (int(n) for n in np.ceil((high - low) / pixel_m))
    image = Image.new("RGB", (width, height), FIELD)
    draw = ImageDraw.Draw(image)

    def at(line: Line) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in (line - low) / pixel_m]

    draw_road(draw, track, at)
    for border in (track.inner, track.outer):
        inward = track.center - border
        inward *= _EDGE_M / np.maximum(np.linalg.norm(inward, axis=1, keepdims=True), 1e-9)
        for i in range(len(border) - 1):
            j = i + 1
            draw.polygon(at(np.array([border[i], border[j], border[j] + inward[j], border[i] + inward[i]])), fill=EDGE)
    for start in np.arange(0, track.length, _DASH_M + _GAP_M):
        dash = track.place(np.linspace(start, min(start + _DASH_M, track.length - 1e-6), 4))
        normal = np.stack([-np.sin(dash[:, 2]), np.cos(dash[:, 2])], axis=1) * _DASH_WIDTH_M / 2
        draw.polygon(at(np.concatenate([dash[:, :2] + normal, (dash[:, :2] - normal)[::-1]])), fill=DASH)
    return _with_sizes(image, low, pixel_m)


def draw_road(draw: Any, track: Track, at: Callable[[Line], list[tuple[float, float]]]) -> None:
    """Fills the road, and the field within it again; `at` turns meters into pixels."""
    if track.is_closed:
        rings = sorted((track.outer, track.inner), key=_area, reverse=True)
        draw.polygon(at(rings[0]), fill=ROAD)
        draw.polygon(at(rings[1]), fill=FIELD)
    else:
        draw.polygon(at(np.concatenate([track.outer, track.inner[::-1]])), fill=ROAD)


def _area(ring: Line) -> float:
    x, y = ring.T
    return abs(float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)))


def _with_sizes(image: Image.Image, origin: NDArray[np.float64], pixel_m: float) -> Ground:
    parts = []
    sizes = []
    first = 0
    for level in range(_LEVELS):
        if level:
            image = image.resize((max(2, image.width // 2), max(2, image.height // 2)), Image.Resampling.BOX)
        pixels = np.asarray(image, np.uint32).copy()
        pixels[[0, -1]] = pixels[:, [0, -1]] = SKY
        quads = pixels.copy()
        quads[:, :-1] |= pixels[:, 1:] << np.uint32(8)
        quads[:-1] |= pixels[1:] << np.uint32(16)
        quads[:-1, :-1] |= pixels[1:, 1:] << np.uint32(24)
        parts.append(quads.reshape(-1, 3))
        sizes.append((first, image.height, image.width))
        first += len(parts[-1])
    return Ground(
        np.asfortranarray(np.concatenate(parts)), np.array(sizes, np.int64), origin, pixel_m, np.array(SKY, np.float64)
    )


def random_light(random: np.random.Generator) -> NDArray[np.float64]:
    """Draws a light: (3,) brightness in red, green and blue, from its color and its distance."""
    return np.asarray(0.25 + random.uniform(0, 1, 3) * random.uniform(0.4, 1.2), np.float64)


def gray_under_light(light: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Computes (256,) gray values under a light: exact for the scenery's colors, interpolated between them."""
    palette = np.array([(0, 0, 0), SKY, ROAD, FIELD, DASH, EDGE], np.float64)
    lit = np.clip(palette * light, 0, 255)
    values = np.interp(np.arange(256), palette @ LUMA, lit @ LUMA)
    return np.asarray(np.clip(values, 0, 255), np.uint8)

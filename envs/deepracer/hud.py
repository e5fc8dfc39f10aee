"""The display over a race's video: who drives, lap, times, resets and speed; the map in a corner; the end."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Picture = NDArray[np.uint8]

_PANEL = (12, 16, 22)
_PANEL_SHARE = 0.62  # how much of a panel's color covers the picture
_TEXT = (245, 247, 250)
_LABEL = (168, 178, 190)
_WARNING = (255, 190, 60)
_MARGIN = 10
_ROW = 42
_LONGEST_NAME = 24


@dataclasses.dataclass(frozen=True)
class Standing:
    """What the display shows of a racer.

    Attributes:
        name: Name of the racer.
        color: Color of its car.
        lap: Number of the lap or trial, from 1.
        laps: Number of laps or trials; 0 if there is no end.
        time_s: Race time in seconds.
        resets: How often it was put back on the track.
        speed: Meters a second.
        note: What holds it up, as `off track`; empty while it drives.
    """

    name: str
    color: tuple[int, int, int]
    lap: int
    laps: int
    time_s: float
    resets: int
    speed: float
    note: str = ""


def draw_standings(picture: Picture, standings: Sequence[Standing]) -> None:
    """Draws a row for each racer into the upper left corner of a picture (H, W, 3)."""
    width = 396
    panel = _cut(picture, _MARGIN, _MARGIN, width, _ROW * len(standings))
    image = Image.fromarray(_darkened(panel))
    draw = ImageDraw.Draw(image)
    for number, standing in enumerate(standings):
        _draw_row(draw, standing, number * _ROW)
    panel[:] = np.asarray(image)


def _draw_row(draw: ImageDraw.ImageDraw, standing: Standing, top: int) -> None:
    draw.rectangle((0, top, 4, top + _ROW - 1), fill=standing.color)
    name = standing.name if len(standing.name) <= _LONGEST_NAME else standing.name[: _LONGEST_NAME - 1] + "…"
    draw.text((14, top + 4), name, fill=_TEXT, font=_font(13))
    state = standing.note or f"{standing.speed:.1f} m/s"
    draw.text((14, top + 22), state, fill=_WARNING if standing.note else _LABEL, font=_font(13))
    lap = f"{standing.lap}/{standing.laps}" if standing.laps else str(standing.lap)
    for left, label, value in (
        (190, "LAP", lap),
        (248, "TIME", as_clock(standing.time_s)),
        (338, "RESETS", str(standing.resets)),
    ):
        draw.text((left, top + 5), label, fill=_LABEL, font=_font(10))
        draw.text((left, top + 18), value, fill=_TEXT, font=_font(17))


def draw_inset(picture: Picture, inset: Image.Image) -> None:
    """Draws a small map (RGB) into the upper right corner of a picture (H, W, 3)."""
    corner = _cut(picture, picture.shape[1] - _MARGIN - inset.width, _MARGIN, inset.width, inset.height)
    drawn = np.asarray(inset, np.float32)
    # The map's own background lets the picture through.
    share = np.where((np.abs(drawn - np.array(_PANEL)).sum(axis=2, keepdims=True)) < 12, _PANEL_SHARE, 0.94)
    corner[:] = corner * (1 - share) + drawn * share


def draw_banner(picture: Picture, title: str, lines: Sequence[str], *, share: float) -> Picture:
    """Returns the picture (H, W, 3) darkened by a share from 0 to 1, with a title and lines, clear from a half on."""
    dark = (picture * (1 - 0.82 * share)).astype(np.uint8)
    written = Image.fromarray(dark)
    draw = ImageDraw.Draw(written)
    middle = written.width / 2
    top = written.height / 2 - 34 - 12 * len(lines)
    draw.text((middle, top), title, fill=_TEXT, font=_font(40), anchor="mm")
    for number, line in enumerate(lines):
        draw.text((middle, top + 46 + 24 * number), line, fill=_LABEL, font=_font(18), anchor="mm")
    shown = min(1.0, 2 * share)
    return np.asarray(dark * (1 - shown) + np.asarray(written, np.float32) * shown, np.uint8)


def as_clock(seconds: float) -> str:
    """Writes a time as minutes, seconds and hundredths: `0:16.07`."""
    hundredths = round(seconds * 100)
    return f"{hundredths // 6000}:{hundredths // 100 % 60:02d}.{hundredths % 100:02d}"


def _cut(picture: Picture, left: int, top: int, width: int, height: int) -> Picture:
    return picture[top : top + height, left : left + width]


def _darkened(panel: Picture) -> Picture:
    return np.asarray(panel * (1 - _PANEL_SHARE) + np.array(_PANEL) * _PANEL_SHARE, np.uint8)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)

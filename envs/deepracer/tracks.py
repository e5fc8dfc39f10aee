"""Tracks: the community's `.npy` waypoint files and four built-in ones, as lines in meters.

Source of the file format and of the load rules: DeepRacer's simulation application 6.0.5, `TrackData`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Line = NDArray[np.float64]

DEFAULT = "reinvent_base"
_SAME_M = 1e-9
_SPACING_M = 0.15
_MOST_WAYPOINTS = 20_000
_LEAST_EXTENT_M = 1.0
_MOST_EXTENT_M = 1000.0
_MOST_OFF_ROAD = 0.02  # of the waypoints; a published file may have one that is a little off

# Center lines through these points approximate the published tracks of the same name to 4.2 cm.
_CONTROL_POINTS: dict[str, tuple[float, list[tuple[float, float]]]] = {
    "reinvent_base": (
        0.762,
        [
            *((3.06, 0.68), (3.80, 0.68), (4.54, 0.68), (5.27, 0.68), (6.01, 0.68), (6.73, 0.81), (7.20, 1.35)),
            *((7.21, 2.07), (6.75, 2.63), (6.04, 2.77), (5.30, 2.77), (4.58, 2.89), (4.07, 3.40), (3.60, 3.98)),
            *((3.05, 4.45), (2.32, 4.49), (1.58, 4.47), (0.93, 4.18), (0.71, 3.50), (0.86, 2.78), (1.01, 2.06)),
            *((1.17, 1.34), (1.60, 0.78), (2.32, 0.67)),
        ],
    ),
    "reInvent2019_track": (
        1.067,
        [
            *((0.31, 2.83), (0.51, 1.89), (1.16, 1.22), (2.11, 1.28), (3.05, 1.23), (3.72, 0.55), (4.59, 0.19)),
            *((5.52, 0.40), (6.28, 0.99), (6.91, 1.71), (7.46, 2.50), (7.90, 3.36), (8.23, 4.26), (8.34, 5.21)),
            *((7.78, 5.94), (6.85, 6.15), (5.89, 6.08), (5.02, 5.69), (4.50, 4.89), (4.03, 4.08), (3.10, 3.84)),
            *((2.20, 4.13), (1.26, 4.27), (0.48, 3.76)),
        ],
    ),
}
BUILT_IN = (*_CONTROL_POINTS, "oval", "straight")


class TrackError(ValueError):
    """A track does not exist, or its file holds no track."""


@dataclasses.dataclass(frozen=True)
class Track:
    """A road: three lines of the same number of points, in driving order.

    Attributes:
        name: Name in listings and file names.
        center: (N, 2) meters; the last point repeats the first one if the track is closed.
        inner: (N, 2) border.
        outer: (N, 2) border.
        is_reversed: Whether it is driven in the reverse order of its file.
    """

    name: str
    center: Line
    inner: Line
    outer: Line
    is_reversed: bool = False

    @cached_property
    def is_closed(self) -> bool:
        """Whether the last point is the first one."""
        return bool(np.linalg.norm(self.center[0] - self.center[-1]) <= _SAME_M)

    @cached_property
    def distances(self) -> NDArray[np.float64]:
        """(N,) meters along the center line from its first point."""
        steps = np.linalg.norm(np.diff(self.center, axis=0), axis=1)
        return np.concatenate([[0.0], np.cumsum(steps)])

    @property
    def length(self) -> float:
        """Length of the center line in meters."""
        return float(self.distances[-1])

    @cached_property
    def is_counter_clockwise(self) -> bool:
        """Whether the center line runs counter-clockwise in file order, independent of the driving direction.

        An open track counts as counter-clockwise, as in the original simulator: its inner border is on the left.
        """
        if not self.is_closed:
            return True
        x, y = (self.reversed() if self.is_reversed else self).center.T
        return float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) > 0

    @cached_property
    def waypoints(self) -> list[tuple[float, float]]:
        """Points of the center line, as reward functions get them."""
        return [(float(x), float(y)) for x, y in self.center]

    def reversed(self) -> Track:
        """Returns the same road driven the other way."""
        center, inner, outer = (np.ascontiguousarray(line[::-1]) for line in (self.center, self.inner, self.outer))
        return Track(self.name, center, inner, outer, is_reversed=not self.is_reversed)

    def lane(self, *, is_inner: bool) -> Line:
        """Returns the (N, 2) middle of the inner or the outer lane."""
        return (self.center + (self.inner if is_inner else self.outer)) / 2

    def place(self, distances: NDArray[np.float64] | float, line: Line | None = None) -> NDArray[np.float64]:
        """Returns points on a line (x, y in meters) and the center line's yaw there (radians).

        Args:
            distances: (...) meters from the start; beyond the end of a closed track they go round.
            line: (N, 2); the center line if None.

        Returns:
            (..., 3) meters, meters, radians.
        """
        line = self.center if line is None else line
        wanted = np.asarray(distances, np.float64)
        wanted = wanted % self.length if self.is_closed else np.clip(wanted, 0.0, self.length)
        after = np.clip(np.searchsorted(self.distances, wanted, side="right"), 1, len(self.center) - 1)
        before = after - 1
        share = (wanted - self.distances[before]) / (self.distances[after] - self.distances[before])
        points = line[before] + share[..., None] * (line[after] - line[before])
        ahead = self.center[after] - self.center[before]
        return np.concatenate([points, np.arctan2(ahead[..., 1:], ahead[..., :1])], axis=-1)


def load_track(name: str | Path, folders: Sequence[Path] = ()) -> Track:
    """Loads a track by the name of a built-in one, the name of a file in one of the folders, or the path of a file.

    A published file wins over the built-in approximation of its name.

    Raises:
        TrackError: There is none, or the file is not one.
    """
    if not isinstance(name, str | Path):
        raise TrackError(f"track: got {name!r}; expected a name, or the path of a .npy file.")
    for folder in folders:
        if not folder.is_dir():
            raise TrackError(f"tracks: got {str(folder)!r}; expected a folder of .npy files.")
    name = str(name)
    stem = name.removesuffix(".npy")
    for path in (Path(name), *(folder / f"{stem}.npy" for folder in folders)):
        if path.suffix == ".npy" and path.is_file():
            return read_track(path)
    if stem in BUILT_IN:
        return _make_built_in(stem)
    found = sorted({path.stem for folder in folders for path in folder.glob("*.npy")})
    where = f" and in {', '.join(map(str, folders))}: {', '.join(found) or 'none'}" if folders else ""
    raise TrackError(
        f"track: got {name!r}; expected one of {', '.join(BUILT_IN)}{where}; or the path of a .npy file with a row "
        "of center, inner and outer x and y for each waypoint."
    )


def load_tracks(names: str | Path | Sequence[str], folders: Sequence[Path] = ()) -> list[Track]:
    """Loads a track, or several.

    Args:
        names: As of `load_track`; several as a list, or in one string with commas; `all` for every closed built-in one
            and every closed one in the folders.
        folders: Folders of `.npy` files.

    Raises:
        TrackError: None is named, or some are not there; the message has a line for each.
    """
    if names == "all":
        files = (path.stem for folder in folders if folder.is_dir() for path in sorted(folder.glob("*.npy")))
        found = [load_track(name, folders) for name in dict.fromkeys((*BUILT_IN, *files))]
        return [track for track in found if track.is_closed]
    listed: Sequence[str | Path]
    if isinstance(names, str):
        listed = [name.strip() for name in names.split(",")]
    else:
        listed = names if isinstance(names, list | tuple) else [names]  # type: ignore[list-item]  # refused below
    tracks, wrong = [], []
    for i, name in enumerate(listed):
        try:
            if name not in listed[:i]:
                tracks.append(load_track(name, folders))
        except TrackError as error:
            wrong.append(str(error))
    if wrong or not tracks:
        raise TrackError("\n".join(wrong) or f"track: got {names!r}; expected at least one track.")
    return tracks


def read_track(path: Path) -> Track:
    """Reads a track from its file; rows that repeat the previous center point are dropped, but for the closing one.

    Raises:
        TrackError: The file holds no track.
    """
    try:
        rows = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, MemoryError) as error:
        raise TrackError(f"{path}: got a file that NumPy cannot read ({error}); expected a track's .npy.") from None
    is_table = isinstance(rows, np.ndarray) and rows.ndim == 2 and rows.dtype.kind in "fiu"
    if not is_table or rows.shape[1] < 6:
        raise TrackError(
            f"{path}: got {getattr(rows, 'dtype', type(rows))} of shape {getattr(rows, 'shape', None)}; expected "
            "numbers in 6 columns: x and y of the center line, of the inner border, and of the outer one."
        )
    if not 3 <= len(rows) <= _MOST_WAYPOINTS:
        raise TrackError(f"{path}: got {len(rows)} rows; expected 3 to {_MOST_WAYPOINTS:,} waypoints.")
    rows = np.asarray(rows[:, :6], np.float64)
    if not np.isfinite(rows).all():
        broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        raise TrackError(f"{path}: got numbers that are not finite in row {broken[0]}; expected meters.")
    is_new = np.append(True, np.linalg.norm(np.diff(rows[:, :2], axis=0), axis=1) > _SAME_M)
    rows = rows[is_new]
    if len(rows) < 3:
        raise TrackError(f"{path}: got {len(rows)} different waypoints; expected at least 3.")
    extent = float(np.ptp(rows.reshape(-1, 3, 2), axis=(0, 1)).max())
    if not _LEAST_EXTENT_M <= extent <= _MOST_EXTENT_M:
        raise TrackError(
            f"{path}: got a track that reaches over {extent:.4g} m; expected {_LEAST_EXTENT_M:g} to "
            f"{_MOST_EXTENT_M:g}. Are its numbers meters?"
        )
    track = _from_rows(path.stem, rows)
    if (off := _off_road(track)).mean() > _MOST_OFF_ROAD:
        raise TrackError(
            f"{path}: got a center line that is not on the road at {off.sum()} of {len(off)} waypoints, first in "
            f"row {int(np.flatnonzero(off)[0])}; expected a border on each side of it, and a road that does not cross "
            "itself."
        )
    return track


def _off_road(track: Track) -> NDArray[np.bool_]:
    """Returns (N,) whether each point of the center line is off the road, or where the road crosses itself.

    On a closed track such a point lies in both borders' rings or in neither, on an open one outside the ring of both
    or twice in it; an open track's ends lie on the ring, and are never off.
    """
    rings = [track.inner, track.outer] if track.is_closed else [np.concatenate([track.inner, track.outer[::-1]])]
    off = np.zeros(len(track.center), np.bool_)
    ends = 0 if track.is_closed else 1
    for i in range(ends, len(off) - ends):
        x, y = track.center[i]
        crossings = 0
        for ring in rings:
            begin, end = ring, np.roll(ring, -1, axis=0)
            sides = (begin[:, 1] > y) != (end[:, 1] > y)
            (ax, ay), (bx, by) = begin[sides].T, end[sides].T
            crossings += int((x < ax + (y - ay) / (by - ay) * (bx - ax)).sum())
        off[i] = crossings % 2 == 0
    return off


def _from_rows(name: str, rows: Line) -> Track:
    center, inner, outer = (np.ascontiguousarray(rows[:, i : i + 2]) for i in (0, 2, 4))
    return Track(name, center, inner, outer)


def _make_built_in(name: str) -> Track:
    if name == "straight":
        x = np.linspace(0, 6, 41)
        return _from_rows(name, np.stack([x, 0 * x, x, 0 * x + 0.35, x, 0 * x - 0.35], axis=1))
    if name == "oval":
        return _from_rows(name, _with_borders(_oval(), 0.8))
    width, points = _CONTROL_POINTS[name]
    closed = np.array([*points, points[0]])
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(closed, axis=0), axis=1))])
    spline = CubicSpline(lengths, closed, bc_type="periodic")
    rows = spline(np.linspace(0, lengths[-1], round(lengths[-1] / _SPACING_M) + 1))
    rows[-1] = rows[0]
    return _from_rows(name, _with_borders(rows, width))


def _oval(straight_m: float = 4.0, radius_m: float = 1.5) -> Line:
    """Makes a counter-clockwise oval that starts in the middle of the lower straight."""
    half = np.linspace(-np.pi / 2, np.pi / 2, round(np.pi * radius_m / _SPACING_M) + 1)
    x = np.linspace(0, straight_m / 2, round(straight_m / 2 / _SPACING_M) + 1)
    bend = np.stack([straight_m / 2 + radius_m * np.cos(half), radius_m * (1 + np.sin(half))], axis=1)
    first = np.concatenate([np.stack([x, 0 * x], axis=1), bend[1:]])
    second = np.stack([0.0, 2 * radius_m]) - first  # the same, turned by half a circle
    closing = np.stack([np.linspace(straight_m / 2, 0, len(x))[1:], np.full(len(x) - 1, 2 * radius_m)], axis=1)
    back = np.stack([0.0, 2 * radius_m]) - closing
    points = np.concatenate([first, closing, second[1:], back])
    return np.asarray(points + np.array([3.0, 0.5]))


def _with_borders(center: Line, width: float) -> Line:
    """Adds the borders to a closed counter-clockwise center line, as (N, 6) rows; the inner one is on its left."""
    ahead = np.roll(center[:-1], -1, axis=0)
    behind = np.roll(center[:-1], 1, axis=0)
    along = (ahead - behind) / np.linalg.norm(ahead - behind, axis=1, keepdims=True)
    left = np.stack([-along[:, 1], along[:, 0]], axis=1) * width / 2
    left = np.concatenate([left, left[:1]])
    return np.concatenate([center, center + left, center - left], axis=1)

"""The pace of a training, and a forecast of when it ends."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_COUNTED = ("timesteps_total", "training_iteration", "episodes_total")
_RETURN = "episode_reward_mean"
_PACE_OVER_S = 60.0
_MOST_POINTS = 1024
_FEWEST_POINTS = 20  # of a trend
_LEAST_FIT = 0.7  # correlation of returns and time, in a trend


@dataclass(frozen=True)
class Forecast:
    """The time until a training ends.

    Attributes:
        seconds: From the latest row on.
        criterion: The stop criterion that is met first.
        is_trend: Whether it continues the trend of the return, and not a count that rises steadily.
    """

    seconds: float
    criterion: str
    is_trend: bool = False


class Progress:
    """Measures a training's pace over its last minute, and forecasts its end.

    Args:
        stop: Stop criteria by name.
        scores: Names of the metrics that are a return, the first of a row counting.
    """

    def __init__(self, stop: Mapping[str, float], *, scores: Sequence[str] = (_RETURN,)) -> None:
        self._stop = stop
        self._scores = scores
        self._recent: deque[Mapping[str, float]] = deque()
        self._points: list[tuple[float, float]] = []
        self._best: float | None = None

    @property
    def returns(self) -> list[float]:
        """Mean returns so far, thinned out evenly where there are thousands; the newest is always there."""
        return [value for _, value in self._points]

    @property
    def best(self) -> float | None:
        """Highest mean return so far."""
        return self._best

    def add_earlier(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Adds rows of the job before it was resumed; their pace does not count."""
        for row in rows:
            self._add_return(row)

    def add(self, row: Mapping[str, float]) -> None:
        """Adds the metrics of an iteration."""
        self._add_return(row)
        self._recent.append(row)
        # Two rows at least, however long an iteration takes.
        while len(self._recent) > 2 and row["time_total_s"] - self._recent[1]["time_total_s"] > _PACE_OVER_S:
            self._recent.popleft()

    def _add_return(self, row: Mapping[str, float]) -> None:
        value = next((row[name] for name in self._scores if name in row), None)
        if value is None:
            return
        self._best = value if self._best is None else max(self._best, value)
        kept = self._points if len(self._points) < _MOST_POINTS else self._points[::2]
        self._points = [*kept, (row["time_total_s"], value)]  # in one step, as the display's thread reads it

    def per_second(self, name: str) -> float | None:
        """Returns how fast a count rises; None until that is known."""
        recent = list(self._recent)
        if not recent:
            return None
        first, last = recent[0], recent[-1]
        if len(recent) == 1:
            if last.get("training_iteration") != 1:  # of a resumed job, whose counts began before its clock
                return None
            first = {name: 0.0, "time_total_s": 0.0}
        seconds = last["time_total_s"] - first["time_total_s"]
        return (last.get(name, 0.0) - first.get(name, 0.0)) / seconds if seconds > 0 else None

    def forecast(self) -> Forecast | None:
        """Forecasts which stop criterion is met first, and when; None where nothing says so, or one is met."""
        if not self._recent:
            return None
        row = self._recent[-1]
        if any(row.get(name, -math.inf) >= limit for name, limit in self._stop.items()):
            return None
        found = []
        for name, limit in self._stop.items():
            if name == "time_total_s":
                found.append(Forecast(limit - row[name], name))
            elif name in _COUNTED and (pace := self.per_second(name)):
                found.append(Forecast((limit - row.get(name, 0.0)) / pace, name))
            elif name == _RETURN and (seconds := self._seconds_to_return(limit)) is not None:
                found.append(Forecast(seconds, name, is_trend=True))
        return min(found, key=lambda one: one.seconds, default=None)

    def _seconds_to_return(self, goal: float) -> float | None:
        """Extrapolates the return of the later half of the training.

        It is no forecast but where the return has risen through all of that time, in either half of it too, and where
        the goal is no further ahead than that time is long.
        """
        end = self._points[-1][0] if self._points else 0.0
        points = [point for point in self._points if point[0] >= end / 2]
        middle = len(points) // 2
        if len(points) < _FEWEST_POINTS:
            return None
        slopes = [_slope(part) for part in (points[:middle], points[middle:], points)]
        if any(slope is None or slope <= 0 for slope in slopes):
            return None
        times, values = zip(*points, strict=True)
        if statistics.correlation(times, values) < _LEAST_FIT:
            return None
        slope, start = statistics.linear_regression(times, values)
        seconds = (goal - start) / slope - end
        return seconds if 0 < seconds <= end - points[0][0] else None


def _slope(points: Sequence[tuple[float, float]]) -> float | None:
    times, values = zip(*points, strict=True)
    try:
        return statistics.linear_regression(times, values).slope
    except statistics.StatisticsError:  # of one time alone
        return None

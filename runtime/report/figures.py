"""The data of a page's charts; the browser draws them (templates/charts.js), so that values can be read off."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from runtime.outputs.learning_curve import SMOOTH_FROM, is_near, smooth
from runtime.tuning.records import Trial
from runtime.tuning.request import TuningJob

# A line; a thin one, of what another smooths; the edge of a band; where only some runs continued; the goal; dots;
# a line that keeps its last value.
Style = Literal["line", "thin", "edge", "rest", "goal", "dots", "steps"]
Column = Sequence[float | None]

_MOST_POINTS = 1_000  # of a line; more are not visible and slow down the page
# Metrics without a small chart: counters, and those of the learning curve.
_LEFT_OUT = {
    *("training_iteration", "episodes_total", "time_total_s", "timesteps_total", "updates", "steps_per_second"),
    *("episode_reward_mean", "episode_reward_max", "episode_reward_min", "estimated_return"),
}
# In this order where they are there; the rest follow by name.
_FIRST = ("total_loss", "policy_loss", "vf_loss", "kl", "entropy", "vf_explained_var", "loss", "cur_lr")
_MOST_SMALL = 12
# A chart's horizontal axis: the first of these that the rows have.
_AXES = {
    "timesteps_total": "environment steps",
    "updates": "gradient updates",
    "training_iteration": "iteration",
}
_WORDS = {
    "vf_loss": "value loss",
    "vf_explained_var": "explained variance",
    "kl": "KL divergence",
    "cur_lr": "learning rate",
    "grad_norm": "gradient norm",
    "episode_len_mean": "mean episode length",
}
_UNITS = {"steps_per_second": "steps/s", "episode_len_mean": "steps", "kl": "nats", "entropy": "nats"}


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes:
        label: Name in the legend.
        values: Value at each x; None where there is none.
        style: How it is drawn.
        color: Index of its color.
    """

    label: str
    values: Column
    style: Style = "line"
    color: int = 0


@dataclass(frozen=True)
class Plot:
    """Lines over one horizontal axis.

    Attributes:
        x_label: Name and unit of the horizontal axis.
        x: Its values, ascending.
        series: The lines; edges of a band come in pairs, the upper one first.
    """

    x_label: str
    x: Column
    series: Sequence[Series]

    def as_json(self) -> dict[str, Any]:
        """For charts.js; what is not finite becomes null, and the rest is rounded to six digits."""
        return {
            "x": self.x_label,
            "columns": [_rounded(column) for column in (self.x, *(one.values for one in self.series))],
            "series": [{"label": one.label, "style": one.style, "color": one.color} for one in self.series],
        }


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: Above it.
        y_label: Name and unit of the vertical axis.
        alt: Text for those who do not see it: from which value to which.
        plots: What it shows; of several, the page lets its reader choose one by its horizontal axis.
        note: A remark below it.
        has_spread: Whether its last two lines are the ends of whiskers.
    """

    title: str
    y_label: str
    alt: str
    plots: Sequence[Plot]
    note: str = ""
    has_spread: bool = False

    def as_json(self) -> dict[str, Any]:
        """For charts.js."""
        return {"y": self.y_label, "spread": self.has_spread, "plots": [plot.as_json() for plot in self.plots]}


def _rounded(column: Column) -> list[float | None]:
    found: list[float | None] = []
    for value in column:
        if value is None or not math.isfinite(value):
            found.append(None)
        else:
            found.append(value if isinstance(value, int) else float(f"{value:.6g}"))
    return found


def thin(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Thins rows to at most a thousand, the last one included."""
    if len(rows) <= _MOST_POINTS:
        return list(rows)
    return [rows[int(place)] for place in np.linspace(0, len(rows) - 1, _MOST_POINTS)]


def with_speed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Adds to each row the steps per second since the one before, if both count steps and seconds."""
    found = []
    before: Mapping[str, Any] = {"timesteps_total": 0, "time_total_s": 0.0}
    for row in rows:
        seconds = row.get("time_total_s", 0.0) - before.get("time_total_s", 0.0)
        steps = row.get("timesteps_total", 0) - before.get("timesteps_total", 0)
        found.append({**row, **({"steps_per_second": steps / seconds} if seconds > 0 and steps > 0 else {})})
        before = row
    return found


def chart_curve(rows: Sequence[Mapping[str, Any]], goal: float | None) -> Chart | None:
    """Charts the learning curve; returns None before the first episode has ended.

    Args:
        rows: Rows of metrics.jsonl.
        goal: Mean return that the job was to stop at. One far from all returns is named instead of drawn, as it would
            flatten the curve.
    """
    scored = [row for row in rows if "episode_reward_mean" in row]
    if not scored:
        return None
    means = [row["episode_reward_mean"] for row in scored]
    smoothed = smooth_returns(means)
    kept = [int(place) for place in np.linspace(0, len(scored) - 1, min(len(scored), _MOST_POINTS))]
    shown = [scored[at] for at in kept]
    lows = [row.get("episode_reward_min", row["episode_reward_mean"]) for row in shown]
    highs = [row.get("episode_reward_max", row["episode_reward_mean"]) for row in shown]
    series = [
        Series("highest", highs, "edge"),
        Series("lowest", lows, "edge"),
        Series("mean", [means[at] for at in kept], "line" if smoothed is None else "thin"),
    ]
    if smoothed is not None:
        series.append(Series("smoothed mean", [smoothed[at] for at in kept]))
    note = ""
    if goal is not None and is_near(goal, [*lows, *highs]):
        series.append(Series("goal", [goal] * len(shown), "goal"))
    elif goal is not None:
        note = f"The goal, a mean return of {goal:g}, is outside this chart."
    x_label, x = _x_axis(shown)
    alt = f"Mean return over {x_label}: from {_short(means[0])} to {_short(means[-1])}, highest {_short(max(means))}"
    return Chart("", "episode return", alt, [Plot(x_label, x, series)], note)


def smooth_returns(means: Sequence[float]) -> list[float] | None:
    """Smooths mean returns; returns None where there are too few to be noisy."""
    return smooth(means) if len(means) >= SMOOTH_FROM else None


def _x_axis(rows: Sequence[Mapping[str, Any]]) -> tuple[str, Column]:
    """Returns name and values of the horizontal axis."""
    name = next(name for name in _AXES if all(name in row for row in rows))
    return _AXES[name], [row[name] for row in rows]


def small_metrics(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the names of the metrics beside the return: losses, KL, entropy, steps per second."""
    known = {name for row in rows for name, value in row.items() if isinstance(value, int | float)} - _LEFT_OUT
    first = ["steps_per_second"] if any("steps_per_second" in row for row in rows) else []
    return [*first, *(name for name in _FIRST if name in known), *sorted(known - set(_FIRST))][:_MOST_SMALL]


def small_charts(rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Charts each further metric over the same horizontal axis."""
    rows = thin(with_speed(rows))
    if not rows:
        return []
    x_label, x = _x_axis(rows)
    charts = []
    for name in small_metrics(rows):
        values = [row.get(name) for row in rows]
        finite = [value for value in values if value is not None and math.isfinite(value)]
        alt = f"{words_of(name)} over {x_label}: "
        alt += f"from {_short(min(finite))} to {_short(max(finite))}, last {_short(finite[-1])}" if finite else "none"
        plot = Plot(x_label, x, [Series(words_of(name), values)])
        charts.append(Chart(words_of(name), unit_of(name), alt, [plot]))
    return charts


def words_of(name: str) -> str:
    """Returns a metric's name in words."""
    return _WORDS.get(name, name.replace("_", " "))


def unit_of(name: str) -> str:
    """Returns a metric's unit; empty for one without."""
    return _UNITS.get(name, "")


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def chart_trials(job: TuningJob, trials: Sequence[Trial]) -> Chart | None:
    """Charts each trial's objective, with its standard deviation over seeds, and the best so far."""
    scored = sorted((trial for trial in trials if trial.objective is not None), key=lambda trial: trial.number)
    if not scored:
        return None
    pick = max if job.maximize else min
    best: list[float | None] = []
    for trial in scored:
        latest = [value for value in (*best[-1:], trial.objective) if value is not None]
        best.append(pick(latest) if trial.state == "completed" else next(iter(best[-1:]), None))
    series = [
        Series("best so far", best, "steps", 1),
        Series("ran to its end", [trial.objective if trial.state == "completed" else None for trial in scored], "dots"),
        Series("stopped early", [trial.objective if trial.state == "stopped" else None for trial in scored], "dots", 7),
    ]
    spreads = [(trial.objective or 0.0, trial.spread) for trial in scored]
    has_spread = any(spread is not None for _, spread in spreads)
    if has_spread:
        series += [
            Series("one standard deviation above", [None if s is None else mean + s for mean, s in spreads], "edge"),
            Series("below", [None if s is None else mean - s for mean, s in spreads], "edge"),
        ]
    last = next((value for value in reversed(best) if value is not None), None)
    alt = f"{job.objective} of {len(scored)} trials" + ("" if last is None else f"; the best is {_short(last)}")
    plot = Plot("trial", [trial.number for trial in scored], series)
    return Chart("", job.objective, alt, [plot], has_spread=has_spread)


def align(lines: Sequence[Sequence[tuple[float, float]]]) -> tuple[list[float], list[Column]]:
    """Puts lines of different x on one horizontal axis.

    Args:
        lines: Points (x, y) of each line.

    Returns:
        All x that any line has, ascending, and each line's y there, None where it has no point.
    """
    x = sorted({at for line in lines for at, _ in line})
    found: list[Column] = []
    for line in lines:
        values = dict(line)
        found.append([values.get(at) for at in x])
    return x, found


def colors() -> itertools.cycle[int]:
    """The indices of the colors of lines that are told apart, from the first on."""
    return itertools.cycle(range(8))

"""The report's figures, as SVG text: they stay sharp, and a browser shows them without a network."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.outputs.learning_curve import BLUE, RED, draw_learning_curve
from runtime.tuning.records import Trial
from runtime.tuning.request import TuningJob

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_POINTS = 1_000  # of a line; more are not visible and slow down the page
_COLOURS = ("#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#9d755d", "#eeca3b")
# Metrics without a small curve: counters, and those of the learning curve.
_LEFT_OUT = {
    *("training_iteration", "episodes_total", "time_total_s", "timesteps_total", "updates", "steps_per_second"),
    *("episode_reward_mean", "episode_reward_max", "episode_reward_min", "estimated_return"),
}
# In this order where they are there; the rest follow by name.
_FIRST = ("total_loss", "policy_loss", "vf_loss", "kl", "entropy", "vf_explained_var", "loss", "cur_lr")
_MOST_SMALL = 12


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


def draw_curve(rows: Sequence[Mapping[str, Any]], goal: float | None) -> str | None:
    """Draws the learning curve; returns None before the first episode has ended."""
    scored = [row for row in rows if "episode_reward_mean" in row]
    if not scored:
        return None
    figure = _new_figure(9, 4)
    draw_learning_curve(figure.add_subplot(), thin(scored), goal=goal)
    return _as_svg(figure)


@dataclass(frozen=True)
class SmallChart:
    """The line of one metric over the iterations, for a template that draws it as SVG.

    Attributes:
        name: Name of the metric.
        points: Points of the line as `x,y x,y …`, x from 0 to 100 and y from 0 (the highest value) to 100.
        high: The highest value, as text.
        low: The lowest value, as text.
        last: The last value, as text.
        first_iteration: Iteration of the first point.
        last_iteration: Iteration of the last point.
    """

    name: str
    points: str
    high: str
    low: str
    last: str
    first_iteration: int
    last_iteration: int


def small_charts(rows: Sequence[Mapping[str, Any]]) -> list[SmallChart]:
    """Computes a small chart for each further metric: losses, KL, entropy, steps per second.

    A dozen of Matplotlib's axes would take a job two seconds of CPU time; these take none.
    """
    rows = thin(with_speed(rows))
    known = {name for row in rows for name, value in row.items() if isinstance(value, int | float)} - _LEFT_OUT
    first = ["steps_per_second"] if any("steps_per_second" in row for row in rows) else []
    names = [*first, *(name for name in _FIRST if name in known), *sorted(known - set(_FIRST))][:_MOST_SMALL]
    return [
        _small_chart(name, [(row["training_iteration"], row[name]) for row in rows if name in row]) for name in names
    ]


def _small_chart(name: str, points: Sequence[tuple[int, float]]) -> SmallChart:
    iterations = [iteration for iteration, _ in points]
    values = [value for _, value in points if math.isfinite(value)]
    low, high = min(values, default=0.0), max(values, default=0.0)
    width, height = max(iterations[-1] - iterations[0], 1), high - low
    places = [
        (100 * (iteration - iterations[0]) / width, 100 * (high - value) / height if height else 50.0)
        for iteration, value in points
        if math.isfinite(value)
    ]
    return SmallChart(
        name.replace("_", " "),
        " ".join(f"{x:.4g},{y:.4g}" for x, y in places),
        high=_short(high),
        low=_short(low),
        last=_short(points[-1][1]),
        first_iteration=iterations[0],
        last_iteration=iterations[-1],
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:.4g}"


def draw_comparison(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """Draws the learning curves of several runs in one picture."""
    figure = _new_figure(9, 4.5)
    axes = figure.add_subplot()
    drawn = False
    for color, (name, rows) in zip(itertools.cycle(_COLOURS), runs.items(), strict=False):
        scored = thin([row for row in rows if "episode_reward_mean" in row])
        if scored:
            draw_learning_curve(axes, scored, goal=None, label=name, color=color)
            drawn = True
    return _as_svg(figure) if drawn else None


def draw_trials(job: TuningJob, trials: Sequence[Trial]) -> str | None:
    """Each trial's objective, with its spread over seeds, and the best so far."""
    scored = [trial for trial in trials if trial.objective is not None]
    if not scored:
        return None
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(9, 3.6)
    axes = figure.add_subplot()
    for state, color in (("completed", BLUE), ("stopped", "#bbbbbb")):
        ended = [trial for trial in scored if trial.state == state]
        spread = [trial.spread or 0.0 for trial in ended]
        places = [trial.number for trial in ended]
        values = [trial.objective or 0.0 for trial in ended]
        label = "ran to its end" if state == "completed" else "stopped early"
        axes.errorbar(
            places, values, spread, fmt="o", color=color, markersize=5, capsize=3, label=label if ended else None
        )
    pick = max if job.maximize else min
    values = [trial.objective or 0.0 for trial in scored if trial.state == "completed"]
    if values:
        places = [trial.number for trial in scored if trial.state == "completed"]
        axes.step(places, list(itertools.accumulate(values, pick)), where="post", color=RED, label="best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel(job.objective)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return _as_svg(figure)


def _new_figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _as_svg(figure: Figure) -> str:
    import matplotlib

    text = io.StringIO()
    # Text stays text, which is small and can be searched; a fixed salt makes equal pictures equal bytes.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "smrl", "font.family": "sans-serif"}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()

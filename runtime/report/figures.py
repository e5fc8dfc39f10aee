"""The report's figures, as SVG text: they stay sharp, and a browser shows them without a network."""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence
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
    """At most a thousand rows, the last one among them."""
    if len(rows) <= _MOST_POINTS:
        return list(rows)
    return [rows[int(place)] for place in np.linspace(0, len(rows) - 1, _MOST_POINTS)]


def with_speed(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows with the steps per second since the one before, where both count steps and seconds."""
    found = []
    before: Mapping[str, Any] = {"timesteps_total": 0, "time_total_s": 0.0}
    for row in rows:
        seconds = row.get("time_total_s", 0.0) - before.get("time_total_s", 0.0)
        steps = row.get("timesteps_total", 0) - before.get("timesteps_total", 0)
        found.append({**row, **({"steps_per_second": steps / seconds} if seconds > 0 and steps > 0 else {})})
        before = row
    return found


def draw_curve(rows: Sequence[Mapping[str, Any]], goal: float | None) -> str | None:
    """The learning curve; None before the first episode has ended."""
    scored = [row for row in rows if "episode_reward_mean" in row]
    if not scored:
        return None
    figure = _new_figure(9, 4)
    draw_learning_curve(figure.add_subplot(), thin(scored), goal=goal)
    return _as_svg(figure)


def draw_small(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """A small curve for each further metric: losses, KL, entropy, steps per second."""
    rows = thin(with_speed(rows))
    known = {name for row in rows for name, value in row.items() if isinstance(value, int | float)} - _LEFT_OUT
    first = ["steps_per_second"] if any("steps_per_second" in row for row in rows) else []
    names = [*first, *(name for name in _FIRST if name in known), *sorted(known - set(_FIRST))][:_MOST_SMALL]
    if not names:
        return None
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    figure = _new_figure(11, 1.9 * lines)
    for axes, name in itertools.zip_longest(figure.subplots(lines, columns, squeeze=False).ravel(), names):
        if name is None:
            axes.set_visible(False)
            continue
        points = [(row["training_iteration"], row[name]) for row in rows if name in row]
        axes.plot(*zip(*points, strict=True), color=BLUE, linewidth=1.2, marker="." if len(points) == 1 else "")
        axes.set_title(name.replace("_", " "), fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return _as_svg(figure)


def draw_comparison(runs: Mapping[str, Sequence[Mapping[str, Any]]]) -> str | None:
    """The learning curves of several runs in one picture."""
    figure = _new_figure(9, 4.5)
    axes = figure.add_subplot()
    drawn = False
    for colour, (name, rows) in zip(itertools.cycle(_COLOURS), runs.items(), strict=False):
        scored = thin([row for row in rows if "episode_reward_mean" in row])
        if scored:
            draw_learning_curve(axes, scored, goal=None, label=name, color=colour)
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
    for state, colour in (("completed", BLUE), ("stopped", "#bbbbbb")):
        ended = [trial for trial in scored if trial.state == state]
        spread = [trial.spread or 0.0 for trial in ended]
        places, values = [trial.number for trial in ended], [trial.objective or 0.0 for trial in ended]
        label = "ran to its end" if state == "completed" else "stopped early"
        axes.errorbar(
            places, values, spread, fmt="o", color=colour, markersize=5, capsize=3, label=label if ended else None
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

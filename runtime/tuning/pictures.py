"""Plots of a tuning: hyperparameter importance, and parallel coordinates of all trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.tuning.display import short_name, show_value
from runtime.tuning.records import Trial
from runtime.tuning.request import TuningJob

if TYPE_CHECKING:
    from matplotlib.axes import Axes

IMPORTANCE = "importance.png"
PARALLEL = "parallel_coordinates.png"
_BLUE = "#4c78a8"
_GREY = "#999999"


def draw_importance(axes: Axes, importances: Mapping[str, float]) -> None:
    """Draws a bar for each hyperparameter: its share of the objective's variance."""
    order = sorted(importances.items(), key=lambda item: item[1])
    bars = axes.barh([short_name(name) for name, _ in order], [share for _, share in order], color=_BLUE)
    axes.bar_label(bars, fmt="{:.0%}", padding=3)
    axes.set_xlim(0, 1.1 * max(importances.values()))
    axes.set_xlabel("share of the objective's variation (fANOVA)")
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    axes.spines[["top", "right"]].set_visible(False)


def draw_parallel(axes: Axes, job: TuningJob, trials: Sequence[Trial], best: Trial | None) -> None:
    """Draws one line per trial through its hyperparameters to its objective; the best trial is highlighted.

    Each axis is as the search sees it, so that a logarithmic range has its decades at equal lengths.
    """
    from matplotlib import colormaps

    scored = [trial for trial in trials if trial.objective is not None]
    low, high = min(trial.objective or 0 for trial in scored), max(trial.objective or 0 for trial in scored)
    colors = colormaps["viridis"]
    places = range(len(job.ranges) + 1)
    for trial in sorted(scored, key=lambda one: (one is best, one.objective or 0)):
        share = ((trial.objective or 0) - low) / ((high - low) or 1)
        heights = [one.place(trial.hyperparameters[one.name]) for one in job.ranges] + [share]
        is_best = trial is best
        color = "#d62728" if is_best else colors(share if job.maximize else 1 - share)
        axes.plot(places, heights, color=color, linewidth=2.5 if is_best else 1, alpha=1 if is_best else 0.6)
    for place, one in enumerate(job.ranges):
        _draw_scale(axes, place, [(one.place(value), value) for value in _ticks(one)])
    _draw_scale(axes, len(job.ranges), [(0.0, low), (1.0, high)])
    axes.set_xticks(list(places), [*(short_name(one.name) for one in job.ranges), job.objective])
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    axes.spines[["top", "right", "left", "bottom"]].set_visible(False)


def _ticks(one: Any) -> list[Any]:
    if one.kind == "categorical":
        return list(one.values)
    return [one.low, one.high] if one.high > one.low else [one.low]


def _draw_scale(axes: Axes, place: int, ticks: Sequence[tuple[float, Any]]) -> None:
    axes.axvline(place, color=_GREY, linewidth=1)
    for height, value in ticks:
        axes.annotate(
            show_value(value), (place, height), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center"
        )


def write_pictures(
    folder: Path, job: TuningJob, trials: Sequence[Trial], best: Trial | None, importances: Mapping[str, float]
) -> list[Path]:
    """Writes the plots that the trials so far allow; returns the files."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    written = []
    if importances:
        figure = Figure(figsize=(7, 1.2 + 0.45 * len(importances)), layout="constrained")
        FigureCanvasAgg(figure)
        draw_importance(figure.add_subplot(), importances)
        figure.savefig(folder / IMPORTANCE, dpi=120)
        written.append(folder / IMPORTANCE)
    if any(trial.objective is not None for trial in trials):
        figure = Figure(figsize=(max(6, 1.8 * len(job.ranges) + 2), 4.5), layout="constrained")
        FigureCanvasAgg(figure)
        draw_parallel(figure.add_subplot(), job, trials, best)
        figure.savefig(folder / PARALLEL, dpi=120)
        written.append(folder / PARALLEL)
    return written

"""The page that compares several jobs: a plot of each environment; runs of equal settings share a line and a band."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.outputs.learning_curve import smooth
from runtime.report.figures import (
    Chart,
    Plot,
    Series,
    colors,
    small_metrics,
    smooth_returns,
    unit_of,
    with_speed,
    words_of,
)
from runtime.report.page import Picture, Table, number_text, render, run_state, show_videos
from runtime.report.results import Results

_POINTS = 200  # of a line: runs log at different steps and are interpolated to the same ones
_RETURN = "episode_reward_mean"
_SEED = "config.seed"
# The two horizontal axes that a reader chooses from.
_AXES = {"timesteps_total": "environment steps", "time_total_s": "seconds of training"}
_SUMMARY = ("environment", "state", "mean return", "evaluated", "steps", "seconds", "steps to the goal")
_MOST_NAMED = 3  # settings in a legend; above that a run's name says more
_LONGEST_VALUE = 24  # characters of one


@dataclass(frozen=True)
class Group:
    """Runs whose settings differ in nothing but the seed.

    Attributes:
        label: What tells it from the environment's other groups.
        runs: Its runs.
    """

    label: str
    runs: Sequence[Results]


@dataclass(frozen=True)
class Compared:
    """The runs in one environment.

    Attributes:
        env: Name of the environment.
        curve: Their learning curves; None before the first episode has ended.
        charts: Their other metrics.
        videos: A video of each run.
    """

    env: str
    curve: Chart | None
    charts: Sequence[Chart]
    videos: Sequence[Picture]


def render_comparison(runs: Sequence[Results]) -> str:
    """Renders several jobs on one page: their curves, results, videos and differing settings."""
    names = _distinct_names(runs)
    runs = [replace(run, name=name) for name, run in zip(names, runs, strict=True)]
    rows = [[run.name, *_summary_cells(run)] for run in runs]
    shown = _show_videos(runs)
    compared = []
    for env in dict.fromkeys(run.env for run in runs):
        here = [run for run in runs if run.env == env]
        groups = group_runs(here)
        curve = _chart(groups, _RETURN)
        charts = [chart for name in _metrics(here) if (chart := _chart(groups, name))]
        videos = [shown[run.name] for run in here if run.name in shown]
        compared.append(Compared(env or "logged data", curve, charts, videos))
    return render(
        "comparison.html.j2",
        title="comparison",
        names=names,
        results=Table(["run", *_SUMMARY], rows, name="results of all runs"),
        compared=compared,
        axes=list(_AXES.values()),
        without_settings=[run.name for run in runs if not run.config.get("values")],
        differences=_differences(runs),
    )


def group_runs(runs: Sequence[Results]) -> list[Group]:
    """Groups the runs of one environment whose settings are equal but for the seed, in the order of their first."""
    groups: dict[str, list[Results]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    values = [group[0].config.get("values", {}) for group in groups.values()]
    paths = sorted({path for one in values for path in one if path != _SEED})
    differing = [path for path in paths if any(one.get(path) != values[0].get(path) for one in values)]
    return [Group(_label(group, differing), group) for group in groups.values()]


def _key(run: Results) -> str:
    values = run.config.get("values")
    if not values:  # nothing says that it is the same as another
        return f"run {run.name}"
    return repr(sorted((path, str(value)) for path, value in values.items() if path != _SEED))


def _label(group: Sequence[Results], differing: Sequence[str]) -> str:
    first = group[0]
    values = first.config.get("values", {})
    if values and 0 < len(differing) <= _MOST_NAMED:
        label = ", ".join(f"{path.rpartition('.')[2]} {_cut(values.get(path, 'not set'))}" for path in differing)
    else:
        label = first.name if len(group) == 1 or differing else str(first.config.get("preset") or first.name)
    if len(group) == 1:
        return label
    seeds = {str(run.config.get("values", {}).get(_SEED)) for run in group}
    return f"{label} ({len(group)} {'seeds' if len(seeds) == len(group) else 'runs'})"


def _cut(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _metrics(runs: Sequence[Results]) -> list[str]:
    """Returns the metrics that any of the runs has, beside the return."""
    return small_metrics([row for run in runs for row in with_speed(run.rows)])


def _chart(groups: Sequence[Group], metric: str) -> Chart | None:
    """Charts a metric of all groups, by each horizontal axis; None where no run has it."""
    plots = [plot for axis in _AXES if (plot := _plot(groups, metric, axis))]
    if not plots:
        return None
    lines = [one for one in plots[0].series if one.style == "line"]
    last = [[value for value in one.values if value is not None and np.isfinite(value)][-1:] for one in lines]
    ends = "; ".join(
        f"{one.label} ends at {value:.4g}" for one, found in zip(lines, last, strict=True) for value in found
    )
    is_return = metric == _RETURN
    title = "" if is_return else words_of(metric)
    y_label = "mean episode return" if is_return else unit_of(metric)
    return Chart(title, y_label, f"{words_of(metric)} of {len(groups)} settings: {ends}", plots)


def _plot(groups: Sequence[Group], metric: str, axis: str) -> Plot | None:
    curves = [[curve for run in group.runs if (curve := _curve(run, metric, axis))] for group in groups]
    ends = [x[[0, -1]] for group in curves for x, _ in group]
    if not ends:
        return None
    grid = np.linspace(min(start for start, _ in ends), max(end for _, end in ends), _POINTS)
    series: list[Series] = []
    for color, group, found in zip(colors(), groups, curves, strict=False):
        if found:
            series += _lines(group.label, np.array([_interpolate(grid, curve) for curve in found]), color)
    x = [int(at) for at in grid] if axis == "timesteps_total" and grid[-1] > 10 * _POINTS else grid.tolist()
    return Plot(_AXES[axis], x, series)


def _curve(run: Results, metric: str, axis: str) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    rows = [row for row in with_speed(run.rows) if metric in row and axis in row and np.isfinite(row[metric])]
    if not rows:
        return None
    values = [float(row[metric]) for row in rows]
    if metric == _RETURN:
        values = smooth_returns(values) or values
    return np.array([row[axis] for row in rows], np.float64), np.array(values)


def _interpolate(
    grid: NDArray[np.float64], curve: tuple[NDArray[np.float64], NDArray[np.float64]]
) -> NDArray[np.float64]:
    """Interpolates a curve to the grid; NaN before its first and after its last point."""
    x, values = curve
    found = np.interp(grid, x, values, left=np.nan, right=np.nan)
    if np.isnan(found).all():  # a curve shorter than the grid's step, of which its end is shown
        found[np.argmin(np.abs(grid - x[-1]))] = values[-1]
    return found


def _lines(label: str, values: NDArray[np.float64], color: int) -> list[Series]:
    """The mean over runs (R, X) as far as all got, their band, and the mean of those that continued.

    One mean over both would jump where a run ends.
    """
    is_there = np.isfinite(values)
    everywhere, somewhere = is_there.all(axis=0), is_there.any(axis=0)
    counts = np.maximum(is_there.sum(axis=0), 1)
    mean = np.where(is_there, values, 0.0).sum(axis=0) / counts
    line = Series(label, np.where(everywhere, mean, np.nan).tolist(), "line", color)
    if len(values) == 1:
        return [line]
    edges = [
        Series(f"highest of {label}", values.max(axis=0).tolist(), "edge", color),  # NaN where one has ended
        Series(f"lowest of {label}", values.min(axis=0).tolist(), "edge", color),
    ]
    beyond = somewhere & ~everywhere
    if everywhere.any():
        beyond &= np.arange(values.shape[1]) > np.flatnonzero(everywhere)[-1]
    rest = Series(f"{label}, mean of the runs that continued", np.where(beyond, mean, np.nan).tolist(), "rest", color)
    return [*edges, line, *([rest] if beyond.any() else [])]


def _show_videos(runs: Sequence[Results]) -> Mapping[str, Picture]:
    """The first video of each run, by the run's name."""
    having = [run for run in runs if run.videos]
    videos = [replace(run.videos[0], caption=f"{run.name}: {run.videos[0].caption}") for run in having]
    return dict(zip((run.name for run in having), show_videos(videos, None), strict=True))


def _summary_cells(run: Results) -> list[str]:
    last = run.rows[-1] if run.rows else {}
    scored = [row for row in run.rows if _RETURN in row]
    means = smooth([row[_RETURN] for row in scored])
    goal = run.goal
    met = [row for row, mean in zip(scored, means, strict=True) if goal is not None and max(mean, row[_RETURN]) >= goal]
    state = run_state(run)
    return [
        run.env,
        state.state if state else "",
        number_text(last.get(_RETURN, run.manifest.get(_RETURN))),
        number_text(run.evaluation.get("mean_reward")),
        f"{last['timesteps_total']:,}" if "timesteps_total" in last else "",
        number_text(last.get("time_total_s")),
        f"{met[0]['timesteps_total']:,}" if met else "",
    ]


def _differences(runs: Sequence[Results]) -> Table:
    values: list[Mapping[str, Any]] = [run.config.get("values", {}) for run in runs]
    rows = []
    for path in sorted({path for one in values for path in one}):
        found = [one.get(path) for one in values]
        if any(value != found[0] for value in found):
            rows.append([f"rl.training.{path}", *("" if value is None else str(value) for value in found)])
    return Table(["setting", *(run.name for run in runs)], rows, code=True, name="settings that differ")


def _distinct_names(runs: Sequence[Results]) -> list[str]:
    names = [run.name for run in runs]
    return [name if names.count(name) == 1 else f"{name} ({at})" for at, name in enumerate(names, start=1)]

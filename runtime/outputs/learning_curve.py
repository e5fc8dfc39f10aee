"""The learning curve of a job as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = "learning_curve.png"
_BLUE = "#4c78a8"
_RED = "#d62728"
# From so many iterations on a curve is noisy enough to be smoothed, over this share of them.
SMOOTH_FROM = 20
_SMOOTH_SHARE = 0.1


def plot_learning_curve(path: Path, rows: Sequence[dict[str, Any]], *, title: str, goal: float | None) -> bool:
    """Draws the mean return over environment steps, with the band from min to max and the goal.

    Args:
        path: Path of the PNG file.
        rows: Rows of metrics.jsonl.
        title: Above the curve.
        goal: Mean return that the job was to stop at, or None.

    Returns:
        Whether there was anything to draw.
    """
    scored = [row for row in rows if "episode_reward_mean" in row]
    if not scored:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    draw_learning_curve(axes, scored, goal=goal)
    axes.set_title(title)
    figure.savefig(path, dpi=120)
    return True


def draw_learning_curve(axes: Axes, rows: Sequence[Mapping[str, Any]], *, goal: float | None) -> None:
    """Draws rows that have a mean return: the mean, smoothed where it is noisy, and the band from min to max."""
    steps = [row["timesteps_total"] for row in rows]
    means = [row["episode_reward_mean"] for row in rows]
    lows = [row.get("episode_reward_min", mean) for row, mean in zip(rows, means, strict=True)]
    highs = [row.get("episode_reward_max", mean) for row, mean in zip(rows, means, strict=True)]
    axes.fill_between(
        steps,
        lows,
        highs,
        color=_BLUE,
        alpha=0.18,
        linewidth=0,
        label="lowest to highest return of the mean's episodes",
    )
    label = "mean return"
    if len(rows) >= SMOOTH_FROM:
        axes.plot(steps, means, color=_BLUE, linewidth=0.8, alpha=0.5, label=label)
        label = "smoothed"
        means = smooth(means)
    axes.plot(steps, means, color=_BLUE, linewidth=2, marker="o" if len(steps) < 3 else "", label=label)
    if goal is not None and is_near(goal, [*lows, *highs]):
        axes.axhline(goal, color=_RED, linewidth=1, linestyle="--", label=f"goal {goal:g}")
    elif goal is not None:
        axes.plot([], [], color=_RED, linewidth=1, linestyle="--", label=f"goal {goal:g}, outside this picture")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("episode return")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="best", frameon=False)


def is_near(goal: float, values: Sequence[float]) -> bool:
    """Whether a goal can be drawn beside values and leave them at least half of the height."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=goal), max(finite, default=goal)
    return low - goal <= high - low and goal - high <= high - low


def smooth(values: Sequence[float]) -> list[float]:
    """Smooths values by the mean of each and its neighbors, fewer of them at the ends."""
    reach = max(1, int(_SMOOTH_SHARE * len(values)) // 2)
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, at - reach), min(len(values), at + reach + 1)) for at in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]

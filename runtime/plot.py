"""The learning curve of a job as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

FILE = "learning_curve.png"


def plot_learning_curve(path: Path, rows: Sequence[dict[str, Any]], *, title: str, goal: float | None) -> bool:
    """Draws the mean return over environment steps, with the band from min to max and the goal.

    Args:
        path: Where the PNG goes.
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
    steps = [row["timesteps_total"] for row in scored]
    means = [row["episode_reward_mean"] for row in scored]
    lows = [row.get("episode_reward_min", mean) for row, mean in zip(scored, means, strict=True)]
    highs = [row.get("episode_reward_max", mean) for row, mean in zip(scored, means, strict=True)]
    axes.fill_between(steps, lows, highs, color="#4c78a8", alpha=0.18, linewidth=0, label="min to max of 100 episodes")
    axes.plot(steps, means, color="#4c78a8", linewidth=2, marker="o" if len(steps) < 3 else "", label="mean return")
    if goal is not None:
        axes.axhline(goal, color="#d62728", linewidth=1, linestyle="--", label=f"goal {goal:g}")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=120)
    return True

"""The result files of a batch RL job: Coach's CSV, ope.json, and a plot of every iteration's estimates."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from runtime.files import write_json
from runtime.offline.selection import COACHS, TOLERANCE, Report

COACH_CSV = "worker_0.batch_rl_graph.main_level.main_level.agent_0.csv"
PLOT = "ope.png"
SUMMARY = "ope.json"
# Coach's column to our metric.
_COLUMNS = {
    "Epoch": "training_iteration",
    "Training Iter": "updates",
    "Loss/Mean": "loss",
    "Direct Method Reward": "estimated_return",
    "Weighted Importance Sampling": "weighted_importance_sampling",
    "Sequential Doubly Robust": "sequential_doubly_robust",
    "Weighted Doubly Robust": "weighted_doubly_robust",
}


def write_coach_csv(folder: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes the CSV file that the notebook plots, one row per epoch.

    Written whole each time: SageMaker uploads a file when it is closed, and the notebook waits for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / COACH_CSV).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        writer.writerows([[row.get(name, "") for name in _COLUMNS.values()] for row in rows])


def write_report(folder: Path, rows: Sequence[Mapping[str, float]], report: Report, *, chosen: int) -> None:
    """Writes ope.json and ope.png."""
    summary = {
        "chosen_iteration": chosen,
        "rule": f"the latest iteration whose pessimistic return is within {TOLERANCE:.0%} of the highest",
        **asdict(report),
    }
    write_json(folder / SUMMARY, finite(summary))
    plot_estimates(folder / PLOT, rows, report, chosen=chosen)


def summary_facts(report: Report, gamma: float) -> dict[str, str]:
    """Returns name and text of each line of a summary: the estimate, the log's return, and what they rest on."""
    value = f"{report.value.text()}, discounted by {gamma:g}, with its 95 % interval"
    facts = {"estimated return": value}
    if report.refused:
        facts["estimated return"] = f"{report.value.value:.2f}, discounted by {gamma:g}, without an interval"
        facts["interval"] = f"refused: {report.refused}"
    facts |= {
        "logged return": f"{report.behaviour.text()}, discounted too; {report.behaviour_return.text()} without",
    }
    if report.sample_size is not None:
        facts["sample size"] = f"{report.sample_size:.1f} of {report.episodes} episodes, by importance weights"
    if report.outside is not None:
        facts["outside the log"] = f"{report.outside:.0%} of the policy's discounted steps"
    return facts


def warning_facts(report: Report) -> dict[str, str]:
    """Returns the warnings as numbered lines of a summary, but for the one that `summary_facts` has."""
    warnings = [warning for warning in report.warnings if warning != report.refused]
    return {f"warning {number}": warning for number, warning in enumerate(warnings, start=1)}


def as_json(report: Report) -> dict[str, Any]:
    """Returns the report as JSON for the manifest."""
    found: dict[str, Any] = finite(asdict(report))
    return {"warnings": found.pop("warnings"), "offline_evaluation": found}


def finite(value: Any) -> Any:
    """Returns a JSON value with null in place of numbers that are not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value


def plot_estimates(path: Path, rows: Sequence[Mapping[str, float]], report: Report, *, chosen: int) -> None:
    """Draws each iteration's estimated return, the chosen one with its interval, and the log's own.

    Args:
        path: PNG file to write.
        rows: Rows of metrics.jsonl.
        report: Estimates of the chosen iteration.
        chosen: Number of the chosen iteration.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 7), layout="constrained")
    FigureCanvasAgg(figure)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    iterations = [row["training_iteration"] for row in rows]
    behavior, value = report.behaviour, report.value
    above.axhspan(behavior.low, behavior.high, color="#777777", alpha=0.3, linewidth=0)
    above.axhline(behavior.value, color="#777777", linewidth=1, label="the logged episodes, 95 % band")
    values = [row["estimated_return"] for row in rows]
    above.plot(iterations, values, color="#4c78a8", marker="o", markersize=4, label="each iteration's policy")
    bars = [[value.value - value.low], [value.high - value.value]]
    above.errorbar([chosen], [value.value], bars, color="#d62728", marker="o", capsize=5, label="chosen, 95 % interval")
    above.set_ylabel("discounted return\n(rollouts in the log's model)")
    above.set_title("Off-policy estimate of each iteration")
    for name in COACHS:
        if all(name in row for row in rows):
            line = below.plot(iterations, [row[name] for row in rows], marker=".", label=name.replace("_", " "))
            low, high = ([row[f"{name}_{side}"] for row in rows] for side in ("low", "high"))
            below.fill_between(iterations, low, high, color=line[0].get_color(), alpha=0.18, linewidth=0)
    below.set_ylabel("diagnostics of Coach:\nno evidence of a better policy")
    below.set_xlabel("iteration")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False, loc="best")
    figure.savefig(path, dpi=120)

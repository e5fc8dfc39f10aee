"""The steps of DeepRacer's cars as charts: progress, reward and actions of the newest laps, from their trace files."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.report.figures import Chart, Plot, Series, align

_MOST_LINES = 20
_MOST_POINTS = 200  # of a line
_MOST_BARS = 21
_STEERING_BIN_DEG = 10.0  # of continuous actions
# Of an evaluation and of a training, each of one car or worker, or below the names of several.
_TRACES = tuple(f"{above}*-simtrace/*-iteration.csv" for above in ("", "*/", "*/*/"))
_COLUMNS = ("episode", "steps", "steer", "throttle", "action", "reward", "progress", "tstamp", "episode_status")


@dataclass(frozen=True)
class Bar:
    """How often an action was chosen: its name, and its share of the steps in per cent."""

    name: str
    share: float


@dataclass(frozen=True)
class StepCharts:
    """Charts of the newest episodes.

    Attributes:
        heading: Which episodes they are.
        charts: Progress and reward.
        actions: Share of each action.
    """

    heading: str
    charts: Sequence[Chart]
    actions: Sequence[Bar]


@dataclass(frozen=True)
class _Step:
    time_s: float
    reward: float
    progress: float
    action: str
    steering_deg: float
    speed: float


def find_traces(folders: Iterable[Path]) -> tuple[str, Path] | None:
    """Finds the newest trace below some folders: what it is of, and its file."""
    found = [path for folder in folders for pattern in _TRACES for path in folder.glob(pattern)]
    if not found:
        return None
    newest = max(found, key=lambda path: (path.stat().st_mtime_ns, _number(path)))
    if newest.parent.name == "evaluation-simtrace":
        car = newest.parts[-4]
        return f"Laps of {car if car.startswith('agent_') else 'the evaluation'}", newest
    return f"Episodes of iteration {_number(newest) + 1}", newest


def read_step_charts(heading: str, path: Path) -> StepCharts | None:
    """Reads the charts of a trace file; None if it has no steps, as one that is being written."""
    episodes = _read(path)
    if not episodes:
        return None
    steps = [step for episode in episodes for step in episode]
    shown = episodes[:_MOST_LINES]
    charts = [
        _chart("progress", "% of the lap", [[(step.time_s, step.progress) for step in episode] for episode in shown]),
        _chart(
            "reward of each step", "reward", [[(step.time_s, step.reward) for step in episode] for episode in shown]
        ),
    ]
    return StepCharts(heading, charts, _bars(steps))


def _number(path: Path) -> int:
    found = re.match(r"\d+", path.name)
    return int(found[0]) if found else -1


def _read(path: Path) -> list[list[_Step]]:
    """Reads the steps of each episode, without those in which a car gets ready or waits."""
    episodes: dict[str, list[_Step]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            begin: dict[str, float] = {}
            for row in csv.DictReader(file):
                if any(row.get(name) is None for name in _COLUMNS):
                    continue
                time_s = float(row["tstamp"])
                begin.setdefault(row["episode"], time_s)
                if row["episode_status"] in ("prepare", "pause"):
                    continue
                step = _Step(
                    time_s - begin[row["episode"]],
                    float(row["reward"]),
                    float(row["progress"]),
                    row["action"],
                    float(row["steer"]),
                    float(row["throttle"]),
                )
                episodes.setdefault(row["episode"], []).append(step)
    except (OSError, ValueError):  # gone meanwhile, or no trace of ours
        return []
    return list(episodes.values())


def _chart(title: str, y_label: str, lines: Sequence[Sequence[tuple[float, float]]]) -> Chart:
    """Charts a line for each episode, over its seconds."""
    thinned = [[*line[:: -(-len(line) // _MOST_POINTS)], line[-1]] for line in lines]
    x, columns = align([[(round(time_s, 3), value) for time_s, value in line] for line in thinned])
    values = [value for line in lines for _, value in line]
    alt = f"{title} of {len(lines)} episodes over {max(x):.1f} seconds: from {min(values):.4g} to {max(values):.4g}"
    series = [Series(f"episode {number}", column) for number, column in enumerate(columns, start=1)]
    return Chart(title, y_label, alt, [Plot("seconds", x, series)])


def _bars(steps: Sequence[_Step]) -> list[Bar]:
    """Counts actions: discrete ones by themselves, continuous ones by their steering angle."""
    counts: Counter[tuple[float, float, str]] = Counter()
    for step in steps:
        if step.action.lstrip("-").isdigit():
            name = f"{step.steering_deg:g}°, {step.speed:g} m/s"
            counts[(step.steering_deg, step.speed, name)] += 1
        else:
            angle = _STEERING_BIN_DEG * round(step.steering_deg / _STEERING_BIN_DEG)
            counts[(angle, 0.0, f"about {angle:g}°")] += 1
    kept = sorted(key for key, _ in counts.most_common(_MOST_BARS))
    return [Bar(key[2], 100 * counts[key] / len(steps)) for key in kept]

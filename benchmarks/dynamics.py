"""Replays the commands of the original simulator's traces: how far our car is from the logged one after eight steps.

Run: .venv/bin/python -m benchmarks.dynamics NAME=FOLDER …, into benchmarks/dynamics.md. A folder has the simulator's
`*-iteration.csv` files, as deepracer-utils' source distribution has below tests/deepracer/logs.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from envs.deepracer import kernels
from envs.deepracer.race import KNOWN_DYNAMICS, Dynamics

_PAGE = Path(__file__).with_suffix(".md")
_STEPS = 8
_NUMBERS = ("X", "Y", "yaw", "steer", "throttle")


def read_episodes(folder: Path) -> list[NDArray[np.float64]]:
    """Reads (N, 5) x, y, yaw in degrees, steering in degrees and speed of each episode in a folder's traces."""
    episodes = []
    for path in sorted(folder.rglob("*-iteration.csv")):
        rows: list[list[float]] = []
        with path.open(encoding="utf-8") as lines:
            for row in csv.DictReader(lines):
                if float(row["steps"]) == 1 or row["episode_status"] not in ("prepare", "in_progress"):
                    episodes.append(np.array(rows))  # a car that was put back starts anew
                    rows = []
                if row["episode_status"] == "in_progress":
                    rows.append([float(row[name]) for name in _NUMBERS])
        episodes.append(np.array(rows))
    return [episode for episode in episodes if len(episode) > 2 * _STEPS]


def replay(episodes: list[NDArray[np.float64]], dynamics: Dynamics) -> NDArray[np.float64]:
    """Meters between the logged car and ours, eight steps after each that starts from the log; (M,).

    Speed and angle of the wheels at a start are those that the episode's commands until then have led to.
    """
    errors = []
    settings = dynamics.as_array()[None]
    for episode in episodes:
        count = len(episode) - _STEPS
        cars = np.zeros((count, kernels.COLUMNS))
        cars[:, kernels.PHASE] = kernels.RUN
        one = np.zeros((1, kernels.COLUMNS))
        one[:, kernels.PHASE] = kernels.RUN
        for step in range(count):
            cars[step] = one[0]
            _command(one, episode[step])
            kernels.drive(one, settings)
        heading = np.radians(episode[:count, 2])
        cars[:, kernels.X] = episode[:count, 0] - kernels.FRONT_M * np.cos(heading)
        cars[:, kernels.Y] = episode[:count, 1] - kernels.FRONT_M * np.sin(heading)
        cars[:, kernels.YAW] = heading
        for step in range(_STEPS):
            for row in range(count):
                _command(cars[row : row + 1], episode[row + step])
            kernels.drive(cars, settings)
        front = cars[:, [kernels.X, kernels.Y]] + kernels.FRONT_M * np.stack(
            [np.cos(cars[:, kernels.YAW]), np.sin(cars[:, kernels.YAW])], 1
        )
        errors.append(np.linalg.norm(front - episode[_STEPS:, :2], axis=1)[:count])
    return np.concatenate(errors)


def _command(cars: NDArray[np.float64], row: NDArray[np.float64]) -> None:
    cars[:, kernels.COMMAND_STEERING], cars[:, kernels.COMMAND_SPEED] = row[3], row[4]


def main() -> None:
    """Writes a table: logs by dynamics."""
    given = [argument.partition("=") for argument in sys.argv[1:]]
    head = f"| trace | steps | {' | '.join(f'`{name}`' for name in KNOWN_DYNAMICS)} |"
    table = [head, "|---" * (len(KNOWN_DYNAMICS) + 2) + "|"]
    for name, _, folder in given:
        episodes = read_episodes(Path(folder))
        found = [replay(episodes, dynamics) for dynamics in KNOWN_DYNAMICS.values()]
        cells = [f"{np.mean(errors):.2f} ({np.percentile(errors, 90):.2f})" for errors in found]
        table.append(f"| {name} | {len(found[0]):,} | {' | '.join(cells)} |")
        print(table[-1], flush=True)
    seconds = f"{_STEPS * kernels.CONTROL_S:.2f}"
    about = f"""# DeepRacer's dynamics against the original simulator

`python -m benchmarks.dynamics NAME=FOLDER …` replays the commands of published traces: the car is put where the log
has it, and {_STEPS} steps later ({seconds} s) the distance between the two is taken, in meters: mean, and in brackets
the 90th percentile. The traces are in the source distribution of deepracer-utils 1.5.6, below tests/deepracer/logs.
The numbers of `gazebo` are not from them, but from a console evaluation of 2023; those of `gazebo-6` are from the
evaluation of 2026, not from its training.

"""
    _PAGE.write_text(about + "\n".join(table) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""DeepRacer's dynamics against the original simulator's: replayed commands, and the spread of trials' lap times.

Run: .venv/bin/python -m benchmarks.dynamics NAME=FOLDER … replays traces, .venv/bin/python -m benchmarks.dynamics noise
measures lap times; each into its section of benchmarks/dynamics.md. A folder has the simulator's `*-iteration.csv`
files, as deepracer-utils' source distribution has below tests/deepracer/logs.
"""

from __future__ import annotations

import csv
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.result_page import write_sections
from envs.deepracer import kernels
from envs.deepracer.env import DeepRacerEnv
from envs.deepracer.race import KNOWN_DYNAMICS, Dynamics

_PAGE = Path(__file__).with_suffix(".md")
_REPLAYED, _TRIALS = "Replayed traces", "Lap times of trials"
_STEPS = 8
_NOISES = (0.0, 0.01, 0.02, 0.022, 0.025, 0.03, 0.04)
_EVALUATIONS, _TRIALS_EACH = 20, 5  # an evaluation of DeepRacer's has five trials
_ORIGINAL_S = (11.5, 12.1)
_LOOK_AHEAD = 4  # waypoints
_SHARPEST_DEG = 30.0
_CONTINUOUS = {
    "action_space_type": "continuous",
    "action_space": {
        "steering_angle": {"low": -_SHARPEST_DEG, "high": _SHARPEST_DEG},
        "speed": {"low": 1.0, "high": 2.0},
    },
    "sensor": ["FRONT_FACING_CAMERA"],
    "version": 5,
}
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


def drive_laps(noise: float, *, trials: int, seed: int) -> NDArray[np.float64]:
    """Returns the seconds of each trial of one driver, who follows reinvent_base's center line; (trials,).

    Args:
        noise: Of the dynamics, which are `gazebo` otherwise.
        trials: Number of laps, each an episode from the start line.
        seed: Seed of the environment.

    Raises:
        RuntimeError: A trial ended before its lap was complete.
    """
    env = DeepRacerEnv(track="reinvent_base", dynamics={"noise": noise}, model_metadata=_CONTINUOUS, is_training=False)
    times_s = []
    for trial in range(trials):
        env.reset(seed=seed if trial == 0 else None)
        has_ended = False
        action = np.zeros(2, np.float32)
        while not has_ended:
            _, _, has_ended, _, info = env.step(action)
            action = _follow_center(info["reward_params"])
        if info["episode_status"] != "lap_complete":
            raise RuntimeError(f"trial {trial} with noise {noise:g} ended as {info['episode_status']}")
        times_s.append(info["reward_params"]["sim_time"])
    return np.array(times_s)


def _follow_center(params: dict[str, Any]) -> NDArray[np.float32]:
    """Returns the action that steers a bicycle through a waypoint ahead, at one speed."""
    waypoints = params["waypoints"]
    x, y = waypoints[(params["closest_waypoints"][1] + _LOOK_AHEAD) % len(waypoints)]
    bearing = math.atan2(y - params["y"], x - params["x"]) - math.radians(params["heading"])
    away_m = math.hypot(x - params["x"], y - params["y"])
    curvature = 2 * math.sin(bearing) / away_m / KNOWN_DYNAMICS["gazebo"].steering_gain
    steering_deg = math.degrees(math.atan(kernels.WHEELBASE_M * curvature))
    return np.array([np.clip(steering_deg / _SHARPEST_DEG, -1, 1), 0.0], np.float32)


def measure_trials() -> list[str]:
    """Rows of how much the trials of one driver differ, by noise; the driver and the seed are the same in all rows."""
    rows = []
    for noise in _NOISES:
        times_s = drive_laps(noise, trials=_EVALUATIONS * _TRIALS_EACH, seed=0)
        half_ranges_s = np.ptp(times_s.reshape(_EVALUATIONS, _TRIALS_EACH), axis=1) / 2
        cells = (times_s.mean(), times_s.std(ddof=1), half_ranges_s.mean(), times_s.min(), times_s.max())
        rows.append(f"| {noise:g} | " + " | ".join(f"{seconds:.2f}" for seconds in cells) + " |")
        print(rows[-1], flush=True)
    return [
        "One driver follows the center line of reinvent_base at 1.5 m/s under `gazebo` with `noise`, for "
        f"{_EVALUATIONS} evaluations of {_TRIALS_EACH} trials each. Seconds of a lap: mean and standard deviation of "
        "all trials, half of the range of an evaluation's trials (mean of the evaluations), and the fastest and the "
        f"slowest trial. The original's laps took {_ORIGINAL_S[0]} to {_ORIGINAL_S[1]} s in a console evaluation of "
        f"version 5: half of the range is {(_ORIGINAL_S[1] - _ORIGINAL_S[0]) / 2:.1f} s. Times are in steps of 1/15 s.",
        "",
        "| `noise` | mean | standard deviation | half of the range | fastest | slowest |",
        "|---" * 6 + "|",
        *rows,
    ]


def replay_traces(given: list[str]) -> list[str]:
    """Rows of a table of logs, given as NAME=FOLDER, by dynamics."""
    table = [
        f"| trace | steps | {' | '.join(f'`{name}`' for name in KNOWN_DYNAMICS)} |",
        "|---" * (len(KNOWN_DYNAMICS) + 2) + "|",
    ]
    for argument in given:
        name, _, folder = argument.partition("=")
        episodes = read_episodes(Path(folder))
        found = [replay(episodes, dynamics) for dynamics in KNOWN_DYNAMICS.values()]
        cells = [f"{np.mean(errors):.2f} ({np.percentile(errors, 90):.2f})" for errors in found]
        table.append(f"| {name} | {len(found[0]):,} | {' | '.join(cells)} |")
        print(table[-1], flush=True)
    seconds = f"{_STEPS * kernels.CONTROL_S:.2f}"
    return [
        f"The car is put where the log has it, and {_STEPS} steps later ({seconds} s) the distance between the two is "
        "taken, in meters: mean, and in brackets the 90th percentile. The traces are in the source distribution of "
        "deepracer-utils 1.5.6, below tests/deepracer/logs. The numbers of `gazebo` are not from them, but from a "
        "console evaluation of 2023; those of `gazebo-6` are from the evaluation of 2026, not from its training.",
        "",
        *table,
    ]


def main() -> None:
    """Writes the section that the arguments name: `noise`, or traces."""
    given = sys.argv[1:]
    if not given:
        raise SystemExit("python -m benchmarks.dynamics: got no arguments; expected `noise`, or NAME=FOLDER …")
    measured = {_TRIALS: measure_trials()} if given == ["noise"] else {_REPLAYED: replay_traces(given)}
    head = """# DeepRacer's dynamics against the original simulator

`python -m benchmarks.dynamics NAME=FOLDER …` replays the commands of published traces,
`python -m benchmarks.dynamics noise` drives laps with noise."""
    sections = {title: "\n".join(lines) for title, lines in measured.items()}
    write_sections(_PAGE, head, (_REPLAYED, _TRIALS), sections)


if __name__ == "__main__":
    main()

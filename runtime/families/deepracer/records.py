"""DeepRacer's own files and lines, as users' notebooks and log tools read them.

Source of every name, type and layout: DeepRacer's simulation application 6.0.5, `M/metrics`, and deepracer-utils 1.5.6,
which reads them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from envs.deepracer.kernels import CONTROL_S, CRASHED, IMMOBILIZED, OFF_TRACK, REVERSED
from envs.deepracer.metadata import Metadata
from envs.deepracer.simulation import STATUS_NAMES
from runtime.families.deepracer.driven_episodes import TRACE
from runtime.files import write_json

HEADER = (
    "episode,steps,X,Y,yaw,steer,throttle,action,reward,done,all_wheels_on_track,progress,closest_waypoint,track_len,"
    "tstamp,episode_status,pause_duration,obstacle_crash_counter,wall_clock"
)
HYPERPARAMETERS = Path("ip", "hyperparameters.json")
_LABELS = {
    "lap_complete": "Lap complete",
    "crashed": "Crashed",
    "off_track": "Off track",
    "immobilized": "Immobilized",
    "in_progress": "In progress",
    "pause": "Pause",
    "reversed": "Reversed",
    "time_up": "Time Up",
    "prepare": "Prepare",
}
_COUNTED = {"crash": CRASHED, "immobilized": IMMOBILIZED, "off_track": OFF_TRACK, "reversed": REVERSED}
C = {name: number for number, name in enumerate(TRACE)}

Trace = NDArray[np.float64]


def write_metadata(folder: Path, metadata: Metadata) -> None:
    """Writes model/model_metadata.json: the user's, and the keys that log tools need where it leaves them out."""
    needed = {"sensor": list(metadata.sensors), "neural_network": metadata.network, "version": metadata.version}
    (folder / "model").mkdir(parents=True, exist_ok=True)
    write_json(folder / "model" / "model_metadata.json", {**needed, **metadata.source})


class SimTrace:
    """Writes one worker's steps as CSV files, one per iteration, and as log lines.

    Episodes that were driven in parallel are written one after the other, with continuous time.

    Args:
        folder: Folder of the CSV files.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._clock = 0.0

    def write(self, iteration: int, episodes: list[tuple[int, Trace]]) -> list[str]:
        """Writes a file.

        Args:
            iteration: Number of the iteration.
            episodes: Number and steps of each episode.

        Returns:
            The lines that simulations print, one a step.
        """
        rows = [HEADER]
        lines = []
        for number, trace in episodes:
            begin = float(trace[0, C["time"]]) - CONTROL_S
            for step in trace.tolist():
                cells = _describe(number, step, self._clock - begin)
                rows.append(",".join(str(cell) for cell in cells))
                lines.append(_as_line(cells))
            self._clock += float(trace[-1, C["time"]]) - begin
        self._folder.mkdir(parents=True, exist_ok=True)
        (self._folder / f"{iteration}-iteration.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        return lines


def _describe(episode: int, step: list[float], clock: float) -> tuple[Any, ...]:
    """Formats the cells of a row, in the order of HEADER."""
    action: Any = int(step[C["action"]])
    if action < 0:
        action = f"[{step[C['steering_deg']]} {step[C['speed']]}]"
    return (
        episode,
        *(step[C[name]] for name in ("steps", "x", "y", "yaw_deg", "steering_deg", "speed")),
        action,
        step[C["reward"]],
        bool(step[C["has_ended"]]),
        bool(step[C["all_wheels_on_track"]]),
        step[C["progress"]],
        int(step[C["closest_waypoint"]]),
        step[C["track_length"]],
        round(clock + step[C["time"]], 6),
        STATUS_NAMES[int(step[C["status"]])],
        step[C["pause_s"]],
        int(step[C["crashes"]]),
        step[C["wall_clock"]],
    )


def _as_line(cells: tuple[Any, ...]) -> str:
    return (
        "SIM_TRACE_LOG:%d,%d,%.4f,%.4f,%.4f,%.2f,%.2f,%s,%.4f,%s,%s,%.4f,%d,%.2f,%s,%s,%.2f,%d,%.4f" % cells  # noqa: UP031 - the contract's own format
    )


def metrics_name(worker: int) -> str:
    """Names the file of a worker's training metrics."""
    return f"training_metrics_{worker}.json" if worker else "training_metrics.json"


class TrainingMetrics:
    """The metrics of one worker's episodes, a file that is rewritten after each iteration.

    Args:
        path: File to write.
        best_by: Metric that selects the best model: progress, reward or laptime.
    """

    def __init__(self, path: Path, *, best_by: str) -> None:
        self._path = path
        self._best_by = best_by
        self.rows: list[dict[str, Any]] = []
        self.clock_ms = 0.0

    def resume(self, rows: list[dict[str, Any]]) -> None:
        """Takes the rows of the checkpoint that a job resumes from, and drops those recorded after it."""
        self.rows = rows
        self.clock_ms = max((row["metric_time"] for row in self.rows), default=0)

    def add(self, trace: Trace, *, episode: int, trial: int, phase: str) -> None:
        """Adds an episode, numbered from 1 among the worker's own: in the job, and in its iteration."""
        elapsed = float(trace[-1, C["time"]]) * 1000
        start = self.clock_ms
        self.clock_ms = self.clock_ms + elapsed
        self.rows.append(
            {
                "reward_score": round(float(trace[:, C["reward"]].sum())),
                "metric_time": int(self.clock_ms),
                "start_time": int(start),
                "elapsed_time_in_milliseconds": int(elapsed),
                "episode": episode,
                "trial": trial,
                "phase": phase,
                "completion_percentage": math.floor(float(trace[-1, C["progress"]])),
                "episode_status": label_of(trace),
            }
        )

    def last_episode(self) -> int:
        """Returns the number of the newest episode, 0 if there is none."""
        return self.last_episode_and_trial()[0]

    def last_episode_and_trial(self) -> tuple[int, int]:
        """Returns the newest episode's number in the job and in its iteration, 0 if there is none."""
        return (int(self.rows[-1]["episode"]), int(self.rows[-1]["trial"])) if self.rows else (0, 0)

    def write(self) -> None:
        """Writes the whole file."""
        write_json(self._path, {"metrics": self.rows, "version": 2.0, "best_model_metric": self._best_by})


def label_of(trace: Trace) -> str:
    """Describes how an episode ended."""
    return _LABELS[STATUS_NAMES[int(trace[-1, C["status"]])]]


def split_laps(trace: Trace, lap_status: int) -> Iterator[Trace]:
    """Splits an episode's steps into laps; the last may be incomplete."""
    ends = np.flatnonzero(trace[:, C["status"]] == lap_status) + 1
    begin = 0
    for end in [*ends.tolist(), len(trace)]:
        if end > begin:
            yield trace[begin:end]
        begin = end


def evaluation_rows(laps: list[Trace]) -> list[dict[str, Any]]:
    """Returns the rows of evaluation_metrics.json, a lap or trial each."""
    rows: list[dict[str, Any]] = []
    clock = 0.0
    for number, lap in enumerate(laps, start=1):
        begin = float(lap[0, C["time"]]) - CONTROL_S
        elapsed = (float(lap[-1, C["time"]]) - begin) * 1000
        counts = {f"{name}_count": int((lap[:, C["status"]] == code).sum()) for name, code in _COUNTED.items()}
        rows.append(
            {
                "completion_percentage": math.floor(float(lap[-1, C["progress"]])),
                "metric_time": int(clock + elapsed),
                "start_time": int(clock),
                "elapsed_time_in_milliseconds": int(elapsed),
                "episode_status": label_of(lap),
                **counts,
                "reset_count": sum(counts.values()),
                "trial": number,
            }
        )
        clock += elapsed
    return rows

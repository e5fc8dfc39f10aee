"""tuning.jsonl: every training job of a tuning as it starts and ends, from which a killed tuning resumes."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from runtime.errors import UserError
from runtime.files import append_line
from runtime.outputs.metrics import read_rows
from runtime.tuning.request import TuningJob

FILE = "tuning.jsonl"
State = Literal["started", "completed", "stopped", "failed"]


@dataclass(frozen=True)
class Record:
    """A line: one training job of one trial.

    Attributes:
        trial: Number of the trial, from 1.
        seed: Seed of the training job.
        state: State of the job; "stopped" means that the tuning stopped it early.
        hyperparameters: Tuned hyperparameters of the trial.
        folder: Results folder, relative to the tuning's.
        objective: Last value of the objective, None if there is none yet.
        training_iteration: Iterations done.
        timesteps_total: Environment steps, if the job runs an environment.
        time_total_s: Seconds of training.
        reason: Why it failed.
    """

    trial: int
    seed: int
    state: State
    hyperparameters: Mapping[str, Any]
    folder: str
    objective: float | None = None
    training_iteration: int = 0
    timesteps_total: int = 0
    time_total_s: float = 0.0
    reason: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the training job is finished."""
        return self.state != "started"


def append_record(folder: Path, record: Record) -> None:
    """Appends a line and flushes it to the disk."""
    append_line(folder / FILE, json.dumps(asdict(record)))


def read_records(folder: Path) -> list[Record]:
    """Returns the last line of each training job, in the order in which they began.

    Raises:
        UserError: The file is not smrl's.
    """
    latest: dict[tuple[int, int], Record] = {}
    for row in read_rows(folder / FILE):
        try:
            record = Record(**row)
        except TypeError as error:
            raise UserError(f"{folder / FILE}: got a line that is no record of a tuning ({error}).") from None
        latest[record.trial, record.seed] = record
    return list(latest.values())


@dataclass
class Trial:
    """One point of the search space and its training jobs.

    Attributes:
        number: Number of the trial, from 1.
        hyperparameters: Tuned hyperparameters of the point.
        jobs: Last record of each seed that has started.
    """

    number: int
    hyperparameters: Mapping[str, Any]
    jobs: dict[int, Record] = field(default_factory=dict)

    @property
    def objectives(self) -> list[float]:
        """Objectives of the training jobs that ended with one."""
        return [job.objective for job in self.jobs.values() if job.has_ended and job.objective is not None]

    @property
    def objective(self) -> float | None:
        """The mean over seeds; None while a job runs, and of a trial with a failed one."""
        ended = [job for job in self.jobs.values() if job.has_ended and job.state != "failed"]
        whole = len(ended) == len(self.jobs) and len(self.objectives) == len(self.jobs) > 0
        return statistics.fmean(self.objectives) if whole else None

    @property
    def spread(self) -> float | None:
        """The standard deviation over seeds, None for fewer than two."""
        return statistics.stdev(self.objectives) if len(self.objectives) > 1 else None

    @property
    def state(self) -> State:
        """State of the trial: the first of failed, started, stopped that any of its jobs has."""
        states = {job.state for job in self.jobs.values()}
        return next((state for state in ("failed", "started", "stopped") if state in states), "completed")


def gather_trials(records: Iterable[Record]) -> list[Trial]:
    """Records by trial, in the order of their numbers."""
    trials: dict[int, Trial] = {}
    for record in records:
        trial = trials.setdefault(record.trial, Trial(record.trial, record.hyperparameters))
        trial.jobs[record.seed] = record
    return [trials[number] for number in sorted(trials)]


def best_trial(trials: Iterable[Trial], *, seeds: int, maximize: bool) -> Trial | None:
    """Returns the trial with the best objective over all of its seeds; those that were ended early come last."""
    scored = [trial for trial in trials if len(trial.jobs) == seeds and trial.objective is not None]
    sign = 1 if maximize else -1
    return max(scored, key=lambda trial: (trial.state == "completed", sign * (trial.objective or 0.0)), default=None)


@dataclass(frozen=True)
class Plan:
    """A tuning that was checked and can start.

    Attributes:
        job: The tuning job.
        seeds: Seeds of each trial's training jobs.
        random_seed: Seed of the search.
        root: Results folder of the tuning.
        trials: Trials of an earlier start of this tuning.
        parents: Trials of other tunings.
    """

    job: TuningJob
    seeds: tuple[int, ...]
    random_seed: int
    root: Path
    trials: list[Trial]
    parents: list[Trial]

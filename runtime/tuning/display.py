"""Shows a tuning's progress: a live table of trials in a terminal, one line per training job elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.outputs.console import Reporter, Summary
from runtime.outputs.metrics import metric_line
from runtime.tuning.records import Record, Trial, best_trial
from runtime.tuning.request import TuningJob

_SHOWN = 20  # rows of the table


def show_value(value: Any) -> str:
    """Returns a hyperparameter's value as short text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def short_name(name: str) -> str:
    """Returns a hyperparameter's name without the common prefix."""
    return name.removeprefix("rl.training.").removeprefix("config.")


class TuningLines(Reporter):
    """A line for each training job that has ended.

    Args:
        job: The tuning job.
        reporter: Prints the lines, and the summary.
    """

    def __init__(self, job: TuningJob, reporter: Reporter | None = None) -> None:
        self._job = job
        self._reporter = reporter or Reporter()

    def note(self, text: str) -> None:
        """Prints a remark of one line."""
        self._reporter.note(text)

    def line(self, text: str) -> None:
        """Prints a line of results."""
        self._reporter.line(text)

    def finish(self, summary: Summary) -> None:
        """Shows the last screen."""
        self._reporter.finish(summary)

    def progress(self, trials: Sequence[Trial], running: Mapping[tuple[int, int], Record]) -> None:
        """Does nothing, as a line is printed when a job has ended."""

    def ended(self, record: Record) -> None:
        """Prints a line for a training job that has ended, with the objective in the format of SageMaker's regexes."""
        counts = {"training_iteration": record.training_iteration, "timesteps_total": record.timesteps_total}
        row: dict[str, float] = {
            "trial": record.trial,
            "seed": record.seed,
            **counts,
            "time_total_s": record.time_total_s,
        }
        if record.objective is not None:
            row[self._job.objective] = record.objective
        point = " ".join(f"{name}={show_value(value)}" for name, value in record.hyperparameters.items())
        self.line(f"{metric_line(row)} {record.state} {point}")
        if record.reason:
            self.note(f"trial {record.trial}, seed {record.seed}, failed: {record.reason}")


class TuningTable(TuningLines):
    """Shows the best and the running trials as a live table."""

    def __init__(self, job: TuningJob) -> None:
        from rich.console import Console
        from rich.live import Live

        super().__init__(job)
        self._console = Console()
        self._live = Live("starting …", console=self._console, refresh_per_second=2, transient=True)
        self._live.start()

    def note(self, text: str) -> None:
        """Prints a note above the table."""
        self._console.print(f"smrl: {text}", style="dim", highlight=False, markup=False)

    def ended(self, record: Record) -> None:
        """Prints a note if the job failed; the table shows the rest."""
        if record.reason:
            self.note(f"trial {record.trial}, seed {record.seed}, failed: {record.reason}")

    def progress(self, trials: Sequence[Trial], running: Mapping[tuple[int, int], Record]) -> None:
        """Redraws the table."""
        self._live.update(draw_table(self._job, trials, running))

    def finish(self, summary: Summary) -> None:
        """Replaces the table with the summary."""
        self.close()
        super().finish(summary)

    def close(self) -> None:
        """Ends the display."""
        self._live.stop()


def draw_table(job: TuningJob, trials: Sequence[Trial], running: Mapping[tuple[int, int], Record]) -> Any:
    """Draws the trials as a table: those that run, then the best."""
    from rich.table import Table

    best = best_trial(trials, seeds=job.seeds, maximize=job.maximize)
    ended = sum(trial.state != "started" for trial in trials)
    table = Table(title=f"{job.objective}: {ended} of {job.max_trials} trials", title_justify="left")
    for name in ("trial", "state", job.objective, "iterations", *(short_name(one.name) for one in job.ranges)):
        table.add_column(name, justify="left" if name == "state" else "right")
    sign = -1 if job.maximize else 1
    order = sorted(
        trials,
        key=lambda trial: (trial.state != "started", trial.objective is None, sign * (trial.objective or 0.0)),
    )
    for trial in order[:_SHOWN]:
        now = [
            running.get(key, record)
            for key, record in ((((trial.number, seed)), one) for seed, one in trial.jobs.items())
        ]
        iterations = sum(record.training_iteration for record in now)
        values = [show_value(trial.hyperparameters[one.name]) for one in job.ranges]
        style = "bold green" if trial is best else ("dim" if trial.state == "failed" else "")
        table.add_row(str(trial.number), trial.state, _objective(trial, now), str(iterations), *values, style=style)
    if len(order) > _SHOWN:
        table.caption = f"and {len(order) - _SHOWN} more"
    return table


def _objective(trial: Trial, now: Sequence[Record]) -> str:
    values = [record.objective for record in now if record.objective is not None]
    if not values:
        return ""
    mean = sum(values) / len(values)
    return f"{mean:.4g} ± {trial.spread:.2g}" if trial.spread is not None else f"{mean:.4g}"


def make_display(job: TuningJob, *, in_container: bool, reporter: Reporter | None = None) -> TuningLines:
    """Makes a live table in a terminal; lines in a pipe, in a container even with a terminal, and by a reporter."""
    if reporter is not None:
        return TuningLines(job, reporter)
    return TuningTable(job) if sys.stdout.isatty() and not in_container else TuningLines(job)

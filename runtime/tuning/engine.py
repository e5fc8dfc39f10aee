"""Runs trials side by side in workers that are forked from this process, with early stopping."""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from multiprocessing.connection import wait
from typing import Any

from runtime.container.environment_variables import name_gpus
from runtime.container.imports import importing
from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.errors import PlatformError
from runtime.jobs.training import Request, find_parts
from runtime.outputs.result import Finish
from runtime.settings.schema import JobConfig
from runtime.tuning.display import TuningLines
from runtime.tuning.records import Plan, Record, State, append_record
from runtime.tuning.search import FINISHED, PointSearch
from runtime.tuning.trial import LOG, Progress, TrialJob
from runtime.tuning.worker import Worker

# A process that dies (out of memory, a kill) is restarted; its job resumes from its checkpoint.
_RESTARTS = 2
# This many failures before the first success point to the job, not to a hyperparameter.
_FAILURES_AT_FIRST = 3
# What training jobs import when they use it. RLlib and torch are most of it.
_FOR_ALL = ("matplotlib.backends.backend_agg", "matplotlib.figure", "tensorboardX", "torch")
_FOR_ENVIRONMENTS = ("runtime.rllib.job", "runtime.ppo.rllib_config")
_LOOK_EVERY_S = 0.2  # for signals and the time limit


def run_trials(
    plan: Plan,
    config: JobConfig,
    container: Container,
    stop: StopRequest,
    display: TuningLines,
    finish_trial: Finish,
) -> str:
    """Runs the remaining trials.

    Args:
        plan: The tuning.
        config: Settings of a trial.
        container: The container, whose CPUs and GPUs the trials share.
        stop: The stop request.
        display: Shows the progress.
        finish_trial: Ends each training job, in its worker.

    Returns:
        Why it ended.

    Raises:
        PlatformError: The machine failed a training job.
    """
    parallel = max(1, min(plan.job.max_parallel, container.num_cpus))
    if parallel < plan.job.max_parallel:
        display.note(f"{plan.job.max_parallel} training jobs at a time asked for, {parallel} run: one a CPU")
    search = PointSearch(plan.job, plan.trials, plan.parents, seeds=plan.seeds, random_seed=plan.random_seed)
    trials = _Trials(plan, search, stop, display)
    with stop:
        import_for_trials(config)
    slots = [_Slot(_trial_job(plan, container, finish_trial, number, parallel)) for number in range(parallel)]
    try:
        while _fill(slots, search, trials):
            _advance(slots, trials)
    finally:
        for slot in slots:
            slot.close()
    if trials.platform_fault:
        raise PlatformError(f"{trials.platform_fault} Then start the tuning again to resume {plan.root}.")
    return trials.stop_reason() or search.finish_reason


def import_for_trials(config: JobConfig) -> None:
    """Imports what a training job uses, so that no worker has to; starts no thread that a worker would miss.

    Args:
        config: Settings of a trial.
    """
    algorithm, _ = find_parts(config, Request({}))
    names = [*_FOR_ALL, *(_FOR_ENVIRONMENTS if algorithm.acts_in_environment else ())]
    with importing():
        for name in names:
            importlib.import_module(name)


def _trial_job(plan: Plan, container: Container, finish: Finish, number: int, parallel: int) -> TrialJob:
    """Gives the worker of a number its share of CPUs and GPUs; workers share GPUs where there are fewer."""
    names, each = name_gpus(container.num_gpus), container.num_gpus // parallel
    gpus = names[number * each : (number + 1) * each] if each else [names[number % len(names)]] if names else []
    own = replace(container, hyperparameters={}, num_cpus=container.num_cpus // parallel, num_gpus=len(gpus))
    return TrialJob(own, plan.job.settings, plan.root.resolve(), finish, tuple(gpus))


@dataclass
class _Slot:
    """A place for one training job at a time.

    Attributes:
        job: What its training jobs have in common.
        worker: Its process, once it has had a job.
        config: The training job that runs; None if none does.
        progress: What that has last sent.
        restarts: How often its process has died.
    """

    job: TrialJob
    worker: Worker | None = None
    config: Mapping[str, Any] | None = None
    progress: Progress = field(default_factory=Progress)
    restarts: int = 0

    def begin(self, config: Mapping[str, Any]) -> None:
        """Starts a training job."""
        self.config, self.progress, self.restarts = config, Progress(), 0
        self._run()

    def restart(self) -> bool:
        """Starts the training job again, whose process has died; False if it has died too often."""
        self.close()
        self.restarts += 1
        if self.restarts > _RESTARTS:
            return False
        self._run()
        return True

    def _run(self) -> None:
        self.worker = self.worker or Worker(self.job.run)
        self.worker.send(self.config)

    def close(self) -> None:
        """Ends the process, if there is one."""
        if self.worker is not None:
            self.worker.close(at_once=self.config is not None)
            self.worker = None


def _fill(slots: list[_Slot], search: PointSearch, trials: _Trials) -> bool:
    """Starts training jobs where there is room; returns whether any runs."""
    for slot in slots:
        trials.end_if_asked()
        if slot.config is None:
            config = search.suggest()
            if config is None or config == FINISHED:
                break
            assert isinstance(config, dict)
            slot.begin(config)
            trials.begin(config)
    return any(slot.config is not None for slot in slots)


def _advance(slots: list[_Slot], trials: _Trials) -> None:
    """Waits for the next messages of training jobs, for a moment, and answers them."""
    running = {slot.worker.connection: slot for slot in slots if slot.config is not None and slot.worker is not None}
    for connection in wait(list(running), _LOOK_EVERY_S):
        slot = running[connection]  # type: ignore[index]  # it returns some of what it was given
        assert slot.worker is not None
        assert slot.config is not None
        trials.end_if_asked()
        try:
            slot.progress = slot.worker.receive()
        except EOFError:
            if not slot.restart():
                trials.end_dead(slot.config, slot.progress)
                slot.config = None
            continue
        if slot.progress.is_over:
            trials.end(slot.config, slot.progress)
            slot.config = None
        else:
            slot.worker.send(trials.may_go_on(slot.config, slot.progress))


class _Trials:
    """Records the state of each training job, reports results to the search, and updates the display."""

    def __init__(self, plan: Plan, search: PointSearch, stop: StopRequest, display: TuningLines) -> None:
        self._plan = plan
        self._search = search
        self._stop = stop
        self._display = display
        self._running: dict[tuple[int, int], Record] = {}
        self._failed: set[int] = set()
        self.platform_fault = ""
        self._started = time.monotonic()

    def stop_reason(self) -> str:
        """Returns why the tuning ends; empty if it continues."""
        job = self._plan.job
        if self.platform_fault:
            return self.platform_fault
        if self._stop.is_set:
            return f"stopped by {self._stop.signal_name}"
        if job.max_runtime_s is not None and time.monotonic() - self._started > job.max_runtime_s:
            return f"MaxRuntimeInSeconds {job.max_runtime_s:g} reached"
        if len(self._failed) >= _FAILURES_AT_FIRST and not self._has_succeeded:
            return f"the first {len(self._failed)} trials failed"
        return f"TargetObjectiveMetricValue {job.target:g} reached" if self._search.has_reached_target else ""

    @property
    def _has_succeeded(self) -> bool:
        jobs = (job for trial in self._search.trials.values() for job in trial.jobs.values())
        return any(job.state in ("completed", "stopped") for job in jobs)

    def end_if_asked(self) -> None:
        """Ends the search, and every training job after its iteration, once there is a reason to."""
        if not self._search.is_over and self.stop_reason():
            self._search.is_over = True

    def begin(self, config: Mapping[str, Any]) -> None:
        """Records a training job that starts."""
        record = self._to_record(config, Progress(), "started")
        jobs = self._search.trials[record.trial].jobs
        if record.seed not in jobs:
            jobs[record.seed] = record
            append_record(self._plan.root, record)
        self._show()

    def may_go_on(self, config: Mapping[str, Any], progress: Progress) -> bool:
        """Records an iteration of a training job; returns whether the job continues."""
        record = self._to_record(config, progress, "started")
        self._running[record.trial, record.seed] = record
        self._show()
        if self._search.is_over:
            return False
        if record.objective is None or not config["is_scheduled"]:
            return True
        return not self._search.should_stop(record.trial, record.training_iteration, record.objective)

    def end(self, config: Mapping[str, Any], progress: Progress) -> None:
        """Records a training job that has ended or was stopped."""
        most = self._plan.job.resources[1] if self._plan.job.resources else math.inf
        has_ended = progress.has_ended or progress.iteration >= most
        if not has_ended and not progress.fault and self._search.is_over:
            return  # it is resumed when the tuning is started again
        reason = progress.fault
        if reason and progress.is_platforms:  # a full disk is not the point's fault: it is retried
            self.platform_fault = self.platform_fault or reason
            return
        if not reason and self._plan.job.read_objective(progress.row) is None:
            names = ", ".join(sorted(progress.row))
            reason = f"its metrics have no {self._plan.job.objective}: {names or 'no iteration ended'}"
        self._end(config, progress, "failed" if reason else "completed" if has_ended else "stopped", reason)

    def end_dead(self, config: Mapping[str, Any], progress: Progress) -> None:
        """Records a training job whose process died too often."""
        reason = f"its process died {_RESTARTS + 1} times; see {LOG} in its folder, and the memory"
        self._end(config, progress, "failed", reason)

    def _end(self, config: Mapping[str, Any], progress: Progress, state: State, reason: str) -> None:
        record = self._to_record(config, progress, state, reason)
        if state == "failed":
            self._failed.add(record.trial)
        self._running.pop((record.trial, record.seed), None)
        append_record(self._plan.root, record)
        self._search.end(record)
        self._display.ended(record)
        self._show()

    def _show(self) -> None:
        self._display.progress(list(self._search.trials.values()), self._running)

    def _to_record(self, config: Mapping[str, Any], progress: Progress, state: State, reason: str = "") -> Record:
        row = progress.row
        return Record(
            trial=config["trial"],
            seed=config["seed"],
            state=state,
            hyperparameters=config["point"],
            folder=config["folder"],
            objective=self._plan.job.read_objective(row),
            training_iteration=progress.iteration,
            timesteps_total=int(row.get("timesteps_total", 0)),
            time_total_s=float(row.get("time_total_s", 0.0)),
            reason=reason,
        )

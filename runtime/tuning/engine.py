"""Runs trials on Ray Tune: several at a time, with reused processes and early stopping."""

from __future__ import annotations

import logging
import math
import tempfile
import time
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler
from ray.tune.search import Searcher

from runtime.cluster.session import ray_session
from runtime.container.layout import Container
from runtime.container.scratch import scratch_folder
from runtime.container.signals import StopRequest
from runtime.errors import PlatformError
from runtime.outputs.result import Finish
from runtime.tuning.display import TuningLines
from runtime.tuning.records import Plan, Record, State, append_record
from runtime.tuning.request import TuningJob
from runtime.tuning.search import GRACE_ITERATIONS, JUDGED_AFTER_TRIALS, REDUCTION, PointSearch
from runtime.tuning.trial import LOG, TrialJob, ask_to_stop, forget_stops

# A process that dies (out of memory, a kill) is restarted; its job resumes from its checkpoint.
_RESTARTS = 2
# This many failures before the first success point to the job, not to a hyperparameter.
_FAILURES_AT_FIRST = 3


def run_trials(plan: Plan, container: Container, stop: StopRequest, display: TuningLines, finish_trial: Finish) -> str:
    """Runs the remaining trials; `prepare_environment` must have been called before Ray Tune was imported.

    Returns:
        Why it ended.

    Raises:
        PlatformError: The machine failed a training job.
    """
    parallel = max(1, min(plan.job.max_parallel, container.num_cpus))
    if parallel < plan.job.max_parallel:
        display.note(f"{plan.job.max_parallel} training jobs at a time asked for, {parallel} run: one a CPU")
    search = PointSearch(plan.job, plan.trials, plan.parents, seeds=plan.seeds, random_seed=plan.random_seed)
    log = _Log(plan, search, stop, display)
    each = container.num_cpus // parallel
    gpus = container.num_gpus // parallel or container.num_gpus / parallel  # Ray shares one GPU, but not 1.5
    fixed = {"job": plan.job, "root": str(plan.root.resolve()), "container": container, "cpus": each}
    fixed["gpus"] = math.ceil(gpus)
    fixed["finish"] = finish_trial
    resources = {"cpu": each, "gpu": gpus}
    forget_stops(plan.root)
    with (
        ray_session(num_cpus=container.num_cpus, num_gpus=container.num_gpus, stop=stop),
        tempfile.TemporaryDirectory(prefix="tune-", dir=scratch_folder()) as scratch,
    ):
        logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # failures are reported by our own lines
        tune.Tuner(
            tune.with_resources(tune.with_parameters(TrialJob, fixed=fixed), resources),
            tune_config=tune.TuneConfig(
                search_alg=_Suggestions(search, maximize=plan.job.maximize),
                scheduler=_make_scheduler(plan.job, plan.root),
                num_samples=-1,
                max_concurrent_trials=parallel,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tuning",
                storage_path=scratch,
                callbacks=[log],
                verbose=0,
                failure_config=tune.FailureConfig(max_failures=_RESTARTS),
                # Our own checkpoints are in the results folders.
                checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False, checkpoint_frequency=0),
            ),
        ).fit()
    if log.platform_fault:
        raise PlatformError(f"{log.platform_fault} Then start the tuning again to resume {plan.root}.")
    return log.stop_reason() or search.finish_reason


class _Suggestions(Searcher):  # type: ignore[misc]
    """Ray Tune's view of the search, which learns of results by `PointSearch.end` with the complete record."""

    def __init__(self, search: PointSearch, *, maximize: bool) -> None:
        super().__init__(metric="objective", mode="max" if maximize else "min")
        self._search = search

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next training job; None if running jobs may lead to more, or FINISHED."""
        return self._search.suggest()

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing, as `PointSearch.end` gets the complete record."""

    def save(self, checkpoint_path: str) -> None:
        """Does nothing, as tuning.jsonl holds everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing, as tuning.jsonl holds everything."""


def _make_scheduler(job: TuningJob, root: Path) -> TrialScheduler:
    """Makes the scheduler that stops training jobs early.

    Source: Li et al. 2018 (asynchronous successive halving); Golovin et al. 2017 (the median rule).
    """
    how = {"metric": "objective", "mode": "max" if job.maximize else "min"}
    if job.resources is not None:
        low, high = job.resources  # which the jobs end at by themselves
        return _Halving(
            root, time_attr="iteration", grace_period=low, max_t=high + 1, reduction_factor=REDUCTION, **how
        )
    if job.stops_early:
        return _Median(
            root, time_attr="iteration", grace_period=GRACE_ITERATIONS, min_samples_required=JUDGED_AFTER_TRIALS, **how
        )
    return FIFOScheduler()


class _StopByRequest(TrialScheduler):  # type: ignore[misc]
    """Requests a job to stop instead of killing it, as Ray Tune gives a process ten seconds to write its results."""

    def __init__(self, root: Path, **options: Any) -> None:
        super().__init__(**options)
        self._root = root

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Turns the rule's decision to stop into a stop request."""
        action = super().on_trial_result(tune_controller, trial, result)
        if action != TrialScheduler.STOP:
            return str(action)
        ask_to_stop(self._root / trial.config["folder"])
        return str(TrialScheduler.CONTINUE)

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Leaves jobs without an objective, and all but the first seed of a trial, out of the comparison."""
        if "objective" in result:
            super().on_trial_complete(tune_controller, trial, result)


class _Halving(_StopByRequest, ASHAScheduler):  # type: ignore[misc]
    pass


class _Median(_StopByRequest, MedianStoppingRule):  # type: ignore[misc]
    pass


class _Log(tune.Callback):  # type: ignore[misc]
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

    def __reduce__(self) -> Any:  # Ray Tune saves what it was given; nothing here is restored from that
        return (tune.Callback, ())

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

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Requests every running job to stop once there is a reason to end; called in each turn of Ray Tune's loop."""
        if self.stop_reason() and not self._search.is_over:
            self._search.is_over = True
            for trial in trials:
                if not trial.is_finished():
                    ask_to_stop(self._plan.root / trial.config["folder"])

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records a training job that starts, or resumes after its process died."""
        record = self._to_record(trial, "started")
        jobs = self._search.trials[record.trial].jobs
        if record.seed not in jobs:
            jobs[record.seed] = record
            append_record(self._plan.root, record)
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """Records an iteration of a training job."""
        record = self._to_record(trial, "started")
        self._running[record.trial, record.seed] = record
        self._show()

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records a training job that has ended or was stopped."""
        result = trial.last_result or {}
        most = self._plan.job.resources[1] if self._plan.job.resources else math.inf
        has_ended = result.get("has_ended", False) or result.get("iteration", 0) >= most
        if not has_ended and self._search.is_over:
            return  # it is resumed when the tuning is started again
        reason = result.get("fault", "")
        if reason and result.get("is_platforms"):  # a full disk is not the point's fault: it is retried
            self.platform_fault = self.platform_fault or reason
            return
        if not reason and self._plan.job.read_objective(result.get("row", {})) is None:
            names = ", ".join(sorted(result.get("row", {})))
            reason = f"its metrics have no {self._plan.job.objective}: {names or 'no iteration ended'}"
        self._end(trial, "failed" if reason else "completed" if has_ended else "stopped", reason)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Records a training job whose process died too often."""
        self._end(trial, "failed", f"its process died {_RESTARTS + 1} times; see {LOG} in its folder, and the memory")

    def _end(self, trial: Any, state: State, reason: str) -> None:
        record = self._to_record(trial, state, reason)
        if state == "failed":
            self._failed.add(record.trial)
        self._running.pop((record.trial, record.seed), None)
        append_record(self._plan.root, record)
        self._search.end(record)
        self._display.ended(record)
        self._show()

    def _show(self) -> None:
        self._display.progress(list(self._search.trials.values()), self._running)

    def _to_record(self, trial: Any, state: State, reason: str = "") -> Record:
        row = (trial.last_result or {}).get("row", {})
        return Record(
            trial=trial.config["trial"],
            seed=trial.config["seed"],
            state=state,
            hyperparameters=trial.config["point"],
            folder=trial.config["folder"],
            objective=self._plan.job.read_objective(row),
            training_iteration=int(row.get("training_iteration", 0)),
            timesteps_total=int(row.get("timesteps_total", 0)),
            time_total_s=float(row.get("time_total_s", 0.0)),
            reason=reason,
        )

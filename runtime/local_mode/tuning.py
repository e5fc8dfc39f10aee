"""A tuning job in the SageMaker SDK's local mode: each trial is a training job in containers on this machine."""

from __future__ import annotations

import queue
import re
import secrets
import sys
import threading
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.local_mode.training import ARN, LOG, TrainingJob
from runtime.tuning.display import short_name, show_value
from runtime.tuning.records import FILE, Record, State, Trial, append_record, best_trial, gather_trials, read_records
from runtime.tuning.request import TuningJob, parse_job
from runtime.tuning.search import PointSearch

# This many failures before the first success point to the job, not to a hyperparameter.
_FAILURES_AT_FIRST = 3
_SEED = 0  # SageMaker's tuner knows none: a trial is one training job
_PACE_S = 1.0  # between looks at the clock
_STATES: Mapping[str, State] = {"Completed": "completed", "Stopped": "stopped", "Failed": "failed"}
# Starts a training job: its request, what is called with each line of its log, and what is called at its end.
Start = Callable[[Mapping[str, Any], Path, Callable[[str], None], Callable[[], None]], TrainingJob]


def read_request(request: Mapping[str, Any]) -> TuningJob:
    """Reads the request of CreateHyperParameterTuningJob.

    Raises:
        UserError: Anything is missing, unknown, or out of range.
    """
    job = parse_job(request, source="the tuner")
    defined = request["TrainingJobDefinition"].get("AlgorithmSpecification", {}).get("MetricDefinitions") or ()
    for one in defined:
        try:
            re.compile(one["Regex"])
        except re.error as error:
            raise UserError(
                f"metric_definitions: got the regex {one['Regex']!r} for {one['Name']!r} from the tuner; expected a "
                f"regular expression of Python's ({error})."
            ) from None
    if not job.regex:
        names = ", ".join(one["Name"] for one in defined)
        raise UserError(
            f"objective_metric_name: got {job.objective!r} from the tuner; expected a name of its metric_definitions, "
            f"{names or 'of which there are none'}. Their regexes find the metric in a training job's log."
        )
    return job


class Tuning(threading.Thread):
    """A tuning job, whose training jobs this thread starts, judges and stops.

    Args:
        request: Of CreateHyperParameterTuningJob.
        job: The same, read.
        root: Folder of its log, and of each training job's.
        start: Starts a training job.

    Attributes:
        jobs: Its training jobs, by the number of the trial.
        reason: Why it failed.
    """

    def __init__(self, request: Mapping[str, Any], job: TuningJob, root: Path, start: Start) -> None:
        super().__init__(name=str(request["HyperParameterTuningJobName"]))
        self.request, self._job, self._root, self._start = request, job, root, start
        self._search = PointSearch(
            job,
            (),
            [trial for parent in job.parents for trial in _read_parent(root.parent / parent)],
            seeds=(_SEED,),
            random_seed=job.random_seed if job.random_seed is not None else secrets.randbelow(2**31),
        )
        self.jobs: dict[int, TrainingJob] = {}
        self.reason = ""
        self._why_ended = ""
        self._overdue: set[int] = set()
        self._records: dict[int, Record] = {}
        self._created = datetime.now(UTC)
        self._ended: datetime | None = None
        self._is_asked_to_stop = False
        self._has_ended = threading.Event()
        # A value of a trial's objective as its log has it, or None at its end.
        self._events: queue.Queue[tuple[int, float | None]] = queue.Queue()
        self._root.mkdir(parents=True, exist_ok=True)

    def run(self) -> None:
        """Runs trials until there is a reason to end."""
        began = time.monotonic()
        try:
            while self._start_trials() or self._running:
                try:
                    number, value = self._events.get(timeout=_PACE_S)
                except queue.Empty:
                    pass
                else:
                    self._end_trial(number) if value is None else self._judge(number, value)
                self._stop_the_overdue()
                if not self._search.is_over and (why := self._why_stop(time.monotonic() - began)):
                    self._why_ended = why
                    _print(f"smrl: {self.name} ends: {why}")
                    self._search.is_over = True
                    self._stop_all()
        except BaseException as error:  # a fault of ours must not look like a tuning that still runs
            self.reason = f"{type(error).__name__}: {error}"
            self._stop_all()
            raise
        finally:
            self._finish()

    @property
    def _running(self) -> list[int]:
        return [number for number, record in self._records.items() if not record.has_ended]

    def _start_trials(self) -> bool:
        """Starts as many as may run; whether it has started any."""
        count = len(self._records)
        while len(self._running) < self._job.max_parallel:
            suggestion = self._search.suggest()
            if not isinstance(suggestion, dict):
                break
            self._start_trial(suggestion["trial"], suggestion["point"])
        return len(self._records) > count

    def _start_trial(self, number: int, point: Mapping[str, Any]) -> None:
        name = f"{self.name}-{number:03d}"
        self._keep(Record(number, _SEED, "started", point, name))

        def on_line(line: str) -> None:
            value = self._job.read_line(line)
            if value is not None:
                self._events.put((number, value))

        request = self._describe_trial(name, point)
        self.jobs[number] = self._start(request, self._root / name, on_line, lambda: self._events.put((number, None)))

    def _describe_trial(self, name: str, point: Mapping[str, Any]) -> dict[str, Any]:
        """The request of CreateTrainingJob that SageMaker's tuner makes of the definition."""
        request: dict[str, Any] = deepcopy(dict(self.request["TrainingJobDefinition"]))
        static = request.pop("StaticHyperParameters", {})
        for tuners_own in ("DefinitionName", "TuningObjective", "HyperParameterRanges", "RetryStrategy"):
            request.pop(tuners_own, None)
        resources = request.pop("HyperParameterTuningResourceConfig", None)
        if resources is not None:
            several = resources.pop("InstanceConfigs", None)
            request["ResourceConfig"] = {**resources, **several[0]} if several else resources
        tuned = {key: str(value) for key, value in point.items()}
        output = request["OutputDataConfig"]
        if not output["S3OutputPath"].startswith("s3://"):  # where the SDK adds the name itself
            target = output["S3OutputPath"].rstrip("/") or f"file://{self._root.absolute()}"
            output["S3OutputPath"] = f"{target}/{name}/output"
        return {
            **request,
            "TrainingJobName": name,
            "HyperParameters": {**static, **tuned, "_tuning_objective_metric": self._job.objective},
        }

    def _judge(self, number: int, value: float) -> None:
        """Notes a value of the objective, and stops the trial if the early stopping says so."""
        before = self._records[number]
        count = before.training_iteration + 1
        self._records[number] = replace(before, objective=value, training_iteration=count)
        if self._search.should_stop(number, count, value):
            self.jobs[number].stop()

    def _end_trial(self, number: int) -> None:
        job, before = self.jobs[number], self._records[number]
        state, reason = _STATES[job.status], job.reason
        if state == "stopped" and number in self._overdue:
            state = "completed"  # as `smrl tune` has a training that its time limit ends
        if state == "completed" and before.objective is None:
            state = "failed"
            reason = (
                f"no line of its log has {self._job.objective}; expected one that the regex {self._job.regex!r} of its "
                f"metric_definitions finds"
            )
            job.fail(reason)
        assert job.ended is not None
        seconds = (job.ended - job.started).total_seconds()
        record = replace(before, state=state, time_total_s=seconds, reason=reason)
        self._keep(record)
        self._search.end(record)
        point = " ".join(f"{short_name(name)}={show_value(value)}" for name, value in record.hyperparameters.items())
        score = "" if record.objective is None else f" {self._job.objective}: {record.objective:.6g}"
        _print(f"{job.name}: {job.status}{score} {point}")
        if reason:
            _print(f"smrl: {job.name} failed: {reason} ({job.folder / LOG})")

    def _keep(self, record: Record) -> None:
        self._records[record.trial] = record
        append_record(self._root, record)
        self._search.trials[record.trial].jobs[record.seed] = record

    def _why_stop(self, seconds: float) -> str:
        """Why the tuning ends before its last trial, or an empty text."""
        if self._is_asked_to_stop:
            return "stopped"
        if self._job.max_runtime_s is not None and seconds > self._job.max_runtime_s:
            return f"MaxRuntimeInSeconds {self._job.max_runtime_s:g} reached"
        states = [record.state for record in self._records.values()]
        if states.count("failed") >= _FAILURES_AT_FIRST and not {"completed", "stopped"} & set(states):
            return f"the first {states.count('failed')} training jobs failed"
        return "the target is reached" if self._search.has_reached_target else ""

    def _stop_the_overdue(self) -> None:
        """SageMaker's StoppingCondition, which the SDK's local mode does not read."""
        longest = self.request["TrainingJobDefinition"].get("StoppingCondition", {}).get("MaxRuntimeInSeconds")
        for number in self._running:
            job = self.jobs[number]
            if longest is not None and (datetime.now(UTC) - job.started).total_seconds() > longest:
                self._overdue.add(number)
                job.stop()

    def stop(self) -> None:
        """Ends it: its training jobs save and end, and no other starts."""
        self._is_asked_to_stop = True

    def _stop_all(self) -> None:
        for job in self._running_jobs:
            job.stop()

    @property
    def _running_jobs(self) -> list[TrainingJob]:
        """Training jobs of the trials that run; one that could not be started has none."""
        return [self.jobs[number] for number in self._running if number in self.jobs]

    def _finish(self) -> None:
        try:
            for job in self._running_jobs:  # after a fault alone
                job.wait()
            if not self.reason and not self._is_asked_to_stop and self._best() is None:
                reasons = sorted({record.reason for record in self._records.values() if record.reason})
                why = "; ".join(reasons) or self._why_ended
                self.reason = f"no training job of {len(self._records)} completed; the reasons: {why}"
        finally:
            self._ended = datetime.now(UTC)
            self._has_ended.set()

    def wait(self) -> None:
        """Waits for its end; not `join`, which takes a thread for ended once a Ctrl-C has interrupted it."""
        self._has_ended.wait()

    @property
    def status(self) -> str:
        """SageMaker's HyperParameterTuningJobStatus."""
        if self._ended is None:
            return "Stopping" if self._is_asked_to_stop else "InProgress"
        return "Failed" if self.reason else "Stopped" if self._is_asked_to_stop else "Completed"

    def _best(self) -> TrainingJob | None:
        best = best_trial(gather_trials(list(self._records.values())), seeds=1, maximize=self._job.maximize)
        return None if best is None else self.jobs[best.number]

    def describe(self) -> dict[str, Any]:
        """What DescribeHyperParameterTuningJob answers."""
        answer = deepcopy(dict(self.request))
        static = answer["TrainingJobDefinition"].setdefault("StaticHyperParameters", {})
        static["_tuning_objective_metric"] = self._job.objective
        records = list(self._records.values())  # the tuning's thread adds to them
        states = [record.state for record in records]
        scored = sum(record.objective is not None and record.has_ended for record in records)
        answer |= {
            "HyperParameterTuningJobArn": f"{ARN}:hyper-parameter-tuning-job/{self.name}",
            "HyperParameterTuningJobStatus": self.status,
            "CreationTime": self._created,
            "LastModifiedTime": self._ended or datetime.now(UTC),
            "TrainingJobStatusCounters": {
                "Completed": states.count("completed"),
                "InProgress": states.count("started"),
                "RetryableError": 0,
                "NonRetryableError": states.count("failed"),
                "Stopped": states.count("stopped"),
            },
            "ObjectiveStatusCounters": {
                "Succeeded": scored,
                "Pending": states.count("started"),
                "Failed": len(states) - scored - states.count("started"),
            },
        }
        if self._ended is not None:
            answer["HyperParameterTuningEndTime"] = self._ended
        if self.reason:
            answer["FailureReason"] = self.reason
        best = self._best()
        if best is not None:
            answer["BestTrainingJob"] = next(one for one in self.list_jobs() if one["TrainingJobName"] == best.name)
        return answer

    def list_jobs(self) -> list[dict[str, Any]]:
        """Summaries of the training jobs, as ListTrainingJobsForHyperParameterTuningJob answers."""
        return [self._summarize(job, self._records[number]) for number, job in list(self.jobs.items())]

    def _summarize(self, job: TrainingJob, record: Record) -> dict[str, Any]:
        described = job.describe()
        names = (
            *("TrainingJobName", "TrainingJobArn", "TrainingJobStatus", "CreationTime", "TrainingStartTime"),
            *("TrainingEndTime", "FailureReason"),
        )
        status = "Pending" if not record.has_ended else "Succeeded" if record.objective is not None else "Failed"
        summary = {name: described[name] for name in names if name in described}
        summary["TunedHyperParameters"] = {name: str(value) for name, value in record.hyperparameters.items()}
        summary["ObjectiveStatus"] = status
        if record.objective is not None:
            objective = {"MetricName": self._job.objective, "Value": record.objective}
            summary["FinalHyperParameterTuningJobObjectiveMetric"] = objective
        return summary


def _read_parent(folder: Path) -> list[Trial]:
    if not (folder / FILE).is_file():
        raise UserError(
            f"WarmStartConfig: got {folder.name!r}; expected the name of a tuning job of this folder, {folder.parent}, "
            f"with its {FILE}."
        )
    return gather_trials(read_records(folder))


def _print(text: str) -> None:
    """On stdout, which a notebook shows below the cell."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()

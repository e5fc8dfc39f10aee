"""The SageMaker SDK's local session whose training jobs keep their results at a Ctrl-C, and which tunes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import boto3
from botocore.exceptions import ClientError
from sagemaker.config import load_local_mode_config
from sagemaker.local import LocalSession
from sagemaker.local.local_session import LocalSagemakerClient

from runtime.local_mode.docker import count_cpus, find_image
from runtime.local_mode.training import ARN, LOG, Account, TrainingJob
from runtime.local_mode.tuning import Tuning, read_request
from runtime.tuning.records import FILE

T = TypeVar("T")
_REGION = "us-east-1"  # which the SDK wants even where nothing calls AWS
_NO_BUCKET = "local-mode-has-no-bucket"
# SageMaker's time between a stop and a kill, where Docker's is 10 s; and more than Docker's 64 MB for Ray's store.
_CONTAINERS = {"stop_grace_period": "120s", "shm_size": "1gb"}


class TuningLocalSession(LocalSession):  # type: ignore[misc]
    """A LocalSession for `HyperparameterTuner`, too.

    Args:
        boto_session: A boto3 session; the environment's own if None. No call is made unless data are on S3.
        folder: Where logs go, and results of jobs without an output_path.
        config: Configuration of the SDK's local mode, as `{"local": {"serving_port": 8081}}`.
    """

    def __init__(self, boto_session: Any, folder: Path, config: Mapping[str, Any]) -> None:
        super().__init__(boto_session or boto3.Session(region_name=boto3.Session().region_name or _REGION))
        own: dict[str, Any] = dict(load_local_mode_config() or {})  # ~/.sagemaker/config.yaml
        local = {"local_code": True, **own.get("local", {}), **config.get("local", {})}
        local["container_config"] = {**_CONTAINERS, **local.get("container_config", {})}
        self.config = {**own, **config, "local": local}
        self.sagemaker_client = _Client(self, folder)

    def default_bucket(self) -> str:
        """The account's bucket; without an account a name, which the SDK wants even where it uploads nothing."""
        return str(super().default_bucket()) if self.boto_session.get_credentials() else _NO_BUCKET

    def logs_for_transform_job(self, job_name: str, wait: bool = False, poll: int = 10) -> None:
        """Does nothing, where the SDK's session asks CloudWatch: the log of a local transform job has been shown."""

    def wait_for_tuning_job(self, job: str, poll: int = 5) -> Any:
        """Waits for a tuning job; a Ctrl-C stops it."""
        tuning = self.sagemaker_client.tunings.get(job)
        if tuning is not None:
            try:
                tuning.wait()
            except KeyboardInterrupt:
                _note("stopping; running training jobs save first")
                tuning.stop()
                tuning.wait()
        return super().wait_for_tuning_job(job, poll)

    @property
    def account(self) -> Account:
        """What a job's process needs of this session."""
        found = self.boto_session.get_credentials()
        keys = None if found is None else found.get_frozen_credentials()
        aws = {
            "region_name": self.boto_session.region_name,
            "aws_access_key_id": keys and keys.access_key,
            "aws_secret_access_key": keys and keys.secret_key,
            "aws_session_token": keys and keys.token,
        }
        return Account(aws, self.s3_endpoint_url, {"local": self.config["local"]})


class _Client(LocalSagemakerClient):  # type: ignore[misc]
    """SageMaker's API on this machine: the SDK's for models, endpoints and transforms; ours for trainings, tunings."""

    def __init__(self, session: TuningLocalSession, folder: Path) -> None:
        super().__init__(session)
        self._folder = folder
        self._trainings: dict[str, TrainingJob] = {}
        self.tunings: dict[str, Tuning] = {}

    def create_training_job(self, **request: Any) -> None:
        """Runs a training job to its end; a Ctrl-C stops it, and its results so far are kept.

        The interrupt is not raised again: the SDK would swallow it, and with it what the estimator knows of the job.
        """
        count_cpus()
        find_image(request["AlgorithmSpecification"]["TrainingImage"])
        folder = self._folder / request["TrainingJobName"]
        account = self.sagemaker_session.account
        job = self._start_training(request, account, folder, on_line=lambda line: print(line, flush=True))
        try:
            job.wait()
        except KeyboardInterrupt:
            _note("stopping; the training job saves first")
            job.stop()
            job.wait()
        if job.status == "Failed":
            raise RuntimeError(f"training job {job.name} failed: {job.reason} (log: {job.folder / LOG})")

    def _start_training(
        self, request: Mapping[str, Any], account: Account, folder: Path, **calls: Callable[..., None]
    ) -> TrainingJob:
        output = request["OutputDataConfig"]
        if not output.get("S3OutputPath"):
            output = {**output, "S3OutputPath": f"file://{(folder / 'output').absolute()}"}
        job = TrainingJob({**request, "OutputDataConfig": output}, account, folder, **calls)
        self._trainings[job.name] = job
        job.start()
        return job

    def describe_training_job(self, TrainingJobName: str) -> dict[str, Any]:  # noqa: N803, AWS's name
        """DescribeTrainingJob."""
        return _find(self._trainings, TrainingJobName).describe()

    def stop_training_job(self, TrainingJobName: str) -> None:  # noqa: N803, AWS's name
        """StopTrainingJob."""
        _find(self._trainings, TrainingJobName).stop()

    def list_tags(self, **_: Any) -> dict[str, Any]:
        """ListTags, which `Estimator.attach` calls: a local job has none."""
        return {"Tags": []}

    def create_hyper_parameter_tuning_job(self, **request: Any) -> dict[str, str]:
        """Starts a tuning job, which goes on in a thread."""
        job = read_request(request)
        cpus = count_cpus()
        find_image(request["TrainingJobDefinition"]["AlgorithmSpecification"]["TrainingImage"])
        account = _share_cpus(self.sagemaker_session.account, cpus, job.max_parallel)

        def start(
            trial: Mapping[str, Any], folder: Path, on_line: Callable[[str], None], on_end: Callable[[], None]
        ) -> TrainingJob:
            return self._start_training(trial, account, folder, on_line=on_line, on_end=on_end)

        name = request["HyperParameterTuningJobName"]
        if name in self.tunings or (self._folder / name / FILE).exists():
            raise _error(f"got {name!r}, which exists; expected a new HyperParameterTuningJobName")
        tuning = self.tunings[name] = Tuning(request, job, self._folder / name, start)
        tuning.start()
        many = f"training jobs: {job.max_trials}, {min(job.max_parallel, job.max_trials)} at a time on {cpus} CPUs"
        _note(f"{name}: {many}; logs in {self._folder / name}")
        return {"HyperParameterTuningJobArn": f"{ARN}:hyper-parameter-tuning-job/{name}"}

    def describe_hyper_parameter_tuning_job(self, HyperParameterTuningJobName: str) -> dict[str, Any]:  # noqa: N803, AWS's name
        """DescribeHyperParameterTuningJob."""
        return _find(self.tunings, HyperParameterTuningJobName).describe()

    def stop_hyper_parameter_tuning_job(self, HyperParameterTuningJobName: str) -> None:  # noqa: N803, AWS's name
        """StopHyperParameterTuningJob."""
        _find(self.tunings, HyperParameterTuningJobName).stop()

    def list_training_jobs_for_hyper_parameter_tuning_job(
        self,
        HyperParameterTuningJobName: str,  # noqa: N803, AWS's name
        MaxResults: int = 100,  # noqa: N803, AWS's name
        NextToken: str = "0",  # noqa: N803, AWS's name
        StatusEquals: str = "",  # noqa: N803, AWS's name
        SortBy: str = "Name",  # noqa: N803, AWS's name
        SortOrder: str = "Ascending",  # noqa: N803, AWS's name
    ) -> dict[str, Any]:
        """ListTrainingJobsForHyperParameterTuningJob."""
        jobs = _find(self.tunings, HyperParameterTuningJobName).list_jobs()
        found = [job for job in jobs if not StatusEquals or job["TrainingJobStatus"] == StatusEquals]
        if SortBy == "FinalObjectiveMetricValue":
            found = [job for job in found if _OBJECTIVE in job]
        found.sort(key=_SORTS[SortBy], reverse=SortOrder == "Descending")
        begin, end = int(NextToken), int(NextToken) + MaxResults
        rest = {"NextToken": str(end)} if end < len(found) else {}
        return {"TrainingJobSummaries": found[begin:end], **rest}


_OBJECTIVE = "FinalHyperParameterTuningJobObjectiveMetric"
_SORTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "Name": lambda job: job["TrainingJobName"],
    "CreationTime": lambda job: job["CreationTime"],
    "Status": lambda job: job["TrainingJobStatus"],
    "FinalObjectiveMetricValue": lambda job: job[_OBJECTIVE]["Value"],
}


def _share_cpus(account: Account, cpus: int, parallel: int) -> Account:
    """Gives each of several training jobs its part of the CPUs, by which a job of smrl chooses its processes."""
    local = account.config["local"]
    container = dict(local["container_config"])
    if parallel > 1:
        container.setdefault("cpus", round(cpus / parallel, 2))
    return replace(account, config={"local": {**local, "container_config": container}})


def _find(jobs: Mapping[str, T], name: str) -> T:
    if name not in jobs:
        raise _error(f"got {name!r}; expected a job that this session has started")
    return jobs[name]


def _error(text: str) -> ClientError:
    """What callers of AWS's API catch."""
    return ClientError({"Error": {"Code": "ValidationException", "Message": text}}, "local mode")


def _note(text: str) -> None:
    sys.stderr.write(f"smrl: {text}\n")
    sys.stderr.flush()

"""A training job of the SageMaker SDK's local mode: starts it, follows its log, stops it, describes it."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

LOG = "log.txt"
ARN = "arn:aws:sagemaker:local:000000000000"
_SOURCE = "sagemaker_submit_directory"
_WORKER = Path(__file__).with_name("worker.py")
_LOG_BEGINS, _MODEL_DATA = "smrl-log-begins", "smrl-model-data: "  # the worker's
# Colors and cursors, as local mode gives containers a terminal; and Compose's name of the container.
_NOISE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]")
_BEFORE_THE_BAR = re.compile(r"^\S+\s*\| ")
_SOUNDS_LIKE_A_FAILURE = re.compile(r"error|denied|not found|no such|cannot|failed", re.IGNORECASE)


@dataclass(frozen=True)
class Account:
    """What a job's process needs of the session.

    Attributes:
        aws: Arguments of boto3.Session.
        s3_endpoint_url: Of the session; None for AWS's.
        config: Configuration of the SDK's local mode.
    """

    aws: Mapping[str, str | None]
    s3_endpoint_url: str | None
    config: Mapping[str, Any]


class TrainingJob(threading.Thread):
    """A training job, which runs in a process of its own while this thread follows its log.

    Args:
        request: Of CreateTrainingJob.
        account: What its process needs of the session.
        folder: Where its log goes.
        on_line: Called with each line of the log, without colors.
        on_end: Called when it has ended.

    Attributes:
        reason: Why it failed.
        model_data: URL of model.tar.gz, once there is one.
        started: When it began.
        ended: When it ended; None while it runs.
    """

    def __init__(
        self,
        request: Mapping[str, Any],
        account: Account,
        folder: Path,
        *,
        on_line: Callable[[str], None],
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(name=str(request["TrainingJobName"]))
        self.request, self.account, self.folder = request, account, folder
        self.reason, self.model_data = "", ""
        self.started = datetime.now(UTC)
        self.ended: datetime | None = None
        self._on_line, self._on_end = on_line, on_end
        self._values: dict[str, float] = {}
        defined = request["AlgorithmSpecification"].get("MetricDefinitions") or ()
        self._regexes = {one["Name"]: re.compile(one["Regex"]) for one in defined}
        self._is_stopping = False
        self._has_ended = threading.Event()
        self._process = self._begin()

    def _begin(self) -> subprocess.Popen[str]:
        scratch = self.folder / "container"
        scratch.mkdir(parents=True, exist_ok=True)
        words = {
            "request": self.request,
            "aws": self.account.aws,
            "s3_endpoint_url": self.account.s3_endpoint_url,
            "config": {"local": {**self.account.config["local"], "container_root": str(scratch)}},
        }
        process = subprocess.Popen(
            [sys.executable, "-P", str(_WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        assert process.stdin is not None
        process.stdin.write(json.dumps(words) + "\n")
        process.stdin.flush()
        return process

    def run(self) -> None:
        """Follows the job to its end."""
        try:
            self._follow()
        except BaseException as error:  # a full disk, or a fault of ours: wait() must return
            self.reason = f"{type(error).__name__}: {error}"
            self._process.kill()
            raise
        finally:
            self.ended = datetime.now(UTC)
            self._has_ended.set()
            self._on_end()

    def _follow(self) -> None:
        assert self._process.stdout is not None
        last, is_containers = "", False
        with (self.folder / LOG).open("w", encoding="utf-8") as log:
            for raw in self._process.stdout:
                line = _NOISE.sub("", raw)
                if line.startswith(_MODEL_DATA):
                    self.model_data = line.removeprefix(_MODEL_DATA)
                    continue
                if line == _LOG_BEGINS:
                    is_containers = True
                    continue
                log.write(line + "\n")
                log.flush()
                if line.strip() and (_SOUNDS_LIKE_A_FAILURE.search(line) or not last):
                    last = _BEFORE_THE_BAR.sub("", line).strip()
                if is_containers:  # before, the SDK speaks of its configuration
                    self._read_metrics(line)
                    self._on_line(line)
        code = self._process.wait()
        shutil.rmtree(self.folder / "container", ignore_errors=True)  # what root owns stays where the user is not root
        if code and not self._is_stopping:
            # Before there were containers, an output.tar.gz in that place is an earlier job's.
            told = _read_failure(self._output) if is_containers else ""
            self.reason = told or last or f"exit code {code}"

    def wait(self) -> None:
        """Waits for its end; not `join`, which takes a thread for ended once a Ctrl-C has interrupted it."""
        self._has_ended.wait()

    @property
    def status(self) -> str:
        """SageMaker's TrainingJobStatus."""
        if self.ended is None:
            return "Stopping" if self._is_stopping else "InProgress"
        return "Failed" if self.reason else "Stopped" if self._is_stopping else "Completed"

    def fail(self, reason: str) -> None:
        """Says of a job that has ended well that it is of no use."""
        self.reason = reason

    def _read_metrics(self, line: str) -> None:
        for name, regex in self._regexes.items():
            for found in regex.finditer(line):
                try:
                    self._values[name] = float(found.group(1))
                except (IndexError, ValueError):  # no group, or some other text
                    continue

    def stop(self) -> None:
        """Ends the job as SageMaker does: its containers may save first."""
        self._is_stopping = self._is_stopping or self.ended is None
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # of a process that has ended
            self._process.stdin.close()

    @property
    def _output(self) -> Path:
        return Path(urlparse(self.request["OutputDataConfig"]["S3OutputPath"]).path) / "output.tar.gz"

    def describe(self) -> dict[str, Any]:
        """What DescribeTrainingJob answers."""
        known = {
            "TrainingJobArn": f"{ARN}:training-job/{self.name}",
            "TrainingJobStatus": self.status,
            "SecondaryStatus": "Training" if self.ended is None else self.status,
            "CreationTime": self.started,
            "TrainingStartTime": self.started,
            "TrainingEndTime": self.ended,
            "ModelArtifacts": {"S3ModelArtifacts": self.model_data},
            "FinalMetricDataList": [
                {"MetricName": name, "Value": value, "Timestamp": self.ended or datetime.now(UTC)}
                for name, value in self._values.items()
            ],
            "FailureReason": self.reason,
        }
        # Both are absent in an answer of SageMaker's as long as they are unknown.
        absent = [name for name in ("TrainingEndTime", "FailureReason") if not known[name]]
        answer = deepcopy(dict(self.request))
        # As the SDK's attach reads it: a key, and the source folder as a path.
        answer["OutputDataConfig"].setdefault("KmsKeyId", "")
        source = answer.get("HyperParameters", {}).get(_SOURCE)
        if source is not None:
            answer["HyperParameters"][_SOURCE] = source.replace('"file://', '"', 1)
        return {**answer, **{key: value for key, value in known.items() if key not in absent}}


def _read_failure(output: Path) -> str:
    """The container's own words, /opt/ml/output/failure, which SageMaker takes for the FailureReason."""
    try:
        with tarfile.open(output) as archive:
            file = archive.extractfile("failure")
            return "" if file is None else file.read(1024).decode("utf-8", "replace").strip()
    except (OSError, KeyError, tarfile.TarError):
        return ""

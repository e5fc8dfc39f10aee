"""Runs one training job of the SageMaker SDK's local mode; a program of its own, which `training.py` starts.

In a process of its own a job's log is its stdout, several jobs can run at a time, and a stop reaches this job's Docker
Compose alone. It reads the job from the first line of stdin. When stdin closes, because the job shall stop or because
the parent is gone, Compose gets what a Ctrl-C in a terminal sends, and so gives the containers time to save.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from typing import Any

import boto3
from sagemaker.local import LocalSession, image

# What `training.py` reads: the line before the containers' log, and what is before the URL of model.tar.gz.
_LOG_BEGINS, _MODEL_DATA = "smrl-log-begins", "smrl-model-data: "
_INTERRUPTED = 130  # which the SDK takes for a success
_COMPOSE_STARTS = threading.Event()
_STOP = threading.Event()


class ComposeError(RuntimeError):
    """Compose or a container ended with an error, which is in the log."""


def main() -> None:
    """Runs the job that stdin describes."""
    signal.signal(signal.SIGINT, lambda *_: None)  # it is for Compose, which is of the same process group
    words = json.loads(sys.stdin.readline())
    lifeline = os.dup(0)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    threading.Thread(target=_stop_at_end, args=(lifeline,), daemon=True).start()
    image._stream_output = _stream
    session = LocalSession(boto3.Session(**words["aws"]), s3_endpoint_url=words["s3_endpoint_url"])
    session.config = words["config"]
    name = words["request"]["TrainingJobName"]
    try:
        session.sagemaker_client.create_training_job(**words["request"])
        found = session.sagemaker_client.describe_training_job(TrainingJobName=name)
    except ComposeError:
        sys.exit(1)
    except Exception as error:  # the SDK's
        sys.exit(f"{type(error).__name__}: {error}")
    print(_MODEL_DATA + str(found["ModelArtifacts"]["S3ModelArtifacts"]), flush=True)


def _stop_at_end(lifeline: int) -> None:
    while os.read(lifeline, 1024):
        pass
    _STOP.set()
    _COMPOSE_STARTS.wait()
    os.killpg(0, signal.SIGINT)


def _stream(process: subprocess.Popen[bytes]) -> int:
    """In the place of the SDK's own, which drops what is in the pipe when Compose ends: a job's last metrics."""
    print(_LOG_BEGINS, flush=True)
    _COMPOSE_STARTS.set()
    assert process.stdout is not None
    for line in process.stdout:
        sys.stdout.write(line.decode("utf-8", "replace"))
        sys.stdout.flush()
    code = process.wait()
    _remove_containers(process.args)
    if code not in (0, _INTERRUPTED) and not _STOP.is_set():
        raise ComposeError(f"docker compose ended with {code}")
    return code


def _remove_containers(command: Any) -> None:
    """The SDK leaves every job's containers."""
    compose = list(command)[: list(command).index("up")]
    subprocess.run([*compose, "rm", "--force"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)


if __name__ == "__main__":
    main()

"""Tunings of the local session that cannot run: the SDK itself is not needed to find out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.errors import UserError
from runtime.local_mode.tuning import Tuning, read_request


def make_request(*regexes: str) -> dict[str, Any]:
    """The request of CreateHyperParameterTuningJob, with a metric for each regex; the first is the objective."""
    return {
        "HyperParameterTuningJobName": "t",
        "HyperParameterTuningJobConfig": {
            "Strategy": "Random",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "metric_0"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 1, "MaxParallelTrainingJobs": 1},
            "ParameterRanges": {"ContinuousParameterRanges": [{"Name": "x", "MinValue": "0", "MaxValue": "1"}]},
        },
        "TrainingJobDefinition": {
            "AlgorithmSpecification": {
                "MetricDefinitions": [{"Name": f"metric_{n}", "Regex": regex} for n, regex in enumerate(regexes)]
            },
            "StaticHyperParameters": {},
            "OutputDataConfig": {"S3OutputPath": ""},
        },
    }


def test_a_text_that_is_no_regex_is_refused_before_anything_starts() -> None:
    with pytest.raises(UserError, match=r"metric_definitions: got the regex '\(' for 'metric_1' from the tuner"):
        read_request(make_request("r: (.*)", "("))
    assert read_request(make_request("r: (.*)", "(.)")).objective == "metric_0"


def test_a_training_job_that_cannot_be_started_ends_the_tuning(tmp_path: Path) -> None:
    def start(*_: Any) -> Any:
        raise OSError("the disk is full")

    request = make_request("r: (.*)")
    tuning = Tuning(request, read_request(request), tmp_path / "t", start)
    with pytest.raises(OSError, match="the disk is full"):
        tuning.run()
    tuning.wait()
    assert (tuning.status, tuning.reason) == ("Failed", "OSError: the disk is full")

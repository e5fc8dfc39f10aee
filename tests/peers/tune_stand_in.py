"""Tunes by smrl.local_session() with tests/local_mode/docker_stand_in.py as Docker: `tune_stand_in.py FOLDER CASES`.

The cases share a process, as the SDK takes seconds to import. The last line is what each found, by its name.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from sagemaker.estimator import Estimator
from sagemaker.tuner import (
    CategoricalParameter,
    ContinuousParameter,
    HyperbandStrategyConfig,
    HyperparameterTuner,
    StrategyConfig,
    WarmStartConfig,
    WarmStartTypes,
)

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import smrl

REGEX = "episode_reward_mean: ([-+0-9.e]+)"
folder = Path(sys.argv[1])
session = smrl.local_session(folder=folder)


def make_tuner(
    ranges: dict[str, Any], *, image: str = "stand-in", regex: str = REGEX, static: Any = None, **more: Any
) -> Any:
    """A tuner of jobs of one iteration."""
    estimator = Estimator(
        image_uri=image,
        role="arn:aws:iam::123456789012:role/none",
        instance_type="local",
        instance_count=1,
        hyperparameters={"iterations": 1, **(static or {})},
        sagemaker_session=session,
    )
    definitions = [{"Name": "episode_reward_mean", "Regex": regex}]
    options = {"objective_metric_name": "episode_reward_mean", "metric_definitions": definitions, **more}
    return HyperparameterTuner(estimator, hyperparameter_ranges=ranges, **options)


X = {"x": ContinuousParameter(0, 1)}


def refusals() -> Any:
    """What is refused before a container starts."""
    found = []
    for options in (
        {"image": "no-such-image"},
        {"objective_metric_name": "reward"},
        {"regex": "episode_reward_mean: [0-9]+"},
    ):
        try:
            make_tuner(X, **options).fit()
        except Exception as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


def no_docker() -> Any:
    """No program `docker` on the path."""
    path = os.environ["PATH"]
    os.environ["PATH"] = str(folder)
    try:
        make_tuner(X).fit()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        os.environ["PATH"] = path
    return ""


def no_objective() -> Any:
    """A regex that finds nothing in the log."""
    tuner = make_tuner(X, regex="my_return: ([0-9]+)")
    try:
        tuner.fit()
    except Exception as error:
        return {"error": str(error), "status": tuner.describe()["HyperParameterTuningJobStatus"]}
    return {}


def grid() -> Any:
    """One of three points fails; another tuning starts from what the others gave."""
    tuner = make_tuner({"x": CategoricalParameter(["0.1", "0.4", "null"])}, strategy="Grid", max_parallel_jobs=3)
    tuner.fit(job_name="first")
    listed = session.sagemaker_client.list_training_jobs_for_hyper_parameter_tuning_job(
        HyperParameterTuningJobName="first", SortBy="FinalObjectiveMetricValue", SortOrder="Descending"
    )
    parents = WarmStartConfig(WarmStartTypes.IDENTICAL_DATA_AND_ALGORITHM, {"first"})
    warm = make_tuner({"x": CategoricalParameter(["0.1", "0.4"])}, warm_start_config=parents)
    warm.fit(job_name="second")
    described = tuner.describe()
    return {
        "best": tuner.best_training_job(),
        "sorted": [one["TrainingJobName"] for one in listed["TrainingJobSummaries"]],
        "failed": next(
            one["FailureReason"] for one in tuner.analytics().training_job_summaries() if "FailureReason" in one
        ),
        "counters": described["TrainingJobStatusCounters"],
        "warm": warm.best_training_job(),
        "model_data": tuner.best_estimator().model_data,
    }


def hyperband() -> Any:
    """An endless job is stopped after MaxResource values of the objective, and has its model."""
    strategy = StrategyConfig(HyperbandStrategyConfig(max_resource=4, min_resource=1))
    static = {"iterations": 100_000, "seconds": 0.05}
    tuner = make_tuner(X, static=static, strategy="Hyperband", strategy_config=strategy)
    tuner.fit(job_name="hyperband")  # the SDK's own names have minutes, and two tunings of one minute the same
    (job,) = tuner.analytics().training_job_summaries()
    return {"status": job["TrainingJobStatus"], "model_data": tuner.best_estimator().model_data}


def interrupt() -> Any:
    """A Ctrl-C while two endless jobs run."""
    static = {"iterations": 100_000, "seconds": 0.05}
    tuner = make_tuner(X, static=static, max_jobs=4, max_parallel_jobs=2)
    tuner.fit()
    jobs = tuner.analytics().training_job_summaries()
    return {
        "status": tuner.describe()["HyperParameterTuningJobStatus"],
        "jobs": [one["TrainingJobStatus"] for one in jobs],
        "model_data": tuner.best_estimator().model_data,
    }


CASES = {one.__name__: one for one in (refusals, no_docker, no_objective, grid, hyperband, interrupt)}
print(json.dumps({name: CASES[name]() for name in sys.argv[2:]}))

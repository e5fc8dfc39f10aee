"""A tuning job from a HyperparameterTuner of the SageMaker SDK, 2 or 3, whose objects are read, not imported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from runtime.errors import UserError
from runtime.settings.presets import preset_names


def write_tuning_job(tuner: Any, path: str | Path) -> None:
    """Writes what a tuner would start in the cloud as a file for `smrl tune`.

    Args:
        tuner: A `sagemaker.tuner.HyperparameterTuner` (SDK 2) or `sagemaker.train.tuner.HyperparameterTuner` (SDK 3).
        path: JSON file.

    Raises:
        UserError: It tunes several algorithms, or is no tuner.
    """
    Path(path).write_text(json.dumps(describe_tuner(tuner), indent=2) + "\n", encoding="utf-8")


def describe_tuner(tuner: Any) -> dict[str, Any]:
    """Describes a tuner in the words of CreateHyperParameterTuningJob."""
    job = getattr(tuner, "estimator", None) or getattr(tuner, "model_trainer", None)
    if job is None:
        raise UserError(
            f"tuner: got {type(tuner).__name__}; expected a HyperparameterTuner of the SageMaker SDK with one "
            "estimator or model trainer."
        )
    limits = {
        "MaxNumberOfTrainingJobs": tuner.max_jobs,
        "MaxParallelTrainingJobs": tuner.max_parallel_jobs,
        "MaxRuntimeInSeconds": getattr(tuner, "max_runtime_in_seconds", None),
    }
    ranges = _to_plain(tuner.hyperparameter_ranges())
    config = {
        "Strategy": tuner.strategy,
        "StrategyConfig": _to_plain(getattr(tuner, "strategy_config", None)),
        "HyperParameterTuningJobObjective": {"Type": tuner.objective_type, "MetricName": tuner.objective_metric_name},
        "ResourceLimits": limits,
        "ParameterRanges": ranges,
        "TrainingJobEarlyStoppingType": tuner.early_stopping_type,
        "TuningJobCompletionCriteria": _to_plain(getattr(tuner, "completion_criteria_config", None)),
        "RandomSeed": getattr(tuner, "random_seed", None),
    }
    tuned = {one["Name"] for listed in ranges.values() for one in listed}
    found = job.hyperparameters() if callable(job.hyperparameters) else job.hyperparameters or {}
    static = {name: str(value) for name, value in found.items() if name not in tuned}
    definition = {
        "StaticHyperParameters": {**_preset_of(job), **static},
        "AlgorithmSpecification": {"MetricDefinitions": _to_plain(tuner.metric_definitions) or []},
    }
    words = {
        "HyperParameterTuningJobConfig": {name: value for name, value in config.items() if value not in (None, {}, [])},
        "TrainingJobDefinition": definition,
        "WarmStartConfig": _to_plain(getattr(tuner, "warm_start_config", None)),
    }
    return {name: value for name, value in words.items() if value}


def _preset_of(job: Any) -> dict[str, str]:
    """Returns the preset of a script that is named as the notebooks' are: train-hopper.py."""
    script = Path(str(getattr(job, "entry_point", None) or "")).stem
    name = script.removeprefix("train-")
    return {"preset": name} if name != script and name in preset_names() else {}


def _to_plain(value: Any) -> Any:
    """Converts an SDK's object to plain values of the request."""
    if hasattr(value, "to_input_req"):
        return value.to_input_req()
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    if hasattr(value, "model_dump"):  # SDK 3's shapes, whose fields are in snake case
        value = value.model_dump(exclude_none=True)
    if isinstance(value, dict):
        return {_camel(name): _to_plain(item) for name, item in value.items() if type(item).__name__ != "Unassigned"}
    return value


def _camel(name: str) -> str:
    return "".join(part[:1].upper() + part[1:] for part in name.split("_")) if "_" in name or name.islower() else name

"""Builds the notebook's HyperparameterTuner with the SageMaker SDK that this Python has, and writes its job: PATH."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from aws_session import ROLE, open_session

from runtime.tuning.sdk import write_tuning_job

REGEX = "episode_reward_mean: ([-+]?[0-9]*[.]?[0-9]+)"
STATIC = {"rl.training.stop.time_total_s": 600}


def describe(continuous: Any, integer: Any) -> dict[str, Any]:
    """What both versions' tuners are given, beside the job; with a version's own kinds of ranges."""
    return {
        "objective_metric_name": "episode_reward_mean",
        "hyperparameter_ranges": {
            "rl.training.config.kl_coeff": continuous(0.5, 1.0),
            "rl.training.config.num_sgd_iter": integer(3, 50),
        },
        "metric_definitions": [{"Name": "episode_reward_mean", "Regex": REGEX}],
        "max_jobs": 50,
        "max_parallel_jobs": 5,
    }


def build_with_sdk_2() -> Any:
    """As the notebook of 2020 does."""
    import sagemaker
    from sagemaker.rl import RLEstimator
    from sagemaker.tuner import ContinuousParameter, HyperparameterTuner, IntegerParameter

    estimator = RLEstimator(
        entry_point="train-hopper.py",
        image_uri="image",
        role=ROLE,
        instance_type="ml.m5.xlarge",
        instance_count=1,
        sagemaker_session=sagemaker.Session(open_session(), default_bucket="bucket"),
        hyperparameters=STATIC,
    )
    return HyperparameterTuner(estimator, **describe(ContinuousParameter, IntegerParameter))


def build_with_sdk_3() -> Any:
    """The same with a model trainer."""
    from sagemaker.core.helper.session_helper import Session
    from sagemaker.core.parameter import ContinuousParameter, IntegerParameter
    from sagemaker.train import ModelTrainer
    from sagemaker.train.configs import Compute
    from sagemaker.train.tuner import HyperparameterTuner

    trainer = ModelTrainer(
        training_image="image",
        role=ROLE,
        compute=Compute(instance_type="ml.m5.xlarge", instance_count=1),
        hyperparameters={"preset": "hopper", **STATIC},
        sagemaker_session=Session(open_session(), default_bucket="bucket"),
    )
    return HyperparameterTuner(trainer, **describe(ContinuousParameter, IntegerParameter))


def main() -> None:
    """Writes the job."""
    has_sdk_3 = any(found.metadata["Name"] == "sagemaker-train" for found in metadata.distributions())
    write_tuning_job(build_with_sdk_3() if has_sdk_3 else build_with_sdk_2(), sys.argv[1])


main()

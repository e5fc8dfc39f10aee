"""Builds the notebook's HyperparameterTuner with the SageMaker SDK and writes it as a tuning job: PATH."""

import sys
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

import sagemaker
from sagemaker.rl import RLEstimator, RLToolkit
from sagemaker.tuner import ContinuousParameter, HyperparameterTuner, IntegerParameter

from runtime.tuning.sdk import write_tuning_job

session = sagemaker.Session(boto_session=mock.Mock(region_name="us-east-1"), default_bucket="bucket")
metrics = RLEstimator.default_metric_definitions(RLToolkit.RAY)
estimator = RLEstimator(
    entry_point="train-hopper.py",
    image_uri="image",
    role="role",
    instance_type="ml.m5.xlarge",
    instance_count=1,
    sagemaker_session=session,
    metric_definitions=metrics,
    hyperparameters={"rl.training.stop.time_total_s": 600},
)
tuner = HyperparameterTuner(
    estimator,
    objective_metric_name="episode_reward_mean",
    objective_type="Maximize",
    hyperparameter_ranges={
        "rl.training.config.kl_coeff": ContinuousParameter(0.5, 1.0),
        "rl.training.config.num_sgd_iter": IntegerParameter(3, 50),
    },
    metric_definitions=metrics,
    max_jobs=50,
    max_parallel_jobs=5,
)
write_tuning_job(tuner, sys.argv[1])

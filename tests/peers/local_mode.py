"""Runs a notebook's job by the SageMaker SDK's local mode: `local_mode.py JOB IMAGE FOLDER`; prints JSON at the end.

FOLDER holds the job's inputs, and gets its results. The estimators, the predictors and the transformer are the SDK's;
the session is the SDK's own, but for the tuning, the stop, and the wait for a transform job: smrl.local_session() has
them.
"""

from __future__ import annotations

import json
import socket
import sys
import tarfile
from pathlib import Path
from typing import Any

import boto3
import numpy as np
from sagemaker.deserializers import JSONDeserializer
from sagemaker.estimator import Estimator
from sagemaker.local import LocalSession
from sagemaker.model import Model
from sagemaker.predictor import Predictor
from sagemaker.rl import RLEstimator, RLToolkit
from sagemaker.serializers import JSONSerializer
from sagemaker.tuner import ContinuousParameter, HyperparameterTuner, IntegerParameter

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))  # where smrl is
ROLE = "arn:aws:iam::123456789012:role/none"
METRICS = RLEstimator.default_metric_definitions(RLToolkit.RAY)
SHORT = {
    **{"rl.training.config.train_batch_size": 400, "rl.training.config.minibatch_size": 100},
    **{"rl.training.config.num_env_runners": 0, "rl.training.config.num_envs_per_env_runner": 2},  # episodes end
    **{"rl.training.video_freq": 0, "rl.training.stop.training_iteration": 2},
}
image, folder = sys.argv[2], Path(sys.argv[3]).resolve()


def free_port() -> int:
    """For an endpoint, as others may use the SDK's 8080."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def open_session() -> Any:
    """The SDK's own."""
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    session = LocalSession(boto3.Session(**keys))
    session.config = {"local": {"local_code": True, "serving_port": free_port()}}
    return session


def make_estimator(session: Any, hyperparameters: dict[str, Any], **more: Any) -> Any:
    """As the notebooks of 2020 have it, with our entry point."""
    return RLEstimator(
        entry_point="train.py",
        source_dir=str(ROOT / "entrypoints"),
        image_uri=image,
        role=ROLE,
        instance_type="local",
        output_path=(folder / "results").as_uri(),
        metric_definitions=METRICS,
        hyperparameters=hyperparameters,
        sagemaker_session=session,
        **{"instance_count": 1, **more},
    )


def predict(session: Any, model_data: str, request: Any) -> Any:
    """`model_data` to an answer of an endpoint."""
    model = Model(image_uri=image, model_data=model_data, role=ROLE, sagemaker_session=session, predictor_cls=Predictor)
    predictor = model.deploy(1, "local", serializer=JSONSerializer(), deserializer=JSONDeserializer())
    try:
        return predictor.predict(request)
    finally:
        predictor.delete_endpoint()


def list_files(model_data: str) -> list[str]:
    """What is in model.tar.gz."""
    with tarfile.open(model_data.removeprefix("file://")) as archive:
        return sorted(name.removeprefix("./") for name in archive.getnames())


def robots() -> dict[str, Any]:
    """An endpoint with the request of 2020's notebook."""
    session = open_session()
    estimator = make_estimator(session, {"preset": "reacher", **SHORT})
    estimator.fit()
    request = {"observations": np.ones((1, 9)).tolist(), "prev_action": [0, 0], "is_training": False}
    request |= {"prev_reward": -1, "seq_lens": -1}
    answer = predict(session, estimator.model_data, {"inputs": request})
    return {"actions": answer["outputs"]["actions"], "files": list_files(estimator.model_data)}


def unity() -> dict[str, Any]:
    """The player is the `train` channel."""
    session = open_session()
    name = {"rl.training.config.env_config.env_name": "basic_env_linux.x86_64"}
    small = {"rl.training.config.train_batch_size": 240, "rl.training.config.minibatch_size": 60}
    estimator = make_estimator(session, {**SHORT, **small, **name})
    estimator.fit({"train": (folder / "build").as_uri()})
    return {"predictions": predict(session, estimator.model_data, {"instances": np.zeros((1, 20)).tolist()})}


def batch_rl() -> dict[str, Any]:
    """Learns from a log, then answers a file of states by a transform job."""
    import smrl

    session = smrl.local_session(folder=folder / "local", config={"local": {"serving_port": free_port()}})
    small = {"rl.training.config.updates_per_iteration": 100, "rl.training.stop.training_iteration": 2}
    estimator = make_estimator(session, {"preset": "cartpole-bcq", **small})
    estimator.fit({"training": (folder / "log").as_uri()})
    model = Model(image_uri=image, model_data=estimator.model_data, role=ROLE, sagemaker_session=session)
    transformer = model.transformer(
        instance_count=1,
        instance_type="local",
        strategy="SingleRecord",
        assemble_with="Line",
        accept="application/jsonlines",
        output_path=(folder / "answers").as_uri(),
    )
    transformer.transform(
        (folder / "states").as_uri(), content_type="application/jsonlines", split_type="Line", wait=True
    )
    (answers,) = (folder / "answers").glob("*.out")
    lines = answers.read_text().splitlines()
    return {"answers": [line for line in lines if line]}  # a line's own end, and the transform's


def deepracer() -> dict[str, Any]:
    """A reward function of the `code` channel."""
    small: dict[str, Any] = {"rl.training.config.episodes_per_iteration": 3, "rl.training.config.num_epochs": 1}
    small |= {"rl.training.config.minibatch_size": 32, "rl.training.stop.training_iteration": 1}
    small |= {"rl.training.config.num_env_runners": 0, "rl.training.video_freq": 0}
    # DeepRacer's own network makes a model of 492 MB, which the SDK compresses for two minutes.
    small |= {"rl.training.config.model.conv_filters": [[8, 8, 8], [8, 4, 4]], "rl.training.export": False}
    small |= {"rl.training.config.model.head_fcnet_hiddens": [16]}
    own = {"preset": "deepracer", "rl.training.config.env_config.reward_function": "reward.py"}
    estimator = make_estimator(open_session(), {**small, **own})
    estimator.fit({"code": (folder / "code").as_uri()})
    return {"files": list_files(estimator.model_data)}


def hosts() -> dict[str, Any]:
    """Three containers that are one Ray cluster."""
    session = open_session()
    estimator = make_estimator(session, {"preset": "reacher", **SHORT, "rl.training.config.num_env_runners": 3},
                               instance_count=3)  # fmt: skip
    estimator.fit()
    described = session.sagemaker_client.describe_training_job(TrainingJobName=estimator.latest_training_job.name)
    answer = predict(session, estimator.model_data, {"instances": np.zeros((1, 9)).tolist()})
    return {"status": described["TrainingJobStatus"], "predictions": answer}


def tuning() -> dict[str, Any]:
    """The cells of 2020's notebook."""
    import smrl

    config = {"local": {"serving_port": free_port()}}
    session = smrl.local_session(folder=folder / "local", config=config)
    estimator = make_estimator(session, {"preset": "reacher", **SHORT})
    tuner = HyperparameterTuner(
        estimator,
        objective_metric_name="episode_reward_mean",
        objective_type="Maximize",
        hyperparameter_ranges={
            "rl.training.config.kl_coeff": ContinuousParameter(0.5, 1.0),
            "rl.training.config.num_sgd_iter": IntegerParameter(3, 5),
        },
        metric_definitions=METRICS,
        max_jobs=2,
        max_parallel_jobs=2,
        base_tuning_job_name="tune-reacher",
    )
    tuner.fit()
    table = tuner.analytics().dataframe()
    print(table.to_string())
    best = tuner.best_estimator()
    return {
        "best": tuner.best_training_job(),
        "jobs": json.loads(json.dumps(table.to_dict("records"), default=str)),  # to_json rounds
        "estimator": best.hyperparameters(),
        "source": best.source_dir,
        "predictions": predict(session, best.model_data, {"instances": np.zeros((1, 9)).tolist()}),
    }


def stop() -> dict[str, Any]:
    """A job that a Ctrl-C ends, without a script of the SDK's."""
    import smrl

    endless = {**SHORT, "preset": "reacher", "rl.training.stop.training_iteration": 100_000, "rl.training.export": True}
    session = smrl.local_session(folder=folder / "local")
    estimator = Estimator(
        image_uri=image, role=ROLE, instance_type="local", instance_count=1, hyperparameters=endless,
        output_path=(folder / "results").as_uri(), sagemaker_session=session,
    )  # fmt: skip
    estimator.fit(job_name="stopped")
    described = session.sagemaker_client.describe_training_job(TrainingJobName="stopped")
    return {"status": described["TrainingJobStatus"], "files": list_files(estimator.model_data)}


if __name__ == "__main__":
    jobs = {one.__name__: one for one in (robots, unity, batch_rl, deepracer, hosts, tuning, stop)}
    print(json.dumps(jobs[sys.argv[1]]()))

"""The DeepRacer notebook's two jobs under SageMaker's toolkit, with their files in a real S3 server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import pytest
from moto.server import ThreadedMotoServer

from runtime.container.layout import Container
from runtime.families.deepracer.job_files import JobFile
from runtime.families.deepracer.places import Places
from runtime.families.deepracer.records import metrics_name
from runtime.families.deepracer.storage import Bucket, Uploads
from runtime.jobs.deepracer_training_worker import _find_uploads
from tests.conftest import ROOT, OptMl


@pytest.fixture
def s3() -> Iterator[tuple[str, Any]]:
    """A real S3 server of this machine's own, and a client of it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
    client = boto3.client("s3", endpoint_url=endpoint, **keys)
    client.create_bucket(Bucket="garage")
    yield endpoint, client
    server.stop()


def test_what_a_training_removes_is_removed_from_s3(
    s3: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint, client = s3
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "S3_ENDPOINT_URL": endpoint}.items():
        monkeypatch.setenv(name, value)
    client.put_object(Bucket="garage", Key="car/model/model_0.pb", Body=b"another job's")
    uploads = Uploads(tmp_path, {"": (Bucket("garage", endpoint=endpoint, region=None), "car/")})
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_1.pb").write_bytes(b"1")
    uploads.send_if_possible()
    (tmp_path / "model" / "model_1.pb").unlink()
    (tmp_path / "model" / "model_2.pb").write_bytes(b"2")
    uploads.send_if_possible()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="garage")["Contents"]]
    assert keys == ["car/model/model_0.pb", "car/model/model_2.pb"]


@pytest.mark.parametrize(
    ("key", "second"),
    [("car/training_metrics.json", "car/training_metrics_1.json"), ("metrics/Training", "metrics/Training_1")],
)
def test_each_workers_metrics_have_a_key_of_their_own(
    s3: tuple[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, second: str
) -> None:
    endpoint, client = s3
    for name, value in {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}.items():
        monkeypatch.setenv(name, value)
    client.create_bucket(Bucket="workers")
    places = Places({"s3_bucket": "workers", "s3_prefix": "car"}, Container(s3_endpoint=endpoint), tmp_path)
    for worker in range(2):
        (tmp_path / metrics_name(worker)).write_text(str(worker))
    uploads = _find_uploads(places, tmp_path, JobFile({}, {"METRICS_S3_OBJECT_KEY": key}, (), ()))
    assert uploads is not None
    uploads.send()
    found = [client.get_object(Bucket="workers", Key=name)["Body"].read() for name in (key, second)]
    assert found == [b"0", b"1"]


# What begins the training worker of 2020, beside which a folder `markov` holds RoboMaker's simulation application.
WORKER_OF_2020 = """
from rl_coach.base_parameters import TaskParameters
from rl_coach.memories.backend.redis import RedisPubSubMemoryBackendParameters

from markov import utils

raise SystemExit("without RoboMaker")
"""


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("script", ["ours", "of 2020"])
def test_the_notebooks_job_takes_its_files_from_s3_and_leaves_its_results_there(
    script: str, opt_ml: OptMl, s3: tuple[str, Any]
) -> None:
    endpoint, client = s3
    params = {
        **{"WORLD_NAME": "reInvent2019_track", "RACE_TYPE": "OBJECT_AVOIDANCE", "NUMBER_OF_OBSTACLES": "6"},
        **{"METRICS_S3_BUCKET": "garage", "METRICS_S3_OBJECT_KEY": "car/training_metrics.json"},
        **{"SIMTRACE_S3_BUCKET": "garage", "SIMTRACE_S3_PREFIX": "car/iteration-data/training"},
        **{"NUMBER_OF_EPISODES": "4", "NUM_WORKERS": 1, "MIN_EVAL_TRIALS": 1},
    }
    metadata = {"action_space": [{"steering_angle": 0, "speed": 0.8}, {"steering_angle": 25, "speed": 0.8}]}
    for key, text in {
        "car/training_params.yaml": json.dumps(params),
        "car/model/model_metadata.json": json.dumps({**metadata, "sensor": ["STEREO_CAMERAS"]}),
        "car/customer_reward_function.py": "def reward_function(params):\n    return len(params['objects_distance'])\n",
    }.items():
        client.put_object(Bucket="garage", Key=key, Body=text.encode())
    opt_ml.environment |= {"S3_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    opt_ml.write(
        {
            "sagemaker_program": "training_worker.py",
            **{"s3_bucket": "garage", "s3_prefix": "car", "aws_region": "us-east-1"},
            **{"model_metadata_s3_key": "car/model/model_metadata.json"},
            **{"reward_function_s3_source": "car/customer_reward_function.py"},
            **{"batch_size": "32", "num_epochs": "1", "stack_size": "1", "lr": "0.0003", "loss_type": "Huber"},
            **{"exploration_type": "Categorical", "discount_factor": "0.999", "num_episodes_between_training": "2"},
            **{"rl.training.video_freq": "0", "rl.training.export": "false"},
        }
    )
    if script == "ours":
        opt_ml.add_code(ROOT / "entrypoints" / "training_worker.py")
    else:
        (opt_ml.base / "code" / "markov").mkdir(parents=True)
        (opt_ml.base / "code" / "training_worker.py").write_text(WORKER_OF_2020)
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    assert ("training_worker.py needs RoboMaker, which is gone" in done.log) == (script == "of 2020")
    keys = {item["Key"] for item in client.list_objects_v2(Bucket="garage", Prefix="car/")["Contents"]}
    assert {
        "car/training_metrics.json",
        "car/iteration-data/training/training-simtrace/0-iteration.csv",
        "car/iteration-data/training/training-simtrace/1-iteration.csv",
        "car/model/deepracer_checkpoints.json",
        "car/model/.coach_checkpoint",
        "car/model/manifest.json",
        "car/ip/hyperparameters.json",
    } <= keys
    assert any(key.startswith("car/model/best/") for key in keys)
    body = client.get_object(Bucket="garage", Key="car/training_metrics.json")["Body"].read()
    training = [row for row in json.loads(body)["metrics"] if row["phase"] == "training"]
    assert len(training) == 4
    assert all(row["reward_score"] % 6 == 0 for row in training)  # six obstacles, each step
    assert re.search(r"^SIM_TRACE_LOG:0,1,", done.log, re.M)
    hyper = json.loads(client.get_object(Bucket="garage", Key="car/ip/hyperparameters.json")["Body"].read())
    assert (hyper["batch_size"], hyper["loss_type"]) == (32, "huber")


@pytest.mark.system
@pytest.mark.ray
@pytest.mark.slow
def test_the_notebooks_head_to_head_takes_two_models_from_s3(
    trained_car: tuple[Path, str], opt_ml: OptMl, s3: tuple[str, Any]
) -> None:
    endpoint, client = s3
    for path in (trained_car[0] / "model" / "best").rglob("*"):
        if path.is_file():
            for car in ("red", "blue"):
                key = f"{car}/model/best/{path.relative_to(trained_car[0] / 'model' / 'best')}"
                client.upload_file(str(path), "garage", key)
    params = {
        **{"WORLD_NAME": "oval", "JOB_TYPE": "EVALUATION", "RACE_TYPE": "HEAD_TO_MODEL", "NUMBER_OF_TRIALS": "1"},
        **{"MODEL_S3_BUCKET": ["garage", "garage"], "MODEL_S3_PREFIX": ["red", "blue"]},
        **{"METRICS_S3_BUCKET": ["garage", "garage"], "METRICS_S3_OBJECT_KEY": ["m/red.json", "m/blue.json"]},
        **{"SIMTRACE_S3_BUCKET": ["garage", "garage"], "SIMTRACE_S3_PREFIX": ["t/red", "t/blue"]},
        **{"MP4_S3_BUCKET": ["garage", "garage"], "MP4_S3_OBJECT_PREFIX": ["v/red", "v/blue"]},
        **{"CAR_COLOR": ["White", "Black"], "NUMBER_OF_RESETS": "2"},
    }
    client.put_object(Bucket="garage", Key="race/evaluation_params.yaml", Body=json.dumps(params).encode())
    opt_ml.environment |= {"S3_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    opt_ml.write({"sagemaker_program": "evaluation_worker.py", "s3_bucket": "garage", "s3_prefix": "race"})
    opt_ml.add_code(ROOT / "entrypoints" / "evaluation_worker.py")
    done = opt_ml.run()
    assert done.code == 0, done.log[-3000:]
    keys = {item["Key"] for item in client.list_objects_v2(Bucket="garage")["Contents"]}
    assert {"t/red/evaluation-simtrace/0-iteration.csv", "t/blue/evaluation-simtrace/0-iteration.csv"} <= keys
    assert {f"v/red/{view}/0-video.mp4" for view in ("camera-pip", "camera-45degree", "camera-topview")} <= keys
    for car in ("red", "blue"):  # the notebook's table of each car
        rows = json.loads(client.get_object(Bucket="garage", Key=f"m/{car}.json")["Body"].read())["metrics"]
        assert pd.DataFrame(rows)[["trial", "completion_percentage", "elapsed_time_in_milliseconds"]].shape == (1, 3)

"""Jobs on SageMaker, with either SDK: version 2 by its RLEstimator, 3 by its ModelTrainer without source code."""

from __future__ import annotations

import json
import tarfile
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from jobs import ENTRYPOINTS, METRICS, Endpoint, Hyperparameters, Inputs, Job, new_name, pack

_LONGEST_S = 24 * 3600  # of a training job, as the SDK of 2020 had it


class SageMaker:
    """Amazon SageMaker.

    Args:
        image: The image's URI in ECR.
        role: ARN of the role that jobs run with.
        instance_type: Of the machine that trains.
        bucket: Where jobs leave their results; the account's default bucket for SageMaker if empty.
        folder: Where results are unpacked on this machine.
        boto_session: A boto3 session; the environment's own if None.
        wait: Whether a job is waited for.
    """

    def __init__(
        self,
        image: str,
        role: str,
        instance_type: str = "ml.c5.2xlarge",
        *,
        bucket: str = "",
        folder: str | Path = "results/notebooks",
        boto_session: Any = None,
        wait: bool = True,
    ) -> None:
        import boto3

        self.image, self.role, self.instance_type, self.wait = image, role, instance_type, wait
        self.session = boto_session or boto3.Session()
        self.client = self.session.client("sagemaker")
        self.s3 = self.session.client("s3")
        account = "" if bucket else self.session.client("sts").get_caller_identity()["Account"]
        self.bucket = bucket or f"sagemaker-{self.session.region_name}-{account}"
        self.folder = Path(folder).resolve()

    def run(
        self, entry: str, hyperparameters: Hyperparameters, inputs: Inputs | None = None, *, wait: bool = True
    ) -> Job:
        """Runs an entry point as a training job, and fetches its results."""
        name = new_name(entry)
        uploaded = {channel: self._upload(name, channel, path) for channel, path in (inputs or {}).items()}
        start = self._start_v2 if self._sdk_version() < 3 else self._start_v3
        name = start(name, entry, dict(hyperparameters), uploaded, self.wait and wait)
        if self.wait and wait:
            self.client.get_waiter("training_job_completed_or_stopped").wait(TrainingJobName=name)
        model = f"s3://{self.bucket}/{name}/output/model.tar.gz"
        return Job(name, self.fetch(name), model, None if wait else TrainingJob(self, name))

    def _sdk_version(self) -> int:
        for package in ("sagemaker", "sagemaker-train"):
            try:
                version = metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
            return 3 if package == "sagemaker-train" else int(version.split(".")[0])
        raise RuntimeError("the SageMaker SDK is not installed: pip install 'sagemaker<3', or sagemaker-train")

    def _start_v2(
        self, name: str, entry: str, hyperparameters: dict[str, Any], inputs: dict[str, str], wait: bool
    ) -> str:
        import sagemaker
        from sagemaker.rl import RLEstimator

        session = sagemaker.Session(self.session, sagemaker_client=self.client, default_bucket=self.bucket)
        estimator = RLEstimator(
            entry_point=f"{entry}.py",
            source_dir=str(ENTRYPOINTS),
            image_uri=self.image,
            role=self.role,
            instance_type=self.instance_type,
            instance_count=1,
            output_path=f"s3://{self.bucket}/",
            hyperparameters=hyperparameters,
            metric_definitions=METRICS,
            sagemaker_session=session,
        )
        estimator.fit(inputs or None, wait=wait, job_name=name)
        return name

    def _start_v3(
        self, name: str, entry: str, hyperparameters: dict[str, Any], inputs: dict[str, str], wait: bool
    ) -> str:
        """Without source_code, which would run the image with another entry point that dotted names break."""
        from sagemaker.core.helper.session_helper import Session
        from sagemaker.train import ModelTrainer
        from sagemaker.train.configs import Compute, InputData, OutputDataConfig, StoppingCondition

        program = {"sagemaker_program": f"{entry}.py", "sagemaker_submit_directory": self._upload_source(name, entry)}
        texts = {
            name: value if isinstance(value, str) else json.dumps(value) for name, value in hyperparameters.items()
        }
        trainer = ModelTrainer(
            training_image=self.image,
            role=self.role,
            compute=Compute(instance_type=self.instance_type, instance_count=1),
            output_data_config=OutputDataConfig(s3_output_path=f"s3://{self.bucket}/"),
            stopping_condition=StoppingCondition(max_runtime_in_seconds=_LONGEST_S),
            hyperparameters={**texts, **program},
            base_job_name=name,
            sagemaker_session=Session(self.session, sagemaker_client=self.client, default_bucket=self.bucket),
        ).with_metric_definitions(_metric_definitions())
        channels = [InputData(channel_name=channel, data_source=url) for channel, url in inputs.items()]
        trainer.train(input_data_config=channels or None, wait=wait)
        return str(trainer._latest_training_job.training_job_name)  # the SDK adds a time of its own to the name

    def tune(self, words: Mapping[str, Any]) -> Job:
        """SageMaker's own tuner: a training job a trial; one seed each."""
        name = new_name("tune")[-32:]
        config, definition = words["HyperParameterTuningJobConfig"], words["TrainingJobDefinition"]
        program = {"sagemaker_program": "train.py", "sagemaker_submit_directory": self._upload_source(name, "train")}
        static = {key: str(value) for key, value in definition.get("StaticHyperParameters", {}).items()}
        self.client.create_hyper_parameter_tuning_job(
            HyperParameterTuningJobName=name,
            HyperParameterTuningJobConfig=config,
            TrainingJobDefinition={
                "StaticHyperParameters": {**static, **program},
                "AlgorithmSpecification": {
                    **{"TrainingImage": self.image, "TrainingInputMode": "File"},
                    "MetricDefinitions": METRICS,
                },
                "RoleArn": self.role,
                "OutputDataConfig": {"S3OutputPath": f"s3://{self.bucket}/"},
                "ResourceConfig": {"InstanceType": self.instance_type, "InstanceCount": 1, "VolumeSizeInGB": 30},
                "StoppingCondition": {"MaxRuntimeInSeconds": _LONGEST_S},
            },
        )
        while self.wait and self._tuning(name)["HyperParameterTuningJobStatus"] == "InProgress":
            time.sleep(30)
        best = self._tuning(name).get("BestTrainingJob", {}).get("TrainingJobName", name)
        return Job(best, self.fetch(best), f"s3://{self.bucket}/{best}/output/model.tar.gz")

    def _tuning(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.describe_hyper_parameter_tuning_job(HyperParameterTuningJobName=name)
        return found

    def _upload_source(self, name: str, entry: str) -> str:
        key = f"{name}/source/sourcedir.tar.gz"
        self.s3.put_object(Bucket=self.bucket, Key=key, Body=pack(ENTRYPOINTS / f"{entry}.py"))
        return f"s3://{self.bucket}/{key}"

    def serve(self, model: str | Path) -> Endpoint:
        """Hosts a model on an endpoint, which costs until it is closed."""
        name = new_name("endpoint")
        self._create_model(name, model)
        variant = {
            **{"VariantName": "AllTraffic", "ModelName": name, "InitialInstanceCount": 1},
            "InstanceType": self.instance_type,
        }
        self.client.create_endpoint_config(EndpointConfigName=name, ProductionVariants=[variant])
        self.client.create_endpoint(EndpointName=name, EndpointConfigName=name)
        self.client.get_waiter("endpoint_in_service").wait(EndpointName=name)
        return HostedEndpoint(self.client, self.session.client("sagemaker-runtime"), name)

    def transform(self, model: str | Path, records: Path, folder: Path) -> Path:
        """A batch transform job: an answer a line, each with its input."""
        name = new_name("transform")
        self._create_model(name, model)
        source, target = self._upload(name, "records", records), f"s3://{self.bucket}/{name}/answers/"
        self.client.create_transform_job(
            TransformJobName=name,
            ModelName=name,
            BatchStrategy="SingleRecord",
            TransformInput={
                "DataSource": {"S3DataSource": {"S3DataType": "S3Prefix", "S3Uri": source}},
                "ContentType": "application/jsonlines",
                "SplitType": "Line",
            },
            TransformOutput={"S3OutputPath": target, "Accept": "application/jsonlines", "AssembleWith": "Line"},
            TransformResources={"InstanceType": self.instance_type, "InstanceCount": 1},
            DataProcessing={"JoinSource": "Input"},
        )
        answers = folder / f"{records.name}.out"
        if self.wait:
            self.client.get_waiter("transform_job_completed_or_stopped").wait(TransformJobName=name)
            folder.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(self.bucket, f"{name}/answers/{records.name}.out", str(answers))
        return answers

    def _create_model(self, name: str, model: str | Path) -> None:
        container = {"Image": self.image, "ModelDataUrl": str(model)}
        self.client.create_model(ModelName=name, PrimaryContainer=container, ExecutionRoleArn=self.role)

    def _upload(self, name: str, channel: str, path: str | Path) -> str:
        """What is on this machine goes to S3; what is there stays."""
        if str(path).startswith("s3://"):
            return str(path)
        place = Path(path)
        files = [place] if place.is_file() else sorted(file for file in place.rglob("*") if file.is_file())
        for file in files:
            inner = file.name if place.is_file() else file.relative_to(place).as_posix()
            self.s3.upload_file(str(file), self.bucket, f"{name}/input/{channel}/{inner}")
        return f"s3://{self.bucket}/{name}/input/{channel}/"

    def fetch(self, name: str) -> Path:
        """Unpacks what a job has left so far into the folder that another place would have made."""
        base = self.folder / name
        for archive, below in (("model.tar.gz", "model"), ("output.tar.gz", "output/data")):
            target = base / below
            target.mkdir(parents=True, exist_ok=True)
            key = f"{name}/output/{archive}"
            if not self.s3.list_objects_v2(Bucket=self.bucket, Prefix=key).get("KeyCount"):
                continue
            with (
                self.s3.get_object(Bucket=self.bucket, Key=key)["Body"] as body,
                tarfile.open(fileobj=body, mode="r|gz") as tar,
            ):
                tar.extractall(target, filter="data")
        prefix = f"{name}/output/intermediate/"
        for found in self.s3.list_objects_v2(Bucket=self.bucket, Prefix=prefix).get("Contents", ()):
            target = base / "output" / "intermediate" / found["Key"].removeprefix(prefix)
            target.parent.mkdir(parents=True, exist_ok=True)
            self.s3.download_file(self.bucket, found["Key"], str(target))
        return base


class HostedEndpoint:
    """An endpoint of SageMaker's."""

    def __init__(self, client: Any, runtime: Any, name: str) -> None:
        self._client, self._runtime, self._name = client, runtime, name

    def predict(self, request: Mapping[str, Any]) -> Any:
        """Sends a JSON request and returns the JSON answer."""
        reply = self._runtime.invoke_endpoint(
            EndpointName=self._name, ContentType="application/json", Body=json.dumps(request)
        )
        return json.loads(reply["Body"].read())

    def close(self) -> None:
        """Deletes the endpoint, its configuration and its model."""
        self._client.delete_endpoint(EndpointName=self._name)
        self._client.delete_endpoint_config(EndpointConfigName=self._name)
        self._client.delete_model(ModelName=self._name)


class TrainingJob:
    """A training job that was started and not waited for, with the methods of a process.

    Args:
        place: SageMaker.
        name: Of the job.
    """

    def __init__(self, place: SageMaker, name: str) -> None:
        self._place = place
        self._name = name

    def poll(self) -> int | None:
        """Returns None while it runs, then 0, or 1 if it failed; fetches what it has left so far."""
        found = self._place.client.describe_training_job(TrainingJobName=self._name)
        folder = self._place.fetch(self._name)
        if found["TrainingJobStatus"] == "Failed":
            (folder / "log").write_text(found.get("FailureReason", ""))
            return 1
        return 0 if found["TrainingJobStatus"] in ("Completed", "Stopped") else None

    def wait(self) -> int:
        """Waits for its end."""
        while (code := self.poll()) is None:
            time.sleep(30)
        return code

    def terminate(self) -> None:
        """Asks SageMaker to stop it, which lets it save."""
        self._place.client.stop_training_job(TrainingJobName=self._name)


def _metric_definitions() -> list[Any]:
    from sagemaker.core.shapes import MetricDefinition

    return [MetricDefinition(name=one["Name"], regex=one["Regex"]) for one in METRICS]

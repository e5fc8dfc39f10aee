"""Runs the notebooks' jobs on what answers as AWS (a moto server) with whichever SDK this Python has; prints JSON."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "examples"))

import boto3
import jobs
from botocore.awsrequest import AWSResponse

folder = Path(sys.argv[1])
session = boto3.Session(region_name="us-east-1")
requests: dict[str, Any] = {}


def record(params: dict[str, Any], model: Any, **_: Any) -> None:
    """Keeps the first request of each kind; what it returned would replace the request."""
    requests.setdefault(model.name, params)


def deny(**_: Any) -> Any:
    """What IAM says to most users; moto has no answer to this call, by which SDK 3 checks the role."""
    error = {"Code": "AccessDenied", "Message": "not authorized to perform: iam:SimulatePrincipalPolicy"}
    return AWSResponse("", 403, {}, None), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}


session.events.register("provide-client-params.sagemaker", record)
session.events.register("before-call.iam.SimulatePrincipalPolicy", deny)
trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
session.client("iam").create_role(
    RoleName="trainer", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [trust]})
)
session.client("s3").create_bucket(Bucket="bucket")
place = jobs.choose(
    "sagemaker",
    image="1.dkr.ecr.us-east-1.amazonaws.com/smrl:cpu",
    role="arn:aws:iam::123456789012:role/trainer",
    bucket="bucket",
    folder=folder,
    boto_session=session,
    wait=False,
)
hyperparameters = {
    "preset": "reacher",
    "rl.training.config.kl_coeff": 0.5,
    "rl.training.stop.time_total_s": 600,
    "rl.training.config.model.fcnet_hiddens": [32, 32],
    "rl.training.config.use_gae": True,
}
data = folder / "data"
data.mkdir()
(data / "log.csv").write_text("a\n")
job = place.run("train", hyperparameters, {"train": data})
records = folder / "states.jsonl"
records.write_text("[1, 2]\n")
place.transform(job.model, records, folder)
place.serve(job.model).close()
lr = {"Name": "rl.training.config.lr", "MinValue": "0.0001", "MaxValue": "0.01", "ScalingType": "Logarithmic"}
place.tune(
    {
        "HyperParameterTuningJobConfig": {
            "Strategy": "Bayesian",
            "HyperParameterTuningJobObjective": {"Type": "Maximize", "MetricName": "episode_reward_mean"},
            "ResourceLimits": {"MaxNumberOfTrainingJobs": 4, "MaxParallelTrainingJobs": 2},
            "ParameterRanges": {"ContinuousParameterRanges": [lr]},
        },
        "TrainingJobDefinition": {"StaticHyperParameters": {"preset": "reacher"}},
    }
)
print(json.dumps({"job": job.name, "model": job.model, "folder": str(job.folder), "requests": requests}))

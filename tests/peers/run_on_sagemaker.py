"""Runs the notebooks' jobs on what answers as AWS (a moto server) with whichever SDK this Python has; prints JSON."""

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "examples"))

import jobs
from aws_session import ROLE, open_session

folder = Path(sys.argv[1])
session = open_session()
requests: dict[str, Any] = {}


def record(params: dict[str, Any], model: Any, **_: Any) -> None:
    """Keeps the first request of each kind; what it returned would replace the request."""
    requests.setdefault(model.name, params)


session.events.register("provide-client-params.sagemaker", record)
session.client("s3").create_bucket(Bucket="bucket")
place = jobs.choose(
    "sagemaker",
    image="1.dkr.ecr.us-east-1.amazonaws.com/smrl:cpu",
    role=ROLE,
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
started = place.run("train", hyperparameters, wait=False)
is_running = started.refresh()
started.wait()
said = {"job": job.name, "model": job.model, "folder": str(job.folder), "started": started.name, "runs": is_running}
print(json.dumps({**said, "requests": requests}))

"""Trains by the local container mode of SDK 3: `local_mode_3.py IMAGE FOLDER`; prints what is in the model.

That mode runs an image's default command unless source_code names one, and its driver script exports hyperparameters to
a shell, which takes no dots in names.
"""

import json
import sys
import tarfile
from pathlib import Path

import boto3
from sagemaker.core.helper.session_helper import Session
from sagemaker.train import ModelTrainer
from sagemaker.train.configs import Compute, SourceCode
from sagemaker.train.model_trainer import Mode

image, folder = sys.argv[1], Path(sys.argv[2]).resolve()
keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
trainer = ModelTrainer(
    training_mode=Mode.LOCAL_CONTAINER,
    training_image=image,
    source_code=SourceCode(command="smrl-init train"),
    compute=Compute(instance_type="local_cpu", instance_count=1),
    role="arn:aws:iam::123456789012:role/none",
    hyperparameters={
        "preset": "reacher",
        "rl__training__config__train_batch_size": 400,
        "rl__training__config__minibatch_size": 100,
        "rl__training__config__num_env_runners": 0,
        "rl__training__video_freq": 0,
        "rl__training__stop__training_iteration": 2,
    },
    local_container_root=str(folder),
    sagemaker_session=Session(boto3.Session(**keys), default_bucket="none"),
)
trainer.train()
with tarfile.open(folder / "compressed_artifacts" / "model.tar.gz") as archive:
    print(json.dumps(sorted(archive.getnames())))

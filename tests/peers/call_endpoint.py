"""Calls a server with the SageMaker SDK's own predictors: `call_endpoint.py PORT RECORDS.jsonl`, prints JSON."""

import json
import sys

import boto3
import numpy as np
from sagemaker.base_deserializers import JSONLinesDeserializer
from sagemaker.base_serializers import JSONLinesSerializer
from sagemaker.deserializers import CSVDeserializer, JSONDeserializer, NumpyDeserializer
from sagemaker.local import LocalSession
from sagemaker.local.data import LineSplitter, MultiRecordStrategy, SingleRecordStrategy
from sagemaker.predictor import Predictor
from sagemaker.serializers import CSVSerializer, JSONSerializer, NumpySerializer
from sagemaker.tensorflow.model import TensorFlowPredictor

port, records = int(sys.argv[1]), sys.argv[2]
# Nobody checks the keys: every call goes to this machine.
keys = {"aws_access_key_id": "none", "aws_secret_access_key": "none", "region_name": "us-east-1"}
session = LocalSession(boto3.Session(**keys), disable_local_code=True)
session.config = {"local": {"serving_port": port}}
rows = np.linspace(-1, 1, 18).reshape(2, 9)
found = {}

# The request of the Roboschool notebook: four inputs that nothing reads, and a result looked up by name.
request = {"observations": np.ones((1, 9)).tolist(), "prev_action": [0, 0], "is_training": False}
request |= {"prev_reward": -1, "seq_lens": -1}
result = TensorFlowPredictor("reacher", session).predict({"inputs": request})
found["notebook"] = result["outputs"]["actions"]

for name, serializer, deserializer, data in [
    ("json", JSONSerializer(), JSONDeserializer(), {"instances": rows.tolist()}),
    ("csv", CSVSerializer(), CSVDeserializer(), rows),
    ("npy", NumpySerializer(), NumpyDeserializer(), rows),
    ("lines", JSONLinesSerializer(), JSONLinesDeserializer(), rows.tolist()),
]:
    answer = Predictor("reacher", session, serializer=serializer, deserializer=deserializer).predict(data)
    found[name] = answer.tolist() if isinstance(answer, np.ndarray) else answer

# Batch transform, as the SDK's local mode cuts the file into requests.
for strategy in (SingleRecordStrategy, MultiRecordStrategy):
    answers = []
    for payload in strategy(LineSplitter()).pad(records, 1):
        response = session.sagemaker_runtime_client.invoke_endpoint(
            payload, "reacher", "application/jsonlines", "application/jsonlines"
        )
        answers += response["Body"].read().decode().splitlines()
    found[strategy.__name__] = answers
print(json.dumps(found))

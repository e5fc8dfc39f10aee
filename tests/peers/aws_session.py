"""A boto3 session whose calls go to the moto server of the environment, with the role that jobs run with."""

from __future__ import annotations

import json
from typing import Any

import boto3
from botocore.awsrequest import AWSResponse

ROLE = "arn:aws:iam::123456789012:role/trainer"


def open_session() -> Any:
    """Opens it, and makes the role."""
    session = boto3.Session(region_name="us-east-1")
    session.events.register("before-call.iam.SimulatePrincipalPolicy", _deny)
    trust = {"Effect": "Allow", "Principal": {"Service": "sagemaker.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    session.client("iam").create_role(RoleName=ROLE.split("/")[1], AssumeRolePolicyDocument=document)
    return session


def _deny(**_: Any) -> Any:
    """What IAM says to most users; moto has no answer to this call, by which SDK 3 checks the role."""
    error = {"Code": "AccessDenied", "Message": "not authorized to perform: iam:SimulatePrincipalPolicy"}
    return AWSResponse("", 403, {}, None), {"Error": error, "ResponseMetadata": {"HTTPStatusCode": 403}}

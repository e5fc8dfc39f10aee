"""Finds a DeepRacer job's files: in a bucket by their keys, else in channels, beside the code, or by path."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from runtime.container.layout import Container
from runtime.container.signals import StopRequest
from runtime.errors import UserError
from runtime.families.deepracer.job_files import JobFile, read_job_file
from runtime.families.deepracer.storage import Bucket

PLACES = ("s3_bucket", "s3_prefix", "aws_region")
_PARAMS_COME_WITHIN_S = 1200.0  # a notebook uploads them after it started this job


class Places:
    """The locations of one job's files.

    Attributes:
        bucket: Bucket that the hyperparameters name, or None.
        prefix: Prefix of the job's keys in the bucket.

    Args:
        values: Hyperparameters, PLACES among them.
        container: The job's container.
        scratch: Folder for what is downloaded.
    """

    def __init__(self, values: Mapping[str, Any], container: Container, scratch: Path) -> None:
        self._region = values.get("aws_region")
        self._container = container
        self._scratch = scratch
        self.bucket = self.open(values.get("s3_bucket"))
        self.prefix = values.get("s3_prefix", "").strip("/") or "sagemaker"

    def open(self, name: str | None) -> Bucket | None:
        """Opens the bucket of that name; the job's own if the name is empty."""
        if not name:
            return getattr(self, "bucket", None)
        return Bucket(name, endpoint=self._container.s3_endpoint, region=self._region)

    def params(self, asked: str | None, usual: str, *, is_training: bool, stop: StopRequest) -> JobFile:
        """Reads the job's YAML file; without a bucket, the file is optional.

        Args:
            asked: Key or path that a hyperparameter names.
            usual: Default name, if there is no such hyperparameter.
            is_training: Whether the defaults of a training or of an evaluation apply.
            stop: The stop request, which ends the wait for the file.
        """
        if self.bucket is None:
            found = self.find(asked or usual)
            if found is None and asked:
                raise UserError(f"{usual}: got {asked!r}; expected a file, in a channel or beside the code.")
            return JobFile({}, {}, (), ()) if found is None else read_job_file(found, is_training=is_training)
        key = asked or f"{self.prefix}/{usual}"
        if not self.bucket.wait_for(key, longest_s=_PARAMS_COME_WITHIN_S, stop=stop):
            raise UserError(
                f"s3://{self.bucket.name}/{key}: got no such file in {_PARAMS_COME_WITHIN_S:g} s; upload it, as the "
                "notebook does after it has started this job."
            )
        path = self._scratch / usual
        self.bucket.download(key, path)
        return read_job_file(path, is_training=is_training)

    def find(self, name: str) -> Path | None:
        """Finds a local file or folder: as named, in a channel, or beside the code."""
        return self._container.find_input(name)

    def fetch(self, asked: str | None, usual: str) -> Path | None:
        """Fetches a file by the key or path that is given, else by its default name if it has one."""
        if self.bucket is None:
            found = self.find(asked or Path(usual).name) or (None if asked else self.find(usual))
            if asked and found is None:
                raise UserError(f"{Path(usual).name}: got {asked!r}; expected a file, in a channel or beside the code.")
            return found
        usual_key = f"{self.prefix}/{usual}"
        key = asked or (usual_key if self.bucket.has(usual_key) else None)
        if key is None:
            return None
        path = self._scratch / Path(usual).name
        self.bucket.download(key, path)
        return path

    def checkpoint(self, bucket_name: str | None, prefix: str, *, is_best: bool, name: str) -> Path:
        """Downloads a training job's checkpoint; without a bucket, returns the folder of that name.

        Args:
            bucket_name: Bucket of the checkpoint; the job's own if None.
            prefix: Key prefix of the training job.
            is_best: Whether to take the best checkpoint, if there is one, rather than the last.
            name: Name of the folder to download to.
        """
        bucket = self.open(bucket_name)
        prefix = prefix.strip("/")
        if bucket is None:
            found = self.find(prefix)
            if found is None:
                raise UserError(f"model: got {prefix!r}; expected the results of a training, in a channel or by path.")
            return found
        for choice in ("best", "checkpoint") if is_best else ("checkpoint",):
            if bucket.download_tree(f"{prefix}/model/{choice}", self._scratch / name):
                return self._scratch / name
        raise UserError(
            f"s3://{bucket.name}/{prefix}/model: got no checkpoint of this program; expected one, as a training job "
            "uploads it. Checkpoints of the original simulator cannot be read."
        )

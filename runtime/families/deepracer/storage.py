"""Reads and writes files of DeepRacer jobs in S3, or in any service with an S3-compatible API."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from runtime.container.signals import StopRequest
from runtime.errors import PlatformError, UserError
from runtime.outputs.console import Reporter

_LOOK_EVERY_S = 2.0
_MISSING = ("404", "NoSuchKey", "NoSuchBucket")


class Bucket:
    """A bucket in S3.

    Args:
        name: Name of the bucket.
        endpoint: URL of the service, None for AWS's own.
        region: Region of the bucket, or None.
    """

    def __init__(self, name: str, *, endpoint: str | None, region: str | None) -> None:
        import boto3

        self.name = name
        try:
            self._client: Any = boto3.client("s3", endpoint_url=endpoint, region_name=region or "us-east-1")
        except ValueError as error:
            raise UserError(f"S3_ENDPOINT_URL: got {endpoint!r}; expected a URL ({error}).") from None

    def download(self, key: str, path: Path) -> None:
        """Downloads a file.

        Raises:
            UserError: There is no such file.
            PlatformError: The service cannot be reached, or refuses.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._call(lambda: self._client.download_file(self.name, key, str(path)), key)

    def wait_for(self, key: str, *, longest_s: float, stop: StopRequest) -> bool:
        """Waits for a file that a notebook uploads after it started the job; returns whether it exists."""
        until = time.monotonic() + longest_s
        while not self.has(key):
            if time.monotonic() > until or stop.is_set:
                return False
            time.sleep(_LOOK_EVERY_S)
        return True

    def has(self, key: str) -> bool:
        """Whether there is a file of that key."""
        try:
            self._call(lambda: self._client.head_object(Bucket=self.name, Key=key), key)
        except UserError:
            return False
        return True

    def download_tree(self, prefix: str, folder: Path) -> int:
        """Downloads every file below a prefix, and returns how many."""
        prefix = prefix.rstrip("/") + "/"
        count = 0
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix)
        for page in self._call(lambda: list(pages), prefix):
            for item in page.get("Contents", ()):
                relative = Path(item["Key"].removeprefix(prefix))
                if relative.is_absolute() or ".." in relative.parts or item["Key"].endswith("/"):
                    continue
                self.download(item["Key"], folder / relative)
                count += 1
        return count

    def upload(self, path: Path, key: str) -> None:
        """Uploads a file.

        Raises:
            PlatformError: The service cannot be reached, or refuses.
        """
        self._call(lambda: self._client.upload_file(str(path), self.name, key), key)

    def delete(self, key: str) -> None:
        """Deletes a file, if there is one.

        Raises:
            PlatformError: The service cannot be reached, or refuses.
        """
        self._call(lambda: self._client.delete_object(Bucket=self.name, Key=key), key)

    def _call(self, call: Any, key: str) -> Any:
        from boto3.exceptions import S3UploadFailedError
        from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

        try:
            return call()
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in _MISSING:
                raise UserError(f"s3://{self.name}/{key}: got no such file; upload it, or fix the key.") from None
            raise PlatformError(f"s3://{self.name}/{key}: {error}. Check the role's permissions.") from None
        except ParamValidationError as error:
            raise UserError(f"s3://{self.name}/{key}: {error}. Fix the bucket's name or the key.") from None
        except (BotoCoreError, S3UploadFailedError) as error:
            raise PlatformError(
                f"s3://{self.name}/{key}: {error}. Check the network, credentials and endpoint."
            ) from None


class Uploads:
    """Keeps a folder's files in S3 up to date.

    Args:
        folder: Folder of the files.
        places: Path or path prefix below the folder to bucket and key; the longest match counts.
    """

    def __init__(self, folder: Path, places: dict[str, tuple[Bucket, str]]) -> None:
        self._folder = folder
        self._places = places
        self._sent: dict[Path, tuple[int, int]] = {}

    def send(self) -> None:
        """Uploads what is new or changed."""
        for path in sorted(self._folder.rglob("*")):
            if not path.is_file():
                continue
            facts = path.stat()
            version = facts.st_mtime_ns, facts.st_size
            place = self._place_of(path.relative_to(self._folder).as_posix())
            if place is not None and self._sent.get(path) != version:
                place[0].upload(path, place[1])
                self._sent[path] = version

    def send_if_possible(self) -> None:
        """Uploads during training, which an outage must not end: a failed upload is retried at the next call.

        What was uploaded and is there no more, as the oldest model_N.pb, is deleted.
        """
        try:
            self.send()
            for path in [path for path in self._sent if not path.exists()]:
                del self._sent[path]  # first: a role that may not delete is noted once for each file
                if (place := self._place_of(path.relative_to(self._folder).as_posix())) is not None:
                    place[0].delete(place[1])
        except PlatformError as error:
            Reporter().note(f"not uploaded yet: {error}")

    def _place_of(self, relative: str) -> tuple[Bucket, str] | None:
        begins = [name for name in self._places if relative == name or relative.startswith(name) or not name]
        if not begins:
            return None
        name = max(begins, key=len)
        bucket, key = self._places[name]
        rest = relative.removeprefix(name)
        return bucket, f"{key}{rest}" if rest else key
